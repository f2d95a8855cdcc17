"""Fuzz target: Azure's HCL reports, and the proof that hangs on them."""

from __future__ import annotations

import contextlib
import json
import struct

from attestation.tpm.hcl_report import HclReportType, parse_hcl_report
from attestation.tpm.td_report import check_same_domain
from attestation.tpm_structures import parse_public
from measurements.errors import KeyturnError
from measurements.tdx.quote import BodyType, TdBody
from tests.support.vectors import vectors_folder

NAME = "tpm_hcl"

_VECTORS = ("attestation/snp/azure-hcl-report.bin", "attestation/tpm/azure-tdx-hcl-report.bin")
_BODY = TdBody(
    kind=BodyType.TDX_1_0,
    tee_tcb_svn=bytes(16),
    mrseam=bytes(48),
    mrsignerseam=bytes(48),
    seam_attributes=bytes(8),
    td_attributes=bytes(8),
    xfam=bytes(8),
    mrtd=bytes([1]) * 48,
    mrconfigid=bytes(48),
    mrowner=bytes(48),
    mrownerconfig=bytes(48),
    rtmrs=(bytes(48), bytes(48), bytes(48), bytes(48)),
    report_data=bytes(64),
)


def seeds() -> list[bytes]:
    """A generated report of each kind, and real ones."""
    made = [_report(kind) for kind in HclReportType]
    folder = vectors_folder()
    paths = [folder / name for name in _VECTORS] if folder else []
    return [*made, *(path.read_bytes() for path in paths if path.exists())]


def _report(kind: HclReportType) -> bytes:
    modulus = "w" * 341 + "w"
    keys = [{"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": modulus}]
    data = json.dumps({"keys": keys, "vm-configuration": {"secure-boot": True}}).encode()
    end = 32 + 1184 + 20 + len(data)
    header = struct.pack("<4sIIII12x", b"HCLA", 2, end, 2, 0)
    request = struct.pack("<IIIII", 20 + len(data), 1, kind, 1, len(data))
    return header + bytes(1184) + request + data + bytes(8)


def target(data: bytes) -> None:
    """What is read is inside the bytes and gives a public area; only refusals come out."""
    with contextlib.suppress(KeyturnError):
        report = parse_hcl_report(data)
        assert data.rstrip(b"\0").endswith(report.runtime_data.rstrip(b"\0"))
        assert report.tee_report in data
        assert len(report.report_data) == 64
        parse_public(report.ak_public)
        if report.kind is HclReportType.TDX:
            check_same_domain(report.tee_report, _BODY)
