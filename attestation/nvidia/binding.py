"""How evidence of GPUs is tied to the evidence of the CPU.

With ``lp(x) = u32be(len(x)) ‖ x``, the evidence of all devices, in the order in which it stands, is ::

    lp("keyturn-gpu-evidence/1") ‖ for each device: lp(architecture) ‖ lp(report) ‖ lp(nonce)
                                   ‖ lp(u32be number of certificates) ‖ lp(certificate)…

and its digest is SHA-256 of that. These bytes are the ``gpu_evidence`` of a key release, whose report data
hashes them among other things (``attestation.report_data``). Evidence that stands alone is bound if the
CPU's report data is ::

    nonce (32) ‖ digest (32)

where the nonce is the one that the devices were asked for, so that one nonce makes all of it fresh; a TPM
carries SHA-256 of these 64 bytes as its qualifying data, as it does in key release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from attestation.container import GpuPart
from attestation.nvidia.spdm import NONCE_SIZE
from attestation.report_data import REPORT_DATA_SIZE, qualifying_data

DOMAIN = b"keyturn-gpu-evidence/1"


def gpu_evidence(parts: Iterable[GpuPart]) -> bytes:
    """The evidence of all devices as one byte string; empty if there are none."""
    fields: list[bytes] = []
    for part in parts:
        fields += (part.architecture.encode("utf-8"), part.report, part.nonce)
        fields += (len(part.certificates).to_bytes(4, "big"), *part.certificates)
    if not fields:
        return b""
    return b"".join(len(one).to_bytes(4, "big") + one for one in (DOMAIN, *fields))


def gpu_evidence_digest(parts: Iterable[GpuPart]) -> bytes:
    """SHA-256 of ``gpu_evidence``."""
    return hashlib.sha256(gpu_evidence(parts)).digest()


def gpu_report_data(parts: Iterable[GpuPart], nonce: bytes) -> bytes:
    """The report data (64 bytes) that binds this evidence."""
    return nonce + gpu_evidence_digest(parts)


def binds(report_data: bytes, parts: Iterable[GpuPart], nonce: bytes) -> bool:
    """Whether a CPU's report data, or a TPM's qualifying data, binds this evidence."""
    if len(nonce) != NONCE_SIZE:
        return False
    wanted = gpu_report_data(parts, nonce)
    assert len(wanted) == REPORT_DATA_SIZE
    return report_data in (wanted, qualifying_data(wanted))
