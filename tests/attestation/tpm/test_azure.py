"""Azure's confidential VMs: real evidence of three of them through the HCL report, and what is refused.

The facts of the TEE reports are read from the reports here; that those reports hold is for the tests of
their own verifiers.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from attestation.platform_verification import PlatformFacts
from attestation.policy import AkProof, Measurements, MeasurementSet, Policy
from attestation.tpm.ak_public import hierarchy_of, standard_ak_public
from attestation.tpm_structures import HashAlgorithm, Selection, parse_public, parse_quote
from measurements.sev.report import parse_report
from tests.support.azure_evidence import (
    AZURE,
    SNP_GENOA,
    SNP_MILAN,
    TDX,
    azure_container,
    registers,
    rsassa,
    unverified_facts,
)
from tests.support.policies import only, permissive_policy
from tests.support.tpm_containers import failures, verify
from tests.support.vectors import vector

NOW = 1767225600
CHALLENGE = b"challenge"


def policy_for(facts: PlatformFacts) -> Policy:
    """A policy that pins the paravisor: the launch measurement, or MRTD."""
    name = "mrtd" if facts.platform is EvidencePlatform.TDX else "measurement"
    pinned = MeasurementSet(name="paravisor", registers={name: facts.registers[name]})
    measurements = Measurements(sets=(pinned,))
    policy = permissive_policy(EvidencePlatform.SNP, EvidencePlatform.TDX, EvidencePlatform.TPM)
    assert policy.snp is not None
    assert policy.tdx is not None
    return replace(
        policy,
        snp=replace(policy.snp, measurements=measurements),
        tdx=replace(policy.tdx, measurements=measurements),
    )


def outcome(
    evidence: EvidenceContainer, tee: PlatformFacts | None, policy: Policy | None = None
) -> list[str]:
    usual = policy_for(unverified_facts(azure_container(SNP_MILAN)))
    return failures(verify(evidence, policy or (policy_for(tee) if tee else usual), now=NOW, tee=tee))


@pytest.mark.parametrize("name", AZURE)
def test_real_evidence_passes(name: str) -> None:
    evidence = azure_container(name)
    tee = unverified_facts(evidence)
    result = verify(evidence, policy_for(tee), now=NOW, tee=tee)
    assert failures(result) == []
    facts = result.facts
    assert facts is not None
    assert facts.details["ak_hierarchy"] == "endorsement"
    assert facts.details["azure_secure_boot"] == "true"
    assert len(facts.registers) == 24
    assert facts.report_data == CHALLENGE or name == SNP_GENOA


@pytest.mark.parametrize("name", AZURE)
def test_real_evidence_needs_its_own_verified_report(name: str) -> None:
    evidence = azure_container(name)
    assert outcome(evidence, None) == ["hcl-tee-report"]
    for other in set(AZURE) - {name}:
        tee = unverified_facts(azure_container(other))
        both_snp = TDX not in (name, other)
        assert outcome(evidence, tee) == ["hcl-report-data" if both_snp else "hcl-tee-report"]
    tee = unverified_facts(evidence)
    other_data = replace(tee, report_data=tee.report_data[:32] + b"\1" + bytes(31))
    assert outcome(evidence, other_data) == ["hcl-report-data"]
    assert outcome(replace(evidence, report=evidence.report[:-1] + b"\xff"), tee) == ["hcl-tee-report"]


@pytest.mark.parametrize("at", [48 + 8, 48 + 136, 48 + 184, 48 + 328, 48 + 520])
def test_a_td_report_of_another_domain_is_refused(at: int) -> None:
    """Report data, TCB, attributes, MRTD and RTMRs of the quote, whose own verifier is not asked here."""
    evidence = azure_container(TDX)
    quote = evidence.report[:at] + bytes([evidence.report[at] ^ 1]) + evidence.report[at + 1 :]
    assert outcome(replace(evidence, report=quote), unverified_facts(evidence)) == ["hcl-tee-report"]


def test_a_machine_of_any_measurement_may_be_its_own_paravisor() -> None:
    """Without Azure's paravisor the guest chooses the report data, and so the key."""
    evidence = azure_container(SNP_MILAN)
    tee = unverified_facts(evidence)
    loose = permissive_policy(EvidencePlatform.SNP, EvidencePlatform.TPM)
    assert outcome(evidence, tee, loose) == ["hcl-paravisor"]
    assert loose.snp is not None
    signer = parse_report(evidence.report).id_key_digest.hex()
    assert any(bytes.fromhex(signer))
    signed = replace(loose, snp=replace(loose.snp, id_keys=only(signer)))
    assert outcome(evidence, tee, signed) == []
    unsigned = replace(loose, snp=replace(loose.snp, id_keys=only("00" * 48)))
    assert outcome(evidence, tee, unsigned) == ["hcl-paravisor"]


