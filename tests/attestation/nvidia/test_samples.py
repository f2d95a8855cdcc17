"""NVIDIA's published samples give the stated outcomes, and ``openssl verify`` says the same of their chains.

The samples say nothing of the verifier's own nonce, so the policy lists theirs. What manifests and OCSP
answers would say of them is not known offline: only one manifest is public.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform, GpuPart
from attestation.nvidia.verify import verify_gpus
from attestation.platform_verification import PlatformVerification
from attestation.verdict import Check
from tests.attestation.nvidia.samples import BAD_SIGNATURE, FOLDER, SAMPLES, sample
from tests.support.policies import only, permissive_policy
from tests.support.tools import require_tool
from tests.support.vectors import vector

AT = 1_780_000_000


def verify(parts: tuple[GpuPart, ...], *, ocsp: bool = False, rims: bool = False) -> PlatformVerification:
    base = permissive_policy(EvidencePlatform.TDX, gpu=True)
    assert base.gpu is not None
    section = replace(base.gpu, count=len(parts), ocsp=ocsp, rims=rims, bound=False)
    policy = replace(base, gpu=section, report_data=only(parts[0].nonce.hex()))
    manifest = vector(f"{FOLDER}/vbios_rim_1010_0200_882_96005E0001.swidtag").read_bytes()
    return verify_gpus(
        EvidenceContainer(platform=EvidencePlatform.TDX, report=b"", gpus=parts),
        collateral=Collateral(rims=(manifest,)),
        anchors=anchors_for(policy),
        policy=policy,
        now=AT,
        cpu=None,
    )


def checks_of(verdict: PlatformVerification) -> dict[str, Check]:
    return {check.name: check for group in verdict.groups for check in group.checks}


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_whose_signature_holds_passes(name: str) -> None:
    architecture, count = SAMPLES[name]
    parts = sample(name)
    assert [part.architecture for part in parts] == [architecture] * count
    verdict = verify(parts)
    assert verdict.passed
    assert verdict.facts is not None
    assert len(set(verdict.facts.identity.values())) == count
    assert {window.end for window in verdict.windows} == {253402300799}


def test_sample_with_a_bad_signature_is_refused_for_that() -> None:
    made = checks_of(verify(sample(BAD_SIGNATURE)))
    assert made["gpu0-certificates"].passed
    assert not made["gpu0-report-signature"].passed
    assert "changed" in made["gpu0-report-signature"].reason


def test_held_sample_passes_without_and_is_refused_with_a_demand_for_ocsp() -> None:
    """No answer of NVIDIA's responder is recorded; ``test_ocsp`` has one on hold of a generated PKI."""
    parts = sample("hopper_evidence_cert_hold.json")
    assert verify(parts).passed
    made = checks_of(verify(parts, ocsp=True))
    assert "no valid OCSP answer for certificate GH100 A01 GSP BROM" in made["gpu0-revocation"].reason


def test_sample_without_its_driver_s_manifest_is_refused() -> None:
    made = checks_of(verify(sample("hopperAttestationReport.txt"), rims=True))
    assert "GH100 535.86.09" in made["gpu0-driver-manifest"].expected
    assert "HCC RIM L4 Signer is expired" in made["gpu0-vbios-manifest"].reason


def test_facts_of_samples_are_those_that_nvidia_states() -> None:
    """From the claims that NVIDIA publishes beside its samples."""
    verdict = verify(sample("nvtrust-hopperAttestationReport.txt"))
    assert verdict.facts is not None
    details = verdict.facts.details
    assert (details["gpu0_driver"], details["gpu0_vbios"]) == ("550.90.07", "96.00.9F.00.01")
    claims = vector(f"{FOLDER}/hopperClaimsv3_decoded.json").read_text()
    assert '"x-nvidia-gpu-driver-version": "550.90.07"' in claims
    assert '"x-nvidia-gpu-vbios-version": "96.00.9F.00.01"' in claims


def test_parts_of_different_samples_do_not_mix() -> None:
    first, second = sample("hopper_evidence.json")[0], sample("hopper_evidence_cert_hold.json")[0]
    for mixed in (
        replace(first, certificates=second.certificates),
        replace(first, report=second.report),
        replace(first, nonce=second.nonce),
        replace(first, certificates=(first.certificates[0], *second.certificates[1:])),
    ):
        assert not verify((mixed,)).passed


@pytest.mark.parametrize("name", SAMPLES)
def test_openssl_says_the_same_of_the_chain(name: str, tmp_path: Path) -> None:
    """With the pinned root it verifies; with a chain cut in the middle neither does."""
    part = sample(name)[0]
    root = vector(f"{FOLDER}/device_root.pem")
    assert openssl_verifies(part.certificates, root, tmp_path)
    assert verify((part,)).passed
    cut = (part.certificates[0], *part.certificates[2:])
    assert not openssl_verifies(cut, root, tmp_path)
    assert not verify((replace(part, certificates=cut),)).passed


def openssl_verifies(certificates: tuple[bytes, ...], root: Path, folder: Path) -> bool:
    pems = [x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in certificates]
    leaf, rest = folder / "leaf.pem", folder / "rest.pem"
    leaf.write_bytes(pems[0])
    rest.write_bytes(b"".join(pems[1:]))
    command = [require_tool("openssl", package="openssl"), "verify", "-attime", str(AT), "-CAfile", str(root)]
    result = subprocess.run([*command, "-untrusted", str(rest), str(leaf)], capture_output=True, check=False)
    return result.returncode == 0
