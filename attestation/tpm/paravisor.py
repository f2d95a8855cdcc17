"""Which report data a TEE report must have where a paravisor stands between TEE and guest.

In Azure's confidential VMs report data belongs to the paravisor: a hash of the run-time data with the vTPM's
key (``attestation.tpm.hcl_report``). The guest's own occasion is in the qualifying data of the vTPM's quote,
which ``attestation.tpm.verify`` holds against the policy's list.
"""

from __future__ import annotations

from dataclasses import replace

from attestation.container import EvidenceContainer
from attestation.policy import AkProof, Allowed, Policy
from attestation.tpm.hcl_report import parse_hcl_report
from measurements.errors import FormatError


def policy_of_tee_report(evidence: EvidenceContainer, policy: Policy) -> Policy:
    """The policy for the evidence's TEE report. Where the policy has a section for TPMs that allows HCL
    reports, and the evidence has one, the only report data allowed is the one that goes with it. The TPM part
    is then part of the verdict, so the policy's own list is not gone round.
    """
    section, part = policy.tpm, evidence.tpm
    if section is None or AkProof.HCL_REPORT not in section.ak_proofs:
        return policy
    if part is None or part.hcl_report is None:
        return policy
    try:
        report = parse_hcl_report(part.hcl_report)
    except FormatError:
        return policy
    return replace(policy, report_data=Allowed(values=frozenset({report.report_data.hex()})))