def test_reports_of_the_guests_own_level_are_refused() -> None:
    """From VMPL 1 up, software of the guest asks for reports with data of its choice."""
    evidence = azure_container(SNP_MILAN)
    tee = unverified_facts(evidence)
    report = bytearray(evidence.report)
    report[0x30] = 1
    assert evidence.tpm is not None
    assert evidence.tpm.hcl_report is not None
    hcl = evidence.tpm.hcl_report[:32] + bytes(report) + evidence.tpm.hcl_report[32 + 1184 :]
    changed = replace(evidence, report=bytes(report), tpm=replace(evidence.tpm, hcl_report=hcl))
    assert outcome(changed, tee) == ["hcl-tee-report"]


def test_a_key_of_another_machine_is_refused() -> None:
    mine, theirs = azure_container(SNP_MILAN), azure_container(SNP_GENOA)
    assert mine.tpm is not None
    assert theirs.tpm is not None
    mixed = replace(mine, tpm=replace(theirs.tpm, hcl_report=mine.tpm.hcl_report))
    assert outcome(mixed, unverified_facts(mine)) == ["hcl-key"]


def test_a_template_that_is_not_the_keys_own_is_refused() -> None:
    evidence = azure_container(SNP_MILAN)
    assert evidence.tpm is not None
    ak = evidence.tpm.ak_public
    without_no_da = ak[:4] + struct.pack(">I", 0x50072) + ak[8:]
    changed = replace(evidence, tpm=replace(evidence.tpm, ak_public=without_no_da))
    assert outcome(changed, unverified_facts(evidence)) == ["quote-signer"]


def test_hcl_reports_count_only_if_allowed() -> None:
    evidence = azure_container(SNP_MILAN)
    tee = unverified_facts(evidence)
    policy = policy_for(tee)
    assert policy.tpm is not None
    others = frozenset(AkProof) - {AkProof.HCL_REPORT}
    assert outcome(evidence, tee, replace(policy, tpm=replace(policy.tpm, ak_proofs=others))) == ["ak-proof"]


def test_the_bare_quote_is_of_a_machine_that_is_not_among_the_vectors() -> None:
    """It is not the quote of ``azure-tpm-quote-v1.json``: other clock, other registers, another key."""
    message = vector("attestation/tpm/azure-tpm-quote.msg").read_bytes()
    signature = rsassa(vector("attestation/tpm/azure-tpm-quote.sig").read_bytes())
    quote = parse_quote(message)
    assert (quote.extra_data, quote.reset_count) == (CHALLENGE, 3)
    assert quote.selections == (Selection(algorithm=HashAlgorithm.SHA256, pcrs=(*range(8), 14)),)
    for name in AZURE:
        evidence = azure_container(name)
        assert evidence.tpm is not None
        assert hierarchy_of(parse_public(evidence.tpm.ak_public), quote.qualified_signer) is None
        changed = replace(evidence, tpm=replace(evidence.tpm, quote=message, signature=signature))
        assert outcome(changed, unverified_facts(evidence)) == ["quote-signature"]


def test_a_quote_of_dstack_is_read() -> None:
    quote = parse_quote(vector("attestation/tpm/dstack-tpms_attest_sample.bin").read_bytes())
    assert [len(one.pcrs) for one in quote.selections] == [3]


def test_evidence_of_a_plain_tpm_without_a_proof() -> None:
    """The signature holds, and nothing vouches for the key, whose public area is not known either."""
    document = json.loads(vector("attestation/tpm/trustee-tpm_evidence.json").read_bytes())
    quote, key = document["tpm_quote"], load_der_public_key(base64.b64decode(document["ak_public"]))
    assert isinstance(key, rsa.RSAPublicKey)
    part = TpmPart(
        quote=base64.b64decode(quote["message"]),
        signature=base64.b64decode(quote["signature"]),
        ak_public=standard_ak_public(key.public_numbers()),
        pcrs=registers(quote["pcrs"]),
    )
    evidence = EvidenceContainer(platform=EvidencePlatform.TPM, report=b"", tpm=part)
    assert outcome(evidence, None) == ["ak-proof"]
    other = replace(part, quote=part.quote[:-1] + bytes([part.quote[-1] ^ 1]))
    assert outcome(replace(evidence, tpm=other), None) == ["quote-signature"]
