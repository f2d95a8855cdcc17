"""Verification of one machine's evidence on any platform: the platform's verifier, then what goes with it.

A pure function of evidence, collateral, trust anchors, policy and time. Groups, in their order:

=================  ======================================================================================
``policy``         ``platform-allowed``: the policy lists the evidence's platform; ``parts``: the evidence
                   has the parts that the policy demands beside the report, and no part that it says
                   nothing about
platform's own     see the verifiers of ``attestation.dcap``, ``snp``, ``nitro``
TPM's own          see ``attestation.tpm``; given the facts of the platform's report, if there is one
``event-logs``     see ``attestation.event_logs``; against the registers of the verified reports
``app``            see ``attestation.app_checks``; from runtime events that yield the register
GPU's own          see ``attestation.nvidia``; bound to report data that the guest chose
=================  ======================================================================================

A part whose platform failed is still verified as far as that makes sense, so that a person sees all that is
wrong; what needs verified facts then fails as not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import cryptography

from attestation.anchors import Anchors
from attestation.app_checks import APP_CHECKS, check_app
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.verify import verify_dcap
from attestation.event_logs import judge_logs, log_checks
from attestation.evidence_verdict import EvidenceVerdict
from attestation.nitro.verify import verify_nitro
from attestation.nvidia.verify import verify_gpus
from attestation.platform_verification import PlatformFacts, PlatformVerification
from attestation.policy import Policy
from attestation.snp.verify import verify_snp
from attestation.tpm.paravisor import policy_of_tee_report
from attestation.tpm.verify import verify_tpm
from attestation.verdict import CheckFailedError, CheckList, Verdict
from attestation.verdict_tree import Group, group_of
from measurements.version import VERSION

_VERSIONS = (("keyturn", VERSION), ("cryptography", cryptography.__version__))
_Item = TypeVar("_Item")

POLICY_CHECKS = ("platform-allowed", "parts")

_VERIFIERS = {
    EvidencePlatform.TDX: verify_dcap,
    EvidencePlatform.SGX: verify_dcap,
    EvidencePlatform.SIM: verify_dcap,
    EvidencePlatform.SNP: verify_snp,
    EvidencePlatform.NITRO: verify_nitro,
}


def verify_evidence(
    evidence: EvidenceContainer, *, collateral: Collateral, anchors: Anchors, policy: Policy, now: int
) -> EvidenceVerdict:
    """Make all checks; never raises for bad evidence or collateral."""
    outer = CheckList()
    parts: list[PlatformVerification] = []
    groups: list[Group] = []
    try:
        _check_policy(outer, evidence, policy)
        groups.append(group_of("policy", "policy", POLICY_CHECKS, outer.verdict()))
    except CheckFailedError:
        groups.append(group_of("policy", "policy", POLICY_CHECKS, outer.verdict()))
        return _verdict(evidence, policy, now, groups, parts)
    verifier = _VERIFIERS.get(evidence.platform)
    own = policy_of_tee_report(evidence, policy)
    tee: PlatformFacts | None = None
    if verifier is not None:
        report = verifier(evidence, collateral=collateral, anchors=anchors, policy=own, now=now)
        parts.append(report)
        tee = report.facts
    if evidence.tpm is not None:
        parts.append(
            verify_tpm(evidence, collateral=collateral, anchors=anchors, policy=policy, now=now, tee=tee)
        )
    groups += [group for part in parts for group in part.groups]
    groups += _logs_and_app(evidence, policy, parts)
    if evidence.gpus:
        cpu = _guest_facts(parts, below_paravisor=own is not policy)
        gpus = verify_gpus(evidence, collateral=collateral, anchors=anchors, policy=policy, now=now, cpu=cpu)
        parts.append(gpus)
        groups += gpus.groups
    return _verdict(evidence, policy, now, groups, parts)


def _guest_facts(parts: list[PlatformVerification], *, below_paravisor: bool) -> PlatformFacts | None:
    """Facts of the part whose report data the guest itself chose: the platform's report, but the TPM's quote
    where a paravisor has the report's.
    """
    return parts[-1 if below_paravisor else 0].facts if parts else None


def _check_policy(checks: CheckList, evidence: EvidenceContainer, policy: Policy) -> None:
    allowed = ", ".join(sorted(policy.platforms)) or "none"
    checks.require(
        "platform-allowed",
        evidence.platform in policy.platforms,
        expected=f"a platform of the policy: {allowed}",
        found=evidence.platform.value,
        reason=f"the policy {policy.name} does not allow evidence of {evidence.platform.value}",
        advice="add the platform and its section to the policy if it is meant to be allowed",
    )
    wrong = _wrong_parts(evidence, policy)
    checks.require(
        "parts",
        not wrong,
        expected="a report, and every part for which the policy has a section, and no other",
        found="; ".join(wrong) or "as expected",
        reason="the evidence lacks a part that the policy demands, or has one that nothing checks",
        advice="take the evidence with all its parts, or change the policy's [tpm] and [gpu] sections",
    )


def _wrong_parts(evidence: EvidenceContainer, policy: Policy) -> list[str]:
    lonely = evidence.platform is EvidencePlatform.TPM
    wrong = []
    if lonely == bool(evidence.report):
        wrong.append("a report beside a TPM's evidence" if lonely else "no report")
    if (evidence.tpm is None) != (policy.tpm is None):
        wrong.append("no TPM part" if evidence.tpm is None else "a TPM part")
    if bool(evidence.gpus) != (policy.gpu is not None):
        wrong.append("GPU evidence" if evidence.gpus else "no GPU evidence")
    return wrong


def _logs_and_app(
    evidence: EvidenceContainer, policy: Policy, parts: list[PlatformVerification]
) -> list[Group]:
    """Logs are held against registers that were verified, or not at all."""
    registers = {
        name: value
        for part in parts
        if part.facts is not None
        for name, value in part.facts.registers.items()
    }
    verified = bool(parts) and all(part.facts is not None for part in parts)
    groups = []
    if evidence.logs:
        logs = judge_logs(evidence, registers) if verified else Verdict(checks=())
        groups.append(group_of("event-logs", "event logs", log_checks(evidence), logs))
        verified = verified and logs.passed
    checks = CheckList()
    if verified:
        with suppress(CheckFailedError):
            check_app(checks, evidence, policy)
    return [*groups, group_of("app", "app", APP_CHECKS, checks.verdict())]


def _verdict(
    evidence: EvidenceContainer,
    policy: Policy,
    now: int,
    groups: list[Group],
    parts: list[PlatformVerification],
) -> EvidenceVerdict:
    passed = all(group.passed for group in groups)
    facts = tuple(part.facts for part in parts if part.facts is not None)
    return EvidenceVerdict(
        groups=tuple(groups),
        facts=facts if passed else (),
        evidence=evidence,
        policy=policy,
        development=policy.environment == "dev" or any(one.development for one in facts),
        now=now,
        windows=_once([part.windows for part in parts]),
        components=tuple(one for part in parts for one in part.components),
        chain=_once([part.chain for part in parts]),
        versions=_once([_VERSIONS, *(part.versions for part in parts)]),
    )


def _once(lists: Sequence[tuple[_Item, ...]]) -> tuple[_Item, ...]:
    """All items in their order, each once; one list is taken as it is."""
    if len(lists) == 1:
        return lists[0]
    return tuple(dict.fromkeys(item for items in lists for item in items))
