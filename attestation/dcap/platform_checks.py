"""Whether collateral is of the quote's platform, holds now, and revokes nothing of it.

========================  ===============================================================================
check                     passes if
========================  ===============================================================================
``same-root``             quote and collateral hang on one root
``pck-crl-issuer``        the PCK CRL is of the CA that issued the PCK
``pck-not-revoked``       neither the PCK certificate nor its CA is revoked
``pce-id``                TCB info is of the quote's PCE (and FMSPC, by which it was picked)
``lists-at-hand``         no list at hand, in whichever set and however old, revokes one of the certificates:
                          revocation is final, and another set may have been preferred
``collateral-windows``    all certificates, lists, TCB info and QE identity hold now
``evaluation-number``     TCB evaluation data number at or above the policy's floor; does not end the list
``collateral-age``        the oldest part is not older than the policy allows; does not end the list
========================  ===============================================================================

All others end the list if they fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cryptography import x509

from attestation.collateral import DcapCollateral
from attestation.dcap.collateral_set import VerifiedSet, check_revocation, check_set
from attestation.dcap.kept import Kept, keep
from attestation.dcap.pck import Pck, read_pck
from attestation.limited_cache import limited_cache
from attestation.platform_verification import ChainLink, Window
from attestation.policy import DcapPolicy
from attestation.verdict import Check, CheckList, Verdict
from attestation.x509_chain import CertificateError, Chain, check_windows, load_revocation_list, refuse

PLATFORM_CHECKS = (
    "same-root",
    "pck-crl-issuer",
    "pck-not-revoked",
    "pce-id",
    "lists-at-hand",
    "collateral-windows",
    "evaluation-number",
    "collateral-age",
)
MAX_LISTS = 128
"""Most revocation lists at hand."""
AGE_WINDOW = "age limit of the collateral"

_INSIDE = "now inside of every window"
_IN_TIME = Verdict(checks=(Check(name="collateral-windows", passed=True, expected=_INSIDE, found=_INSIDE),))
_NOT_REVOKED = "no list at hand revokes a certificate that is used"
_FETCH = "fetch collateral again: keyturn collateral fetch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """Windows and links of quote and collateral together. All windows hold from ``start`` to ``end``."""

    windows: tuple[Window, ...]
    links: tuple[ChainLink, ...]
    start: int
    end: int


@limited_cache(maxsize=64, largest=256 << 10)
def check_platform(chain: bytes, given: DcapCollateral, roots: frozenset[bytes]) -> Kept[Joined]:
    """Checks that depend on neither quote nor time, kept; both parts must have passed on their own. Gives all
    windows and links.
    """
    pck, found = read_pck(chain, roots).value, check_set(given, roots).value
    assert pck is not None
    assert found is not None
    return keep(lambda checks: _check(checks, pck, found))


def _check(checks: CheckList, pck: Pck, found: VerifiedSet) -> Joined:
    checks.equal(
        "same-root",
        expected=pck.chain.fingerprint,
        found=found.authority.fingerprint,
        reason="quote and collateral hang on different roots",
        advice=_FETCH,
    )
    issuer, authority = pck.authority, found.authority.leaf
    same = issuer.subject == authority.subject and issuer.public_key() == authority.public_key()
    checks.require(
        "pck-crl-issuer",
        same,
        expected=pck.chain.links[1].subject,
        found=found.authority.links[0].subject,
        reason="the PCK CRL is of another CA than the one that issued the PCK certificate",
        advice=_FETCH,
    )
    with checks.step("pck-not-revoked", expected="on no list"):
        check_revocation((pck.chain,), found.root_crl)
        if pck.chain.leaf.serial_number in found.pck_crl.serials:
            refuse("the PCK certificate is revoked: the platform's keys are not trusted any more")
    checks.equal(
        "pce-id",
        expected=pck.machine.pce_id,
        found=found.tcb_info.pce_id,
        reason="TCB info is of another provisioning certification enclave",
        advice=_FETCH,
    )
    links = (
        ChainLink(subject="QE report", issuer=pck.chain.links[0].subject),
        ChainLink(subject="attestation key", issuer="QE report"),
        ChainLink(subject="quote", issuer="attestation key"),
        *pck.chain.links,
        *found.links,
    )
    windows = tuple(dict.fromkeys((*found.windows, *pck.chain.windows)))
    return Joined(
        windows=windows,
        links=tuple(dict.fromkeys(links)),
        start=max(one.start for one in windows),
        end=min(one.end for one in windows),
    )


def check_lists(checks: CheckList, pck: Pck, found: VerifiedSet, lists: Sequence[bytes]) -> None:
    """``lists-at-hand``: of lists (DER) beside those in the set, which were applied before."""
    with checks.step("lists-at-hand", expected=_NOT_REVOKED):
        if len(lists) > MAX_LISTS:
            refuse(f"more than {MAX_LISTS} revocation lists are at hand")
        issued = _issued((pck.chain, *found.signers, found.authority)) if lists else {}
        for der in lists:
            for authority, certificates in issued.items():
                with suppress(CertificateError):
                    serials = load_revocation_list(der, authority, what="list at hand").serials
                    revoked = [one for one in certificates if one.serial_number in serials]
                    break
            else:
                continue
            if revoked:
                refuse(f"{revoked[0].subject.rfc4514_string()} is revoked by a list that is at hand")


def _issued(chains: Iterable[Chain]) -> dict[bytes, list[x509.Certificate]]:
    """The certificates that each authority (DER) issued; a root issued itself."""
    found: dict[bytes, list[x509.Certificate]] = {}
    for chain in chains:
        for certificate, authority in zip(chain.certificates, (*chain.ders[1:], chain.ders[-1]), strict=True):
            found.setdefault(authority, []).append(certificate)
    return found


def check_time(checks: CheckList, joined: Joined, found: VerifiedSet, policy: DcapPolicy, now: int) -> None:
    """Checks of now and of the policy's floors."""
    if joined.start <= now <= joined.end:
        checks.replay(_IN_TIME)
    else:
        with checks.step("collateral-windows", expected=_INSIDE):
            check_windows(joined.windows, now)
    number = found.evaluation_number
    checks.note(
        "evaluation-number",
        number >= policy.min_evaluation_number,
        expected=f"at least {policy.min_evaluation_number}",
        found=str(number),
        reason="the collateral is of an earlier TCB recovery than the policy demands",
        advice=_FETCH,
    )
    age = now - found.oldest_issue
    checks.note(
        "collateral-age",
        age <= policy.max_collateral_age,
        expected=f"at most {policy.max_collateral_age} seconds",
        found=f"{age} seconds",
        reason="the collateral is older than the policy allows",
        advice=_FETCH,
    )


def age_window(found: VerifiedSet, policy: DcapPolicy) -> Window:
    """When the policy's age limit is met."""
    end = found.oldest_issue + policy.max_collateral_age
    return Window(name=AGE_WINDOW, start=found.oldest_issue, end=end)
