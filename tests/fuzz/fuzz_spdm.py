"""Reports of NVIDIA devices, alone and as evidence in files."""

from __future__ import annotations

from contextlib import suppress

from attestation.nvidia.evidence_files import looks_like_gpu_evidence, read_gpu_evidence
from attestation.nvidia.spdm import parse_report
from measurements.errors import KeyturnError
from tests.support.nvidia_pki import gpu, report
from tests.support.vectors import vectors_folder

NAME = "spdm"
_SAMPLES = ("hopper_evidence.json", "switch_evidence_ls10.json", "veraison-blackwell-evidence.json")


def seeds() -> list[bytes]:
    """A generated report, and those of the published samples with their files."""
    found = [report(gpu())]
    folder = vectors_folder()
    if folder is not None:
        for name in _SAMPLES:
            path = folder / "attestation" / "nvidia" / name
            if path.exists():
                data = path.read_bytes()
                found += [data, read_gpu_evidence(data)[0].report]
    return found


def target(data: bytes) -> None:
    """What is read is read whole; what a file says of its devices is what their reports are."""
    with suppress(KeyturnError):
        parsed = parse_report(data)
        assert parsed.signed + parsed.signature == data
        assert parsed.measurements
        assert sorted(parsed.measurements) == list(range(len(parsed.measurements)))
        with suppress(KeyturnError):
            assert parsed.vbios_version.isascii()
            assert parsed.driver_version.isascii()
    looks_like_gpu_evidence(data)
    with suppress(KeyturnError):
        for one in read_gpu_evidence(data):
            assert one.report
            assert one.certificates
