"""NVIDIA's published samples, as the importer reads them."""

from __future__ import annotations

from attestation.container import GpuPart
from attestation.nvidia.evidence_files import read_gpu_evidence
from tests.support.vectors import vector

FOLDER = "attestation/nvidia"
SAMPLES = {
    "hopper_evidence.json": ("HOPPER", 1),
    "hopper_evidence_cert_hold.json": ("HOPPER", 1),
    "multi_gpu_hopper.json": ("HOPPER", 4),
    "switch_evidence_ls10.json": ("LS10", 1),
    "veraison-blackwell-evidence.json": ("BLACKWELL", 1),
    "blackwellAttestationReport.txt": ("BLACKWELL", 1),
    "hopperAttestationReport.txt": ("HOPPER", 1),
    "nvtrust-hopperAttestationReport.txt": ("HOPPER", 1),
}
"""Architecture and number of devices of each sample whose signature holds."""
BAD_SIGNATURE = "hopperAttestationReportInvalidSignature.txt"


def sample(name: str) -> tuple[GpuPart, ...]:
    """The devices of a sample; a text file's chain lies beside it."""
    data = vector(f"{FOLDER}/{name}").read_bytes()
    if name.endswith(".json"):
        return read_gpu_evidence(data)
    beside = (
        "hopperCertChain.txt" if name == BAD_SIGNATURE else name.replace("AttestationReport", "CertChain")
    )
    return read_gpu_evidence(data, certificates=vector(f"{FOLDER}/{beside}").read_bytes())
