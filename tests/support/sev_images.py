"""Images for SEV made by hand: a table of GUIDs and SNP metadata at the end of any bytes."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Mapping, Sequence
from uuid import UUID

from measurements.guided_table import FOOTER_GUID
from measurements.sev.ovmf_metadata import HASH_TABLE, PAGE, RESET_BLOCK, SNP_METADATA, SVSM_INFO
from tests.support.vectors import vector

RESET_EIP = 0x80B004
HASHES_GPA = 0x810C00

SECTIONS = (
    (0x800000, 0x9000, 1),
    (0x80A000, 0x3000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4),
    (0x811000, 0xF000, 1),
    (0x810000, 0x1000, 0x10),
)
"""Those of OVMF's AmdSevX64 build since edk2-stable202411."""


def guided_table(entries: Mapping[UUID, bytes]) -> bytes:
    """A table of GUIDs; the first entry is the one next to the footer."""
    body = b"".join(
        data + struct.pack("<H", len(data) + 18) + guid.bytes_le
        for guid, data in reversed(list(entries.items()))
    )
    return body + struct.pack("<H", len(body) + 18) + FOOTER_GUID.bytes_le


def snp_metadata(sections: Sequence[tuple[int, int, int]] = SECTIONS, *, version: int = 1) -> bytes:
    """SNP metadata of (address, size, kind)."""
    body = b"".join(struct.pack("<III", *section) for section in sections)
    return b"ASEV" + struct.pack("<III", 16 + len(body), version, len(sections)) + body


def sev_image(
    code: bytes = b"",
    *,
    pages: int = 2,
    sections: Sequence[tuple[int, int, int]] = SECTIONS,
    hash_table: tuple[int, int] | None = (HASHES_GPA, 0x400),
    reset_eip: int | None = RESET_EIP,
    svsm_entry: int | None = None,
    metadata: bytes | None = None,
) -> bytes:
    """An image of ``pages`` pages that starts with ``code`` and ends as OVMF does."""
    described = snp_metadata(sections) if metadata is None else metadata
    entries: dict[UUID, bytes] = {}
    if reset_eip is not None:
        entries[RESET_BLOCK] = struct.pack("<I", reset_eip)
    if hash_table is not None:
        entries[HASH_TABLE] = struct.pack("<II", *hash_table)
    if svsm_entry is not None:
        entries[SVSM_INFO] = struct.pack("<I", svsm_entry)
    if sections or metadata is not None:
        entries[SNP_METADATA] = b"\0\0\0\0"
        tail_length = len(guided_table(entries)) + 32
        entries[SNP_METADATA] = struct.pack("<I", tail_length + len(described))
    else:
        described = b""
    tail = described + guided_table(entries) + bytes(32)
    size = pages * PAGE
    assert len(code) + len(tail) <= size
    return code.ljust(size - len(tail), b"\xff") + tail


def vector_image(name: str) -> bytes:
    """An image of the vectors, unpacked."""
    path = vector(name)
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
