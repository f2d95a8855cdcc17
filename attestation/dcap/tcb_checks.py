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

from datetime import UTC, datetime
from functools import lru_cache

from attestation.dcap.collateral_set import qe_identity_of, tcb_info_of
from attestation.dcap.domain_checks import has_service_td_extension, is_migratable, service_tds
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
from attestation.policy import DcapPolicy, TcbStatus
from attestation.verdict import CheckList
from measurements.tdx.quote import TdBody

SIGNATURE_CHECKS = ("quote-signature",)
MODULE_CHECKS = ("tdx-module",)
LEVEL_CHECKS = ("tcb-level",)
TCB_POLICY_CHECKS = ("library-agrees", "tcb-status", "tcb-date", "advisories")

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
    checks: CheckList,
    quote: DcapQuote,
    ours: Evaluation,
    number: int,
    library: LibraryVerdict,
    policy: DcapPolicy,
) -> None:
    """``library-agrees``; ``number`` is the evaluation number that we found."""
    standing = ours.standing
    allowed = library.refusal in _allowed_refusals(quote, policy)
    same = (
        library.accepted
        and library.status == standing.status
        and library.advisories == frozenset(standing.advisories)
        and library.date == iso_date(standing.date)
        and library.evaluation_number == number
    )
    advisories = ", ".join(standing.advisories) or "none"
    expected = f"{standing.status}, advisories {advisories}, {iso_date(standing.date)}, evaluation {number}"
    checks.require(
        "library-agrees",
        same or allowed,
        expected=expected,
        found=expected if same else _shown(library),
        reason=f"dcap-qvl {VERSION} and this verifier disagree: {_shown(library)}; and here {expected}",
        advice="report the disagreement, with evidence and collateral, and trust neither",
    )


def _allowed_refusals(quote: DcapQuote, policy: DcapPolicy) -> tuple[str, ...]:
    """Refusals of the library that are about what the domain has and the policy openly allows."""
    body = quote.body
    if not isinstance(body, TdBody):
        return ()
    migratable = policy.migratable and is_migratable(body)
    bound = bool(service_tds(body)) or has_service_td_extension(body)
    return (
        *(POLICY_REFUSALS["migratable"] if migratable else ()),
        *(POLICY_REFUSALS["service-td"] if bound else ()),
    )


def _shown(library: LibraryVerdict) -> str:
    if not library.accepted:
        return f"it refuses the quote ({library.refusal})"
    advisories = ", ".join(sorted(library.advisories)) or "none"
    return (
        f"{library.status}, advisories {advisories}, {library.date}, evaluation {library.evaluation_number}"
    )


def check_standing(checks: CheckList, ours: Evaluation, policy: DcapPolicy, now: int) -> None:
    """What the policy allows of the outcome."""
    status = ours.standing.status
    grace = [one.until for one in policy.grace if status in one.statuses]
    checks.note(
        "tcb-status",
        status is not TcbStatus.REVOKED
        and (status in policy.statuses or any(now <= until for until in grace)),
        expected=_statuses(policy),
        found=status.value,
        reason=f"the platform's TCB is {status.value}, which the policy does not allow"
        + (" any more" if grace else ""),
        advice=_UPDATE,
    )
    date = min(ours.standing.date, ours.qe_level.standing.date)
    checks.note(
        "tcb-date",
        date >= policy.min_tcb_date,
        expected=f"not before {iso_date(policy.min_tcb_date)}",
        found=iso_date(date),
        reason="a level of platform, module or quoting enclave is of before the policy's date",
        advice=_UPDATE,
    )
    refused = [one for one in ours.standing.advisories if not _advisory_allowed(one, policy)]
    checks.note(
        "advisories",
        not refused,
        expected=f"accepted: {policy.advisories_accepted}; denied: "
        + (", ".join(sorted(policy.advisories_denied)) or "none"),
        found=", ".join(ours.standing.advisories) or "none",
        reason=f"the platform is open to {', '.join(refused)}",
        advice=_UPDATE,
    )


def _advisory_allowed(advisory: str, policy: DcapPolicy) -> bool:
    return policy.advisories_accepted.holds(advisory) and advisory not in policy.advisories_denied


def _statuses(policy: DcapPolicy) -> str:
    lasting = ", ".join(sorted(policy.statuses)) or "none"
    for_now = [f"{', '.join(sorted(one.statuses))} until {iso_date(one.until)}" for one in policy.grace]
    return "; ".join([lasting, *for_now])


@lru_cache(maxsize=256)
def iso_date(seconds: int) -> str:
    """``2024-03-13T00:00:00Z``."""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
