"""The certificates that a host gives with an extended report: what ``SNP_GET_EXT_REPORT``, a configfs-tsm
``auxblob`` and go-sev-guest's extended reports hold.

Layout ("SEV-ES Guest-Hypervisor Communication Block Standardization", AMD 56421, section 4.1.8.1; 32-bit
numbers are little endian)::

    entries of 24 bytes: 16 bytes GUID, u32 offset from the start of the table, u32 length
    one entry of zeros, which ends the list
    contents, DER

A GUID stands in the order in which it is written (RFC 4122), as AMD's sev-guest writes it (src/cert-table.c,
``uuid_parse``). The table is not signed: it is a bag of certificates, each to be verified. Strict here are
its bounds: no content overlaps the list or another content, none is named twice, and bytes that belong to
nothing are zero (padding of a driver's buffer). Contents of unknown GUIDs (hosts add their own) are listed
and left alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from measurements.errors import FormatError
from measurements.sev.report import REPORT_SIZE

MAX_TABLE = 256 << 10
"""Largest table, bytes; drivers' buffers are a few pages."""
MAX_ENTRIES = 32

_ENTRY = struct.Struct("<16sII")


class CertificateTableError(FormatError):
    """Bytes that are no certificate table."""

    code = "snp-certificate-table"


class TableEntry(Enum):
    """GUIDs of the contents that are known."""

    VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
    VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
    ASK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
    """Of the ASVK, where the key is a VLEK."""
    ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
    CRL = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateTable:
    """Contents of a table, in its order. ``unknown`` has what is neither certificate nor list."""

    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    unknown: tuple[tuple[UUID, bytes], ...]


def parse_certificate_table(data: bytes, *, name: str = "SNP certificate table") -> CertificateTable:
    """Read a table; nothing but zeros (a host without certificates) is an empty one. Raises
    ``CertificateTableError``.
    """
    if len(data) > MAX_TABLE:
        raise _error(f"has {len(data)} bytes, more than {MAX_TABLE}", name)
    if not any(data):
        return CertificateTable(certificates=(), crls=(), unknown=())
    entries, end = _entries(data, name)
    _check_cover(data, entries, end, name)
    contents = [(guid, data[offset : offset + length]) for guid, offset, length in entries]
    known = {one.value: one for one in TableEntry}
    return CertificateTable(
        certificates=tuple(
            content for guid, content in contents if known.get(guid) not in (None, TableEntry.CRL)
        ),
        crls=tuple(content for guid, content in contents if known.get(guid) is TableEntry.CRL),
        unknown=tuple((guid, content) for guid, content in contents if guid not in known),
    )


def split_extended_report(
    data: bytes, *, name: str = "SNP extended report"
) -> tuple[bytes, CertificateTable]:
    """A report and the table after it, in one file; raises ``CertificateTableError``. The report is cut off,
    not read.
    """
    if len(data) < REPORT_SIZE:
        raise _error(f"has {len(data)} bytes, fewer than a report's {REPORT_SIZE}", name)
    return data[:REPORT_SIZE], parse_certificate_table(data[REPORT_SIZE:], name=name)


def _entries(data: bytes, name: str) -> tuple[list[tuple[UUID, int, int]], int]:
    """Entries, and where the list ends."""
    found: list[tuple[UUID, int, int]] = []
    for at in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        raw, offset, length = _ENTRY.unpack_from(data, at)
        if not any(data[at : at + _ENTRY.size]):
            return found, at + _ENTRY.size
        guid = UUID(bytes=raw)
        if guid.int == 0:
            raise _error(f"has an entry without a GUID at byte {at}", name)
        if guid in {one for one, _offset, _length in found}:
            raise _error(f"names {guid} twice", name)
        if length == 0 or offset + length > len(data):
            raise _error(f"has {guid} at bytes {offset} to {offset + length} of {len(data)}", name)
        if len(found) == MAX_ENTRIES:
            raise _error(f"has more than {MAX_ENTRIES} entries", name)
        found.append((guid, offset, length))
    raise _error("has no entry of zeros that ends it", name)


def _check_cover(data: bytes, entries: list[tuple[UUID, int, int]], end: int, name: str) -> None:
    at = end
    for guid, offset, length in sorted(entries, key=lambda one: one[1]):
        if offset < at:
            raise _error(f"has {guid} at byte {offset}, inside the list or another content", name)
        if any(data[at:offset]):
            raise _error(f"has bytes before {guid} (byte {offset}) that belong to nothing", name)
        at = offset + length
    if any(data[at:]):
        raise _error(f"has bytes after byte {at} that belong to nothing", name)


def _error(reason: str, name: str) -> CertificateTableError:
    return CertificateTableError(
        reason,
        subject=name,
        advice="give the table as the guest's driver returns it, or the certificates alone",
    )
