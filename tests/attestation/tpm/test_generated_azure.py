"""A generated Azure machine, from AMD's root to the vTPM's quote, in one verdict: the verified report vouches
for the paravisor's run-time data, that for the key, and the key for registers and request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from attestation.evidence_verdict import EvidenceVerdict
from attestation.nvidia.binding import gpu_report_data
from attestation.policy import AkProof, Measurements, MeasurementSet, Policy
from attestation.report_data import qualifying_data
from attestation.snp.report_facts import registers_of
from attestation.tpm.ak_public import standard_ak_public
from attestation.tpm_structures import parse_public
from attestation.verify import verify_evidence
from measurements.sev.report import parse_report
from tests.attestation.nvidia.cases import STRICT as GPU
from tests.attestation.nvidia.cases import good_part
from tests.support.azure_evidence import rsassa
from tests.support.paper_tpm import BOTH_BANKS, attest
from tests.support.policies import ANY, ANY_MACHINE, only, permissive_policy
from tests.support.snp_cases import good_case, replace_section
from tests.support.snp_pki import Wishes
from tests.support.tpm_containers import REGISTERS

REQUEST = b"request"
BANK = {"sha256": REGISTERS["sha256"]}
MEASUREMENT = Wishes().measurement


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Evidence, what it is verified with, and the vTPM's key."""

    evidence: EvidenceContainer
    policy: Policy
    collateral: Collateral
    now: int

    def verdict(self) -> EvidenceVerdict:
        return verify_evidence(
            self.evidence,
            collateral=self.collateral,
            anchors=anchors_for(self.policy),
            policy=self.policy,
            now=self.now,
        )


def runtime_data(key: rsa.RSAPublicKey) -> bytes:
    modulus = key.public_numbers().n.to_bytes(256, "big")
    text = base64.urlsafe_b64encode(modulus).rstrip(b"=").decode()
    jwk = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": text}
    return json.dumps({"keys": [jwk], "vm-configuration": {"secure-boot": True}}).encode()


def hcl(report: bytes, data: bytes) -> bytes:
    end = 32 + len(report) + 20 + len(data)
    header = struct.pack("<4sIIII12x", b"HCLA", 2, end, 2, 0)
    request = struct.pack("<IIIII", 20 + len(data), 1, 2, 1, len(data))
    return (header + report + request + data).ljust(2600, b"\0")


def quoted(key: rsa.RSAPrivateKey, registers: Mapping[int, bytes], request: bytes) -> TpmPart:
    public = standard_ak_public(key.public_key().public_numbers())
    digest = hashlib.sha256(b"".join(value for _, value in sorted(registers.items()))).digest()
    quote = attest(parse_public(public).qualified_name(), request, digest, selections=BOTH_BANKS[:1])
    signature = rsassa(key.sign(quote, padding.PKCS1v15(), hashes.SHA256()))
    return TpmPart(quote=quote, signature=signature, ak_public=public, pcrs={"sha256": registers})


def machine(*, vmpl: int = 0, signer: rsa.RSAPrivateKey | None = None, request: bytes = REQUEST) -> Machine:
    """A machine with which nothing is wrong; ``signer`` is another key than the vTPM's."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    data = runtime_data(key.public_key())
    report_data = hashlib.sha256(data).digest() + bytes(32)
    case = good_case(Wishes(report_data=report_data, vmpl=vmpl))
    part = replace(quoted(signer or key, BANK["sha256"], request), hcl_report=hcl(case.report, data))
    evidence = EvidenceContainer(platform=EvidencePlatform.SNP, report=case.report, tpm=part)
    tpm = permissive_policy(EvidencePlatform.SNP, EvidencePlatform.TPM).tpm
    assert tpm is not None
    assert case.policy.snp is not None
    paravisor = MeasurementSet(name="paravisor", registers={"measurement": MEASUREMENT})
    image = MeasurementSet(name="image", registers={"sha256:4": BANK["sha256"][4]})
    policy = replace(
        case.policy,
        platforms=frozenset({EvidencePlatform.SNP, EvidencePlatform.TPM}),
        report_data=only(request.hex()),
        snp=replace(case.policy.snp, measurements=Measurements(sets=(paravisor,))),
        tpm=replace(
            tpm,
            ak_proofs=frozenset({AkProof.HCL_REPORT}),
            banks=frozenset({"sha256"}),
            pcrs=frozenset(range(15)),
            measurements=Measurements(sets=(image,)),
        ),
    )
    collateral = Collateral(certificates=case.certificates, crls=case.crls)
    return Machine(evidence=evidence, policy=policy, collateral=collateral, now=case.now)


def test_a_machine_passes_a_strict_policy() -> None:
    """Report data of the policy is what the vTPM quotes; that of the SNP report is the paravisor's."""
    verdict = machine().verdict()
    assert verdict.failed_checks == frozenset()
    assert [facts.platform for facts in verdict.facts] == ["snp", "tpm"]
    assert verdict.facts[1].report_data == REQUEST


