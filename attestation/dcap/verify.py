"""Verification of DCAP quotes: TDX, SGX, and simulated TEEs under a root of their own.

Groups and their checks, in their order; what ends the list if it fails is said with each:

====================  ===================================================================================
``dcap-quote``        ``policy-section``: the policy has a section for the platform; ``quote-form``: a
                      whole quote and nothing else (``attestation.dcap.quote``); header checks (see
                      ``attestation.dcap.domain_checks``)
``dcap-domain``       attributes and certification, before any collateral is needed (same module)
``dcap-pck``          see ``attestation.dcap.pck``
``dcap-collateral``   see ``attestation.dcap.pick``, ``collateral_set`` and ``platform_checks``
``dcap-signatures``   see ``attestation.dcap.qe_checks``; ``quote-signature``
``dcap-tcb``          see ``attestation.dcap.tcb_checks``
``dcap-platform``     see ``attestation.dcap.identity_checks``
``dcap-measured``     ``measurements``, ``report-data``: see ``attestation.measurement_sets``
====================  ===================================================================================

What does not depend on the quote or the time is made once and kept by the bytes that it depends on: chains,
collateral, the quoting enclave's report, the TCB evaluation. Time is compared with the kept windows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial

import cryptography

from attestation.anchors import Anchors
from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.collateral_set import SET_CHECKS, VerifiedSet
from attestation.dcap.domain_checks import (
    DOMAIN_CHECKS,
    ENCLAVE_CHECKS,
    HEADER_CHECKS,
    check_body,
    check_header,
)
from attestation.dcap.facts import facts_of, registers_of
from attestation.dcap.identity_checks import IDENTITY_CHECKS, check_identity
from attestation.dcap.library import VERSION, library_verdict
from attestation.dcap.pck import PCK_CHECKS, Pck, read_pck
from attestation.dcap.pick import PICK_CHECKS, pick_set
from attestation.dcap.platform_checks import (
    PLATFORM_CHECKS,
    age_window,
    check_lists,
    check_platform,
    check_time,
)
from attestation.dcap.qe_checks import QE_CHECKS, Certified, check_qe
from attestation.dcap.quote import DcapQuote, TeeType, parse_dcap_quote
from attestation.dcap.tcb_checks import (
    LEVEL_CHECKS,
    MODULE_CHECKS,
    SIGNATURE_CHECKS,
    TCB_POLICY_CHECKS,
    check_level,
    check_library,
    check_module,
    check_signature,
    check_standing,
    explain,
    in_library_terms,
    platform_svns,
)
from attestation.measurement_sets import (
    MEASUREMENTS_CHECK,
    REPORT_DATA_CHECK,
    check_measurements,
    check_report_data,
)
from attestation.platform_verification import (
    ChainLink,
    Component,
    PlatformFacts,
    PlatformVerification,
    Window,
)
from attestation.policy import DcapPolicy, Policy, RootPurpose
from attestation.verdict import Check, CheckFailedError, CheckList, Verdict
from attestation.verdict_tree import groups_of
from measurements.errors import KeyturnError
from measurements.tdx.quote import TdBody

_VERSIONS = (("dcap-qvl", VERSION), ("cryptography", cryptography.__version__))
_SECTION = "evidence of tdx, sgx or sim, and a section of the policy for it"
_QUOTE = "a quote of version 3, 4 or 5 and nothing else"
_ALLOWED = Verdict(checks=(Check(name="policy-section", passed=True, expected=_SECTION, found=_SECTION),))
_WHOLE = Verdict(checks=(Check(name="quote-form", passed=True, expected=_QUOTE, found=_QUOTE),))
_PURPOSES = {
    EvidencePlatform.TDX: RootPurpose.INTEL_DCAP,
    EvidencePlatform.SGX: RootPurpose.INTEL_DCAP,
    EvidencePlatform.SIM: RootPurpose.SIM,
}


@dataclass(kw_only=True, slots=True)
class _Found:
    """What comes to light besides the checks."""

    enclave: bool = False
    windows: tuple[Window, ...] = ()
    components: tuple[Component, ...] = ()
    links: tuple[ChainLink, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """Everything that is given."""

    evidence: EvidenceContainer
    sets: tuple[DcapCollateral, ...]
    lists: tuple[bytes, ...]
    roots: frozenset[bytes]
    policy: Policy
    section: DcapPolicy
    now: int
    found: _Found = field(default_factory=_Found)


def verify_dcap(
    evidence: EvidenceContainer, *, collateral: Collateral, anchors: Anchors, policy: Policy, now: int
) -> PlatformVerification:
    """Verify the quote of ``evidence``; ``now`` is in seconds since 1970. Pure, and never raises for bad
    evidence or collateral: whatever is wrong with them is a failed check.
    """
    checks, found = CheckList(), _Found()
    found.enclave = evidence.platform is EvidencePlatform.SGX
    facts: Callable[[], PlatformFacts] | None = None
    with suppress(CheckFailedError):
        section = _section(checks, evidence, policy)
        case = _Case(
            evidence=evidence,
            sets=_sets(evidence.collateral.dcap, collateral.dcap),
            lists=(*evidence.collateral.crls, *collateral.crls),
            roots=anchors.fingerprints(_PURPOSES[evidence.platform]),
            policy=policy,
            section=section,
            now=now,
            found=found,
        )
        facts = _verify(checks, case)
    verdict = checks.verdict()
    return PlatformVerification(
        groups=groups_of(_groups(found.enclave), verdict),
        facts=facts() if facts is not None and verdict.passed else None,
        windows=found.windows,
        components=found.components,
        chain=found.links,
        versions=_VERSIONS,
    )


@lru_cache(maxsize=2)
def _groups(enclave: bool) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    module = () if enclave else MODULE_CHECKS
    return (
        ("dcap-quote", "quote", ("policy-section", "quote-form", *HEADER_CHECKS)),
        ("dcap-domain", "domain or enclave", ENCLAVE_CHECKS if enclave else DOMAIN_CHECKS),
        ("dcap-pck", "platform's certificate", PCK_CHECKS),
        ("dcap-collateral", "collateral", (*PICK_CHECKS, *SET_CHECKS, *PLATFORM_CHECKS)),
        ("dcap-signatures", "signatures", (*QE_CHECKS, *SIGNATURE_CHECKS)),
        ("dcap-tcb", "security versions", (*module, *LEVEL_CHECKS, *TCB_POLICY_CHECKS)),
        ("dcap-platform", "which machine", IDENTITY_CHECKS),
        ("dcap-measured", "measured domain or enclave", (MEASUREMENTS_CHECK, REPORT_DATA_CHECK)),
    )


def _section(checks: CheckList, evidence: EvidenceContainer, policy: Policy) -> DcapPolicy:
    platform = evidence.platform
    section: DcapPolicy | None = None
    if platform is EvidencePlatform.TDX:
        section = policy.tdx
    elif platform is EvidencePlatform.SGX:
        section = policy.sgx
    elif platform is EvidencePlatform.SIM:
        section = policy.sim
    if section is not None:
        checks.replay(_ALLOWED)
        return section
    checks.require(
        "policy-section",
        False,
        expected=_SECTION,
        found=f"evidence of {platform.value}, sections {', '.join(sorted(policy.platforms)) or 'none'}",
        reason=f"the policy {policy.name} does not allow quotes of {platform.value}, or this is none",
        advice=f"add a section [{platform.value}] to the policy if such machines are meant to be allowed",
    )
    raise AssertionError("a failed check ends the list")


def _sets(own: tuple[DcapCollateral, ...], given: tuple[DcapCollateral, ...]) -> tuple[DcapCollateral, ...]:
    return tuple(dict.fromkeys((*given, *own))) if own else given


def _other_lists(case: _Case, given: DcapCollateral) -> tuple[bytes, ...]:
    """All revocation lists at hand but those of the set that is used, each once."""
    others = [one for one in case.sets if one != given]
    if not others and not case.lists:
        return ()
    lists = (*(der for one in others for der in (one.pck_crl, one.root_ca_crl)), *case.lists)
    return tuple(der for der in dict.fromkeys(lists) if der not in (given.pck_crl, given.root_ca_crl))


def _verify(checks: CheckList, case: _Case) -> Callable[[], PlatformFacts]:
    """Makes all checks; gives the facts, which are for the case that all of them passed."""
    section, found = case.section, case.found
    quote = _read_quote(checks, case)
    pck = read_pck(quote.certification_data, case.roots).into(checks)
    found.windows, found.links = pck.chain.windows, pck.chain.links
    given, collateral = _collateral(checks, case, quote, pck)
    qe = check_qe(Certified.of(quote), pck.leaf_der, given.qe_identity).into(checks)
    svns = platform_svns(pck.machine, quote.body, qe)
    library = library_verdict(case.evidence.report, given, collateral.root_der, case.now, platform=svns)
    check_signature(checks, quote, library)
    found.components = explain(given.tcb_info, given.qe_identity, svns)
    body = quote.body
    if isinstance(body, TdBody):
        check_module(given.tcb_info, body.tee_tcb_svn, body.mrsignerseam, body.seam_attributes).into(checks)
    outcome = check_level(given.tcb_info, given.qe_identity, svns).into(checks)
    ours = in_library_terms(outcome, collateral.evaluation_number)
    check_library(checks, quote, library, ours, section)
    check_standing(checks, outcome, section, case.now)
    check_identity(checks, pck.machine, section)
    registers = registers_of(body)
    check_measurements(checks, registers, section.measurements)
    check_report_data(checks, quote.report_data, case.policy.report_data)
    return partial(facts_of, case.evidence.platform, quote, registers, pck, collateral, outcome)


def _read_quote(checks: CheckList, case: _Case) -> DcapQuote:
    try:
        quote = parse_dcap_quote(case.evidence.report)
    except KeyturnError:
        with checks.step("quote-form", expected=_QUOTE):
            raise
    checks.replay(_WHOLE)
    case.found.enclave = quote.header.tee_type == TeeType.SGX
    check_header(quote.header, case.evidence.platform).into(checks)
    check_body(quote, case.section).into(checks)
    return quote


def _collateral(
    checks: CheckList, case: _Case, quote: DcapQuote, pck: Pck
) -> tuple[DcapCollateral, VerifiedSet]:
    tee = TeeType(quote.header.tee_type).name
    given, kept = pick_set(
        checks, case.sets, tee=tee, fmspc=pck.machine.fmspc, roots=case.roots, now=case.now
    )
    collateral = kept.into(checks)
    joined = check_platform(quote.certification_data, given, case.roots).into(checks)
    check_lists(checks, pck, collateral, _other_lists(case, given))
    limit = age_window(collateral, case.section)
    case.found.windows, case.found.links = (*joined.windows, limit), joined.links
    check_time(checks, joined, collateral, case.section, case.now)
    return given, collateral
