"""Small firmware files for trust domains, whose every metadata field a test can choose."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from measurements.tdx.tdvf import METADATA_GUID, TABLE_GUID

CFV_SIZE, BFV_SIZE = 0x2000, 0x4000
FOUR_GIB = 1 << 32


@dataclass(frozen=True, kw_only=True, slots=True)
class RawSection:
    """The six fields of a section, whatever they hold."""

    offset: int = 0
    raw_size: int = 0
    address: int
    size: int
    kind: int
    attributes: int = 0

    def encode(self) -> bytes:
        """The 32 bytes of the section."""
        return struct.pack(
            "<IIQQII", self.offset, self.raw_size, self.address, self.size, self.kind, self.attributes
        )


BFV = RawSection(
    offset=CFV_SIZE,
    raw_size=BFV_SIZE,
    address=FOUR_GIB - BFV_SIZE,
    size=BFV_SIZE,
    kind=0,
    attributes=1,
)
CFV = RawSection(raw_size=CFV_SIZE, address=FOUR_GIB - BFV_SIZE - CFV_SIZE, size=CFV_SIZE, kind=1)
HEAP = RawSection(address=0x810000, size=0x10000, kind=3)
STACK = RawSection(address=0x80B000, size=0x2000, kind=3)
HOB = RawSection(address=0x809000, size=0x2000, kind=2)
MAILBOX = RawSection(address=0x800000, size=0x6000, kind=3)
SECTIONS = (BFV, CFV, HEAP, STACK, HOB, MAILBOX)
"""The layout of edk2's builds before 2025.02."""


def build(
    sections: Sequence[RawSection] = SECTIONS,
    *,
    signature: bytes = b"TDVF",
    length: int | None = None,
    version: int = 1,
    count: int | None = None,
    distance: int | None = None,
    entries: Sequence[tuple[bytes, bytes]] = (),
    size: int = CFV_SIZE + BFV_SIZE,
    metadata_space: int = 0x400,
) -> bytes:
    """A file of ``size`` bytes: contents that differ everywhere, metadata, table, reset vector."""
    body = b"".join(section.encode() for section in sections)
    header = struct.pack(
        "<4sIII",
        signature,
        16 + len(body) if length is None else length,
        version,
        len(sections) if count is None else count,
    )
    metadata = header + body
    place = metadata_space
    table = table_of(
        [(METADATA_GUID.bytes_le, struct.pack("<I", place if distance is None else distance)), *entries]
    )
    tail = metadata.ljust(place - len(table) - 32, b"\xee") + table + bytes(32)
    filling = b"".join(struct.pack("<Q", number * 0x9E3779B97F4A7C15 % 2**64) for number in range(size // 8))
    return filling[: size - len(tail)] + tail


def table_of(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The GUIDed table with ``entries`` of GUID and data."""
    packed = b"".join(data + struct.pack("<H", len(data) + 18) + guid for guid, data in entries)
    return packed + struct.pack("<H", len(packed) + 18) + TABLE_GUID.bytes_le


def changed(index: int, **fields: int) -> tuple[RawSection, ...]:
    """The usual sections with other ``fields`` in one of them."""
    sections = list(SECTIONS)
    sections[index] = replace(sections[index], **fields)
    return tuple(sections)
