"""The keys of a policy's [tpm] section on every way of proving the attestation key, as in
``test_policy_enforced``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from attestation.collateral import Collateral
from attestation.policy import AkProof
from tests.attestation.test_policy_enforced import TPM_ROWS, changed, failed
from tests.attestation.tpm.test_generated_azure import machine as azure_machine
from tests.attestation.tpm.test_nitrotpm import BANK, SELECTION, document
from tests.attestation.tpm.test_nitrotpm import machine as aws_machine
from tests.attestation.tpm.test_nitrotpm import policy as aws_policy
from tests.support import nitro_pki
from tests.support.paper_tpm import NOW
from tests.support.policies import NONE, permissive_policy
from tests.support.tpm_containers import PaperMachine, container
from tests.support.whole_cases import WholeCase

WITHOUT: dict[str, Any] = {"ek_certificate": None, "activated_secret": None}


@cache
def certificate() -> WholeCase:
    """The cloud certified the key."""
    made = PaperMachine()
    evidence = container(made, made.part(ak_certificate=made.issue_ak(), **WITHOUT))
    return WholeCase(evidence=evidence, collateral=Collateral(), policy=made.policy(), now=NOW)


@cache
def hcl_report() -> WholeCase:
    """The paravisor vouches for the key."""
    made = azure_machine()
    case = WholeCase(evidence=made.evidence, collateral=made.collateral, policy=made.policy, now=made.now)
    loose = permissive_policy(*made.policy.platforms).tpm
    return replace(case, policy=replace(case.policy, tpm=loose))


@cache
def nitro_document() -> WholeCase:
    """The document names the key."""
    made = aws_machine()
    part = made.part(BANK, selections=SELECTION, nitro_document=document(), **WITHOUT)
    evidence = container(made, part)
    return WholeCase(evidence=evidence, collateral=Collateral(), policy=aws_policy(), now=nitro_pki.NOW)


CASES: dict[AkProof, Callable[[], WholeCase]] = {
    AkProof.AK_CERTIFICATE: certificate,
    AkProof.HCL_REPORT: hcl_report,
    AkProof.NITRO_DOCUMENT: nitro_document,
}
ROWS = [row for row in TPM_ROWS if row[0] != "activation_secrets"]


def unlogged(case: WholeCase) -> WholeCase:
    return replace(case, evidence=replace(case.evidence, logs=()))


@pytest.mark.parametrize("proof", CASES)
def test_a_proof_passes_where_it_is_allowed(proof: AkProof) -> None:
    case = unlogged(CASES[proof]())
    assert failed(changed(case, "tpm", ak_proofs=frozenset({proof}))) == set()
    others = frozenset(AkProof) - {proof}
    assert "ak-proof" in failed(changed(case, "tpm", ak_proofs=others))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}"[:30])
@pytest.mark.parametrize("proof", CASES)
def test_a_key_is_enforced_on_every_proof(proof: AkProof, row: tuple[str, Any, str]) -> None:
    key, value, check = row
    case = changed(unlogged(CASES[proof]()), "tpm", ak_proofs=frozenset({proof}))
    found = failed(changed(case, "tpm", **{key: value}))
    assert check in found
    assert found <= {check, "report-data"}  # without the HCL report the report data is the policy's


@pytest.mark.parametrize("proof", CASES)
def test_report_data_and_logs_on_every_proof(proof: AkProof) -> None:
    case = changed(unlogged(CASES[proof]()), "tpm", ak_proofs=frozenset({proof}))
    assert failed(replace(case, policy=replace(case.policy, report_data=NONE))) == {"report-data"}
    assert failed(changed(case, "tpm", event_log=True)) == {"event-log-present"}
