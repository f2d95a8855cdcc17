"""A policy held against verified evidence of a keyturn guest with a TPM, as a KMS does for an app's TCB rule.

Evidence, credential and event log are verified before (``attestation.tpm_evidence``); here each check asks
whether the policy allows what they establish. They have the meaning that they have in ``attestation.verify``:

====================  ===================================================================================
``platform-allowed``  the policy has a section for TPMs, and accepts evidence of a TPM alone
``parts``             it demands no GPUs, which this evidence does not have
``release-image``     no development image, unless the policy is for development
``report-data``       the report data is allowed; a KMS makes it fresh, so a policy for one says any
``app-hash``          the app is allowed
``ak-proof``          a credential is an accepted proof of the attestation key
``platform-root``     the EK certificate's root is one of the policy's for ``tpm-ek``
``platform-id``       the TPM is allowed
``pcr-coverage``      the registers that the policy wants quoted were quoted
``measurements``      the registers are those of one measurement set, or openly any
====================  ===================================================================================

Event logs are always demanded and replayed before. The secrets of the policy's ``activation-secrets`` are for
verifiers that read files: a KMS makes a credential of its own for each request.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from attestation.container import EvidencePlatform
from attestation.measurement_sets import check_measurements, check_report_data
from attestation.policy import AkProof, Environment, Policy, RootPurpose, TpmPolicy
from attestation.tpm.quote_checks import uncovered
from attestation.tpm_evidence import TpmFacts
from attestation.verdict import CheckFailedError, CheckList, Verdict
from measurements.reference_digest import PCRS

RULE_CHECKS = (
    "platform-allowed",
    "parts",
    "release-image",
    "report-data",
    "app-hash",
    "ak-proof",
    "platform-root",
    "platform-id",
    "pcr-coverage",
    "measurements",
)


def check_tpm_policy(
    policy: Policy, facts: TpmFacts, *, pcrs: Mapping[str, Mapping[int, bytes]], report_data: bytes
) -> Verdict:
    """The verdict of the policy on ``facts``; ``pcrs`` are the quoted registers by bank and index,
    ``report_data`` (64 bytes) what the quote binds. All checks are made if the first one passes.
    """
    checks = CheckList()
    with suppress(CheckFailedError):
        section = _section(checks, policy)
        _check_app(checks, policy, facts)
        check_report_data(checks, report_data, policy.report_data)
        _check_machine(checks, policy, section, facts)
        registers = {f"{bank}:{pcr}": value for bank, values in pcrs.items() for pcr, value in values.items()}
        _check_coverage(checks, section, registers)
        check_measurements(checks, registers, section.measurements)
    return checks.verdict()


def rule_defects(policy: Policy) -> tuple[str, ...]:
    """Why no evidence of a keyturn guest can ever meet ``policy``; empty if some can."""
    section = policy.tpm
    if section is None or EvidencePlatform.TPM not in policy.platforms:
        return ("it does not allow evidence of a TPM",)
    defects = {
        "it demands GPUs": policy.gpu is not None,
        "it lists report data, which a KMS makes anew for each request": not policy.report_data.any,
        "it allows no app": not (policy.app_hashes.any or policy.app_hashes.values),
        "it does not accept credentials as a proof": AkProof.CREDENTIAL not in section.ak_proofs,
        "it trusts no root for tpm-ek": all(one.purpose is not RootPurpose.TPM_EK for one in policy.roots),
        "it allows no TPM": not (section.platform_ids.any or section.platform_ids.values),
        "it demands registers that guests do not quote": bool(section.pcrs - set(PCRS)),
        "it allows no measurements": not (section.measurements.any or section.measurements.sets),
    }
    return tuple(text for text, present in defects.items() if present)


def _section(checks: CheckList, policy: Policy) -> TpmPolicy:
    allowed = policy.tpm is not None and EvidencePlatform.TPM in policy.platforms
    checks.require(
        "platform-allowed",
        allowed,
        expected="tpm among the platforms, and a section for it",
        found=f"platforms {', '.join(sorted(policy.platforms)) or 'none'}",
        reason=f"the policy {policy.name} does not allow evidence of a TPM alone",
        advice="add tpm to the policy's platforms if it is meant to be allowed",
    )
    assert policy.tpm is not None
    return policy.tpm


def _check_app(checks: CheckList, policy: Policy, facts: TpmFacts) -> None:
    checks.note(
        "parts",
        policy.gpu is None,
        expected="GPU evidence" if policy.gpu is not None else "a TPM's evidence and nothing else",
        found="a TPM's evidence and nothing else",
        reason="the policy demands GPUs, and evidence of keyturn's guests has none",
        advice="use a policy without the section gpu",
    )
    development = policy.environment is Environment.DEV
    checks.note(
        "release-image",
        development or not facts.release.dev,
        expected="an image of any kind" if development else "a release image",
        found="a development image" if facts.release.dev else "a release image",
        reason="whoever holds a development image can log in to it",
        advice="build without dev = true",
    )
    found = facts.release.app_hash.hex()
    checks.note(
        "app-hash",
        policy.app_hashes.holds(found),
        expected=str(policy.app_hashes),
        found=found,
        reason="the policy does not allow this app",
        advice="add the app's hash to the policy, if it is meant to be allowed",
    )


def _check_machine(checks: CheckList, policy: Policy, section: TpmPolicy, facts: TpmFacts) -> None:
    checks.note(
        "ak-proof",
        AkProof.CREDENTIAL in section.ak_proofs,
        expected=", ".join(sorted(section.ak_proofs)) or "none",
        found=AkProof.CREDENTIAL.value,
        reason="the attestation key was proven by a credential, which the policy does not accept",
        advice="add credential to the policy's ak-proofs",
    )
    roots = {one.fingerprint.hex() for one in policy.roots if one.purpose is RootPurpose.TPM_EK}
    root = facts.ek.platform_root.hex()
    checks.note(
        "platform-root",
        root in roots,
        expected=", ".join(sorted(roots)) or "none",
        found=root,
        reason="the TPM's certificate is of a maker that the policy does not trust",
        advice="add the root to the policy, with purpose tpm-ek, if it is meant to be trusted",
    )
    platform = facts.ek.platform_id.hex()
    checks.note(
        "platform-id",
        section.platform_ids.holds(platform),
        expected=str(section.platform_ids),
        found=platform,
        reason="the policy does not allow this TPM",
        advice="add its platform id to the policy, if it is meant to be allowed",
    )


def _check_coverage(checks: CheckList, section: TpmPolicy, registers: Mapping[str, bytes]) -> None:
    missing = uncovered(section, registers)
    checks.note(
        "pcr-coverage",
        not missing,
        expected=f"a quote over PCR {', '.join(map(str, sorted(section.pcrs))) or 'none'} "
        f"of {', '.join(sorted(section.banks)) or 'each bank quoted'}",
        found=f"none over {', '.join(missing)}" if missing else "all of them",
        reason="registers that the policy wants quoted are not in the quote",
        advice="demand registers that the guest quotes: PCR 0 to 14 of sha256 and sha384",
    )
