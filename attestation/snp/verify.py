"""Verification of SEV-SNP attestation reports (AMD 56860 "SEV Secure Nested Paging Firmware ABI", 57230 "VCEK
Certificate and KDS Interface Specification").

Groups and checks, in their order; a check with a star ends the list if it fails:

=================  ======================================================================================
``snp-report``     ``policy-section`` *: SNP evidence, and the policy has a section for it;
                   ``report-form`` *: 1184 bytes as laid out (``measurements.sev.report``);
                   ``signing-key`` *: VCEK or VLEK, and signing is not masked
``snp-chain``      ``key-certificate`` *: one for the kind of key, its extensions in order;
                   ``product`` *: from the CPU (version 3 and later) or the certificate (version 2);
                   ``chain`` *: to the pinned root of that product; ``chain-roles`` *: by name;
                   ``chain-validity``: all certificates hold now; ``crl``: not revoked, by lists at hand;
                   ``key-tcb``: the certificate's levels are the reported TCB;
                   ``key-chip``: the certificate's hardware id is the chip id, unless masked;
                   ``report-signature`` *: ECDSA P-384 with SHA-384 over bytes 0 to 0x29f
``snp-identity``   see ``attestation.snp.identity_checks``
``snp-guest``      see ``attestation.snp.guest_checks``
``snp-measured``   ``measurements``, ``report-data``: see ``attestation.measurement_sets``
``snp-tcb``        ``product-allowed`` *: the policy has floors for it; see ``attestation.snp.tcb_floors``
=================  ======================================================================================

Version 2 does not name the CPU, so the certificate does; a Turin that writes version 2 is refused, since that
version does not say which layout its TCB has. Certificates and lists are taken from evidence and collateral
alike: all are signed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import cryptography

from attestation.anchors import Anchors
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.measurement_sets import check_measurements, check_report_data
from attestation.platform_verification import PlatformFacts, PlatformVerification
from attestation.policy import Policy, SnpPolicy
from attestation.snp.chain_checks import CHAIN_CHECKS, check_chain
from attestation.snp.endorsement_key import EndorsementKey
from attestation.snp.findings import Findings
from attestation.snp.guest_checks import GUEST_CHECKS, check_guest
from attestation.snp.identity_checks import IDENTITY_CHECKS, check_identity
from attestation.snp.report_facts import registers_of, report_facts
from attestation.snp.tcb_floors import TCB_CHECKS, check_floors
from attestation.verdict import CheckFailedError, CheckList
from attestation.verdict_tree import groups_of
from measurements.sev.report import SigningKey, SnpReport, parse_report

REPORT_CHECKS = ("policy-section", "report-form", "signing-key")
FLOOR_CHECKS = ("product-allowed", *TCB_CHECKS)
MEASURED_CHECKS = ("measurements", "report-data")

_GROUPS = (
    ("snp-report", "attestation report", REPORT_CHECKS),
    ("snp-chain", "key that signed the report", CHAIN_CHECKS),
    ("snp-identity", "which machine", IDENTITY_CHECKS),
    ("snp-guest", "guest and platform settings", GUEST_CHECKS),
    ("snp-measured", "measured guest", MEASURED_CHECKS),
    ("snp-tcb", "security versions", FLOOR_CHECKS),
)


def verify_snp(
    evidence: EvidenceContainer, *, collateral: Collateral, anchors: Anchors, policy: Policy, now: int
) -> PlatformVerification:
    """Verify the report of ``evidence``; ``now`` is in seconds since 1970. Pure, and never raises for bad
    evidence or collateral: whatever is wrong with them is a failed check.
    """
    checks, findings = CheckList(), Findings()
    facts = None
    with suppress(CheckFailedError):
        facts = _verify(checks, findings, evidence, collateral, anchors, policy, now)
    verdict = checks.verdict()
    return PlatformVerification(
        groups=groups_of(_GROUPS, verdict),
        facts=facts if verdict.passed else None,
        windows=tuple(findings.windows),
        components=tuple(findings.components),
        chain=tuple(findings.links),
        versions=(("cryptography", cryptography.__version__),),
    )


def _verify(
    checks: CheckList,
    findings: Findings,
    evidence: EvidenceContainer,
    collateral: Collateral,
    anchors: Anchors,
    policy: Policy,
    now: int,
) -> PlatformFacts | None:
    section = _section(checks, evidence, policy)
    report = _read(checks, evidence.report)
    key = check_chain(
        checks,
        findings,
        data=evidence.report,
        report=report,
        material=_material(evidence, collateral),
        anchors=anchors,
        policy=section,
        now=now,
    )
    check_identity(checks, report, key, section)
    check_guest(checks, report, section)
    check_measurements(checks, registers_of(report), section.measurements)
    check_report_data(checks, report.report_data, policy.report_data)
    _check_floors(checks, findings, report, key, section)
    return report_facts(report, key, findings) if checks.verdict().passed else None


def _section(checks: CheckList, evidence: EvidenceContainer, policy: Policy) -> SnpPolicy:
    section = policy.snp if evidence.platform is EvidencePlatform.SNP else None
    checks.require(
        "policy-section",
        section is not None,
        expected="evidence of SEV-SNP, and a policy with a section [snp]",
        found=f"evidence of {evidence.platform.value}, sections {', '.join(sorted(policy.platforms))}",
        reason=f"the policy {policy.name} does not allow SNP reports, or this is none",
        advice="add a section [snp] to the policy if such machines are meant to be allowed",
    )
    assert section is not None
    return section


def _read(checks: CheckList, data: bytes) -> SnpReport:
    with checks.step("report-form", expected="a report of version 2, 3 or 5 as AMD lays it out"):
        report = parse_report(data)
    checks.require(
        "signing-key",
        report.signing_key is not SigningKey.NONE and not report.chip_key_masked,
        expected="VCEK or VLEK, signing not masked",
        found=report.signing_key.name + (", masked" if report.chip_key_masked else ""),
        reason="the firmware says that it did not sign the report (MASK_CHIP_KEY leaves it unsigned)",
        advice="ask the host's operator to unmask the chip's key, or to load a VLEK",
    )
    return report


def _material(evidence: EvidenceContainer, collateral: Collateral) -> Collateral:
    own = replace(evidence.collateral, certificates=evidence.certificates + evidence.collateral.certificates)
    return own.joined(collateral)


def _check_floors(
    checks: CheckList, findings: Findings, report: SnpReport, key: EndorsementKey, section: SnpPolicy
) -> None:
    floor = section.floors.get(key.product.value)
    checks.require(
        "product-allowed",
        floor is not None,
        expected=", ".join(sorted(section.floors)) or "none",
        found=key.product.value,
        reason=f"the policy has no floor for {key.product.label}, so it does not allow it",
        advice=f"add [snp.floors.{key.product.value}] to the policy if the product is meant to be allowed",
    )
    assert floor is not None
    findings.components += check_floors(checks, report, floor)