@pytest.mark.parametrize("bound", [True, False])
def test_gpus_are_bound_by_what_the_guest_quotes(bound: bool) -> None:
    """Report data of the SNP report is the paravisor's, so it can bind nothing of the guest's."""
    nonce, parts = good_part().nonce, [good_part()]
    request = qualifying_data(gpu_report_data(parts, nonce)) if bound else REQUEST
    mine = machine(request=request)
    policy = replace(mine.policy, gpu=GPU)
    verdict = replace(mine, policy=policy, evidence=replace(mine.evidence, gpus=tuple(parts))).verdict()
    assert ("gpus/gpu-binding" in verdict.failed_checks) is not bound


def test_another_request_is_refused() -> None:
    mine = machine()
    other = replace(mine, policy=replace(mine.policy, report_data=only(b"other".hex())))
    verdict = other.verdict()
    assert [check.name for check in verdict.tree.failures] == ["report-data"]
    assert "tpm-policy/report-data" in verdict.failed_checks


@pytest.mark.parametrize("vmpl", [1, 2, 3])
def test_a_key_that_the_guest_vouches_for_itself_is_refused(vmpl: int) -> None:
    """The guest asked for the report, so it chose the key: it signs any registers."""
    assert "tpm-hcl-report/hcl-tee-report" in machine(vmpl=vmpl).verdict().failed_checks


def test_a_key_of_software_beside_a_real_report_is_refused() -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert "tpm-hcl-report/hcl-key" in machine(signer=stranger).verdict().failed_checks


def test_run_time_data_that_the_report_does_not_hash_are_refused() -> None:
    mine = machine()
    assert mine.evidence.tpm is not None
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    part = quoted(stranger, BANK["sha256"], REQUEST)
    forged = hcl(mine.evidence.report, runtime_data(stranger.public_key()))
    evidence = replace(mine.evidence, tpm=replace(part, hcl_report=forged))
    found = replace(mine, evidence=evidence).verdict().failed_checks
    assert {name for name in found if name.endswith("/report-data")} != set()
    assert not any(name.startswith("tpm-quote") for name in found)


def test_another_paravisor_is_refused() -> None:
    mine = machine()
    assert mine.policy.snp is not None
    other = MeasurementSet(name="other", registers={"measurement": bytes(48)})
    changed = replace(mine.policy.snp, measurements=Measurements(sets=(other,)))
    found = replace(mine, policy=replace(mine.policy, snp=changed)).verdict().failed_checks
    assert "tpm-hcl-report/hcl-tee-report" in found


def test_the_parts_of_two_machines_are_not_one() -> None:
    mine, theirs = machine(), machine()
    mixed = replace(mine.evidence, tpm=theirs.evidence.tpm)
    assert not replace(mine, evidence=mixed).verdict().passed


def paravisor_policy(mine: Machine, **changes: object) -> Machine:
    assert mine.policy.snp is not None
    section = replace_section(mine.policy.snp, changes)
    return replace(mine, policy=replace(mine.policy, snp=section))


@pytest.mark.parametrize("name", ["host_data", "family_id", "image_id", "guest_policy"])
def test_registers_that_any_owner_of_a_machine_chooses_pin_no_paravisor(name: str) -> None:
    """Without the launch measurement the guest can be anything, and vouch for a key of its own."""
    mine = machine()
    value = paravisor_policy(mine, measurements=ANY_MACHINE, id_keys=ANY).verdict()
    assert value.tree.failures[0].name == "hcl-paravisor"
    with_registers = registers_of(parse_report(mine.evidence.report))
    pinned = MeasurementSet(name="mine", registers={name: with_registers[name]})
    launch = MeasurementSet(name="paravisor", registers={"measurement": MEASUREMENT})
    for sets in ((pinned,), (launch, pinned), ()):
        verdict = paravisor_policy(mine, measurements=Measurements(sets=sets)).verdict()
        assert not verdict.passed
        if sets:
            assert [check.name for check in verdict.tree.failures] == ["hcl-paravisor"]


def test_a_list_that_accepts_unsigned_guests_pins_no_paravisor() -> None:
    """Zeros on the list of ID keys stand for a guest that nobody signed."""
    unsigned = only(bytes(48).hex(), "11" * 48)
    verdict = paravisor_policy(machine(), measurements=ANY_MACHINE, id_keys=unsigned).verdict()
    assert [check.name for check in verdict.tree.failures] == ["hcl-paravisor"]
