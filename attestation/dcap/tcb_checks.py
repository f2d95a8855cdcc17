"""The platform's TCB: our evaluation, dcap-qvl's beside it, and what the policy allows.

======================  =================================================================================
check                   passes if
======================  =================================================================================
``quote-signature``     the attestation key signed header and body; ends the list
``tdx-module``          TDX: signer and attributes of the module are those of TCB info; ends the list
``tcb-level``           platform, module and quoting enclave each reach a published level; ends the list
``library-agrees``      dcap-qvl accepts the quote with the same status, advisories, date and evaluation
                        number; ends the list
``tcb-status``          the status is allowed, for good or until a date that is not over; Revoked never is
``tcb-date``            the date of platform, module and quoting enclave is not before the policy's
``advisories``          each is accepted and none is denied
======================  =================================================================================

dcap-qvl makes the check of the quote's signature; where it refuses the quote, ``cryptography`` makes it, so
that the check says what is true of the signature. The library refuses migratable domains and bound service
TDs in its last step and cannot be told to allow them: such a refusal, of what the policy openly allows, is no
disagreement, and then status, advisories and date are ours alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from attestation.dcap.collateral_set import qe_identity_of, tcb_info_of
from attestation.dcap.domain_checks import settings_of
from attestation.dcap.enclave_report import EnclaveReport
from attestation.dcap.kept import Kept, keep
from attestation.dcap.library import POLICY_REFUSALS, VERSION, LibraryVerdict
from attestation.dcap.pck_extension import PckExtension
from attestation.dcap.quote import DcapQuote
from attestation.dcap.signatures import signed_by_point
from attestation.dcap.tcb_components import components_of
from attestation.dcap.tcb_evaluation import (
    Evaluation,
    PlatformSvns,
    TcbError,
    evaluate,
    module_identity,
)
from attestation.dcap.tcb_info import ModuleIdentity
from attestation.platform_verification import Component
from attestation.policy import Allowed, DcapPolicy, GraceWindow, TcbStatus
from attestation.verdict import CheckList, Verdict
from measurements.tdx.quote import TdBody

SIGNATURE_CHECKS = ("quote-signature",)
MODULE_CHECKS = ("tdx-module",)
LEVEL_CHECKS = ("tcb-level",)
TCB_POLICY_CHECKS = ("library-agrees", "tcb-status", "tcb-date", "advisories")

_NONE: frozenset[TcbStatus] = frozenset()
_UPDATE = "ask the host's operator to update firmware, microcode and TDX module, and take a new quote"


def check_signature(checks: CheckList, quote: DcapQuote, library: LibraryVerdict) -> None:
    """``quote-signature``."""
    signed = library.accepted or signed_by_point(quote.attestation_key, quote.signature, quote.signed)
    checks.require(
        "quote-signature",
        signed,
        expected="signed by the attestation key",
        found="signed" if signed else "no valid signature",
        reason="the quote was changed after the platform signed it",
        advice="take the quote again from the platform's own driver",
    )


@lru_cache(maxsize=256)
def check_module(tcb_info: str, svn: bytes, signer: bytes, attributes: bytes) -> Kept[bool]:
    """``tdx-module``, kept: of a domain's ``tee_tcb_svn``, ``mrsignerseam`` and ``seam_attributes``."""

    def make(checks: CheckList) -> bool:
        with checks.step("tdx-module", expected="a TDX module that TCB info knows, by signer and attributes"):
            _compare(module_identity(tcb_info_of(tcb_info), svn), signer, attributes)
        return True

    return keep(make)


def _compare(module: ModuleIdentity, signer: bytes, attributes: bytes) -> None:
    """Attributes outside of the mask must be zero."""
    wanted = bytes(a & m for a, m in zip(module.attributes, module.attributes_mask, strict=True))
    if signer != module.mrsigner or attributes != wanted:
        raise TcbError(
            f"its signer is {signer.hex()} and its attributes are {attributes.hex()}, expected "
            f"{module.mrsigner.hex()} and {wanted.hex()}",
            subject="TDX module",
            advice="ask the host's operator to load Intel's production TDX module",
        )


@lru_cache(maxsize=256)
def check_level(tcb_info: str, identity: str, svns: PlatformSvns) -> Kept[Evaluation]:
    """``tcb-level``, kept: our evaluation."""

    def make(checks: CheckList) -> Evaluation:
        with checks.step("tcb-level", expected="a published level for each of platform, module and QE"):
            return evaluate(tcb_info_of(tcb_info), qe_identity_of(identity).levels, svns)

    return keep(make)


@lru_cache(maxsize=256)
def explain(tcb_info: str, identity: str, svns: PlatformSvns) -> tuple[Component, ...]:
    """Have and need of each component, kept."""
    return components_of(tcb_info_of(tcb_info), qe_identity_of(identity).levels, svns)


