"""Fuzz target: certificate tables of extended SNP reports."""

from __future__ import annotations

import contextlib
import struct

from attestation.snp.certificate_table import TableEntry, parse_certificate_table, split_extended_report
from measurements.errors import KeyturnError
from measurements.sev.report import REPORT_SIZE

NAME = "snp-certificate-table"


def _table(*names: str) -> bytes:
    at, entries, contents = 24 * (len(names) + 1), b"", b""
    for name in names:
        content = name.encode() * 3
        entries += TableEntry[name].value.bytes + struct.pack("<II", at + len(contents), len(content))
        contents += content
    return entries + bytes(24) + contents


def seeds() -> list[bytes]:
    """Tables with and without padding, and one after a report."""
    full = _table("VCEK", "ASK", "ARK", "CRL")
    return [full, _table("VLEK") + bytes(64), bytes(64), bytes(REPORT_SIZE) + full]


def target(data: bytes) -> None:
    """What can be read lies in the input, and no byte of it in two places."""
    with contextlib.suppress(KeyturnError):
        table = parse_certificate_table(data)
        contents = (*table.certificates, *table.crls, *(content for _guid, content in table.unknown))
        assert all(content and content in data for content in contents)
        assert sum(len(content) + 24 for content in contents) <= len(data)
    with contextlib.suppress(KeyturnError):
        report, _table = split_extended_report(data)
        assert data.startswith(report)
