"""Report data of TEE reports below a paravisor: that of the HCL report, and only where it is judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.container import EvidencePlatform
from attestation.policy import AkProof
from attestation.tpm.paravisor import policy_of_tee_report
from tests.support.azure_evidence import AZURE, azure_container, unverified_facts
from tests.support.policies import only, permissive_policy

POLICY = replace(
    permissive_policy(EvidencePlatform.SNP, EvidencePlatform.TPM), report_data=only(b"challenge".hex())
)


@pytest.mark.parametrize("name", AZURE)
def test_the_report_data_is_that_of_the_run_time_data(name: str) -> None:
    evidence = azure_container(name)
    found = unverified_facts(evidence).report_data
    allowed = policy_of_tee_report(evidence, POLICY).report_data
    assert allowed == only(found.hex())
    assert replace(policy_of_tee_report(evidence, POLICY), report_data=POLICY.report_data) == POLICY


def test_the_policys_list_stays_where_no_hcl_report_is_judged() -> None:
    evidence = azure_container(AZURE[0])
    assert evidence.tpm is not None
    assert POLICY.tpm is not None
    others = frozenset(AkProof) - {AkProof.HCL_REPORT}
    for policy in (
        permissive_policy(EvidencePlatform.SNP),
        replace(POLICY, tpm=replace(POLICY.tpm, ak_proofs=others)),
    ):
        assert policy_of_tee_report(evidence, policy) == policy
    for part in (None, replace(evidence.tpm, hcl_report=None), replace(evidence.tpm, hcl_report=b"HCLA")):
        assert policy_of_tee_report(replace(evidence, tpm=part), POLICY) == POLICY