def platform_svns(machine: PckExtension, body: TdBody | EnclaveReport, qe: EnclaveReport) -> PlatformSvns:
    """All security versions of one quote."""
    domain = body if isinstance(body, TdBody) else None
    return PlatformSvns(
        sgx=machine.components,
        pce_svn=machine.pce_svn,
        tdx=domain.tee_tcb_svn if domain else None,
        current=domain.tee_tcb_svn_2 if domain else None,
        qe_isv_svn=qe.isv_svn,
    )


def check_library(
    checks: CheckList, quote: DcapQuote, library: LibraryVerdict, ours: LibraryVerdict, policy: DcapPolicy
) -> None:
    """``library-agrees``; ``ours`` is our own evaluation in the library's terms."""
    allowed = not library.accepted and library.refusal in _allowed_refusals(quote, policy)
    expected, found = _words(ours), _words(library)
    checks.require(
        "library-agrees",
        library == ours or allowed,
        expected=expected,
        found=found,
        reason=f"dcap-qvl {VERSION} says: {found}; and this verifier: {expected}",
        advice="report the disagreement, with evidence and collateral, and trust neither",
    )


@lru_cache(maxsize=256)
def _words(verdict: LibraryVerdict) -> str:
    return str(verdict)


@lru_cache(maxsize=256)
def in_library_terms(outcome: Evaluation, number: int) -> LibraryVerdict:
    """Our evaluation as the library would give it; ``number`` is the evaluation number."""
    standing = outcome.standing
    return LibraryVerdict(
        status=standing.status.value,
        advisories=frozenset(standing.advisories),
        date=standing.date,
        evaluation_number=number,
    )


def _allowed_refusals(quote: DcapQuote, policy: DcapPolicy) -> tuple[str, ...]:
    """Refusals of the library that are about what the domain has and the policy openly allows."""
    body = quote.body
    if not isinstance(body, TdBody):
        return ()
    domain = settings_of(body)
    migratable = policy.migratable and domain.migratable
    bound = bool(domain.service_tds) or domain.more_service_tds
    return (
        *(POLICY_REFUSALS["migratable"] if migratable else ()),
        *(POLICY_REFUSALS["service-td"] if bound else ()),
    )


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a policy says of TCBs; ``in_grace`` are statuses whose windows are open now."""

    statuses: frozenset[TcbStatus]
    grace: tuple[GraceWindow, ...]
    in_grace: frozenset[TcbStatus]
    min_tcb_date: int
    accepted: Allowed
    denied: frozenset[str]


def check_standing(checks: CheckList, ours: Evaluation, policy: DcapPolicy, now: int) -> None:
    """What the policy allows of the outcome, kept."""
    rules = _Rules(
        policy.statuses,
        policy.grace,
        _NONE.union(*(one.statuses for one in policy.grace if now <= one.until)) if policy.grace else _NONE,
        policy.min_tcb_date,
        policy.advisories_accepted,
        policy.advisories_denied,
    )
    checks.replay(_standing(ours, rules), ends=False)


@lru_cache(maxsize=256)
def _standing(ours: Evaluation, rules: _Rules) -> Verdict:
    checks, standing = CheckList(), ours.standing
    status, date = standing.status, min(standing.date, ours.qe_level.standing.date)
    checks.note(
        "tcb-status",
        status is not TcbStatus.REVOKED and status in rules.statuses | rules.in_grace,
        expected=_statuses(rules),
        found=status.value,
        reason=f"the platform's TCB is {status.value}, which the policy does not allow"
        + (" any more" if any(status in one.statuses for one in rules.grace) else ""),
        advice=_UPDATE,
    )
    checks.note(
        "tcb-date",
        date >= rules.min_tcb_date,
        expected=f"not before {iso_date(rules.min_tcb_date)}",
        found=iso_date(date),
        reason="a level of platform, module or quoting enclave is of before the policy's date",
        advice=_UPDATE,
    )
    refused = [one for one in standing.advisories if not rules.accepted.holds(one) or one in rules.denied]
    checks.note(
        "advisories",
        not refused,
        expected=f"accepted: {rules.accepted}; denied: {', '.join(sorted(rules.denied)) or 'none'}",
        found=", ".join(standing.advisories) or "none",
        reason=f"the platform is open to {', '.join(refused)}",
        advice=_UPDATE,
    )
    return checks.verdict()


def _statuses(rules: _Rules) -> str:
    lasting = ", ".join(sorted(rules.statuses)) or "none"
    for_now = [f"{', '.join(sorted(one.statuses))} until {iso_date(one.until)}" for one in rules.grace]
    return "; ".join([lasting, *for_now])


@lru_cache(maxsize=256)
def iso_date(seconds: int) -> str:
    """``2024-03-13T00:00:00Z``; the number itself for a moment that calendars do not have."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds after 1970"
