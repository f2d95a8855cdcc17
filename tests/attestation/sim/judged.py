"""Verdicts on simulated quotes, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attestation.anchors import Anchors, anchors_for
from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.verify import verify_dcap
from attestation.platform_verification import PlatformVerification
from attestation.policy import DcapPolicy, Policy
from attestation.sim.pki import SimPki
from attestation.sim.quote import SimEnclave, sgx_quote, sim_domain, td_quote
from attestation.sim.tcb import Tee
from attestation.verdict_tree import NOT_CHECKED
from measurements.tdx.quote import BodyType
from tests.support.policies import permissive_dcap, permissive_policy
from tests.support.sim_pki import NOW

SIM = EvidencePlatform.SIM


def policy_for(pki: SimPki, **changes: Any) -> Policy:
    """A permissive policy that trusts the PKI; ``changes`` are of its section."""
    section: DcapPolicy = replace(permissive_dcap(), **changes)
    return replace(permissive_policy(SIM, roots=[pki.anchor()]), sim=section)


def verify(
    pki: SimPki,
    quote: bytes | None = None,
    *,
    policy: Policy | None = None,
    collateral: Collateral | DcapCollateral | None = None,
    anchors: Anchors | None = None,
    platform: EvidencePlatform = SIM,
    now: int = NOW,
) -> PlatformVerification:
    """Verify a quote of a good domain, unless another is given, with the PKI's own collateral."""
    used = policy or policy_for(pki)
    given = Collateral(dcap=(collateral,)) if isinstance(collateral, DcapCollateral) else collateral
    return verify_dcap(
        EvidenceContainer(platform=platform, report=td_quote(pki, sim_domain()) if quote is None else quote),
        collateral=pki.collateral() if given is None else given,
        anchors=anchors or anchors_for(used),
        policy=used,
        now=now,
    )


def failed(pki: SimPki, quote: bytes | None = None, **given: Any) -> list[str]:
    """Names of the checks that were made and failed. A verdict that passed has facts, any other has none."""
    result = verify(pki, quote, **given)
    names = [
        check.name
        for group in result.groups
        for check in group.checks
        if not check.passed and check.found != NOT_CHECKED
    ]
    assert result.passed == (result.facts is not None) == (not names)
    return names


def found(result: PlatformVerification, name: str) -> str:
    """What a check found and why it failed."""
    (check,) = [one for group in result.groups for one in group.checks if one.name == name]
    return f"{check.found}: {check.reason}"


def status_of(pki: SimPki, quote: bytes | None = None) -> str:
    """Status in the facts of a quote that passes."""
    facts = verify(pki, quote).facts
    assert facts is not None
    return facts.details["tcb_status"]


def every_kind(pki: SimPki) -> dict[str, bytes]:
    """A quote of each kind."""
    later = sim_domain(version=BodyType.TDX_1_5)
    return {
        "version 3, SGX": sgx_quote(pki, SimEnclave(cpu_svn=pki.plan.platform.cpu_svn)),
        "version 4, TDX 1.0": td_quote(pki, sim_domain()),
        "version 5, TDX 1.0": td_quote(pki, sim_domain(), version=5),
        "version 5, TDX 1.5": td_quote(pki, later, version=5),
    }


def edited(pki: SimPki, change: Callable[[str], str], tee: Tee = Tee.TDX) -> DcapCollateral:
    """Collateral with TCB info whose text was changed before it was signed."""
    return pki.dcap(tee, tcb_info=change(pki.tcb_info(tee)))
