"""GUID partition tables: their parts, and the event that firmware measures about the boot disk.

Layout (UEFI 2.10, section 5.3; little endian), in blocks of 512 bytes:

- block 1, and a mirrored copy in the last block: a header of 92 bytes: ``EFI PART``, u32 revision 0x00010000,
u32 header size 92, u32 CRC32 of
  the header with this field zero, u32 0, u64 own block, u64 block of the other header, u64 first and u64 last
  usable block, 16 bytes disk GUID, u64 first block of the entries, u32 number of entries (128), u32 entry
  size (128), u32 CRC32 of the entries;
- blocks 2 to 33, and a copy before the last block: the entries: 16 bytes type GUID (zero: free), 16 bytes
GUID, u64 first and u64 last block, u64
  attributes, 72 bytes name in UTF-16LE. GUIDs have their first three fields in little endian.

The event EV_EFI_GPT_EVENT of PCR 5 (``UEFI_GPT_DATA``, TCG PC Client Platform Firmware Profile 1.06, section
10.2.6) is the header, the u64 number of used entries, and those entries.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NoReturn
from uuid import UUID

from measurements.errors import FormatError

BLOCK = 512
ENTRY_COUNT = 128
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
ENTRY = struct.Struct("<16s16sQQQ72s")
ENTRIES_SIZE = ENTRY_COUNT * ENTRY.size
SIGNATURE = b"EFI PART"
REVISION = 0x00010000
PRIMARY_SIZE = 2 * BLOCK + ENTRIES_SIZE
"""Bytes at the start of a disk up to the end of the entries: protective MBR, header, entries."""
_FREE = UUID(int=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """One used entry; ``first_lba`` and ``last_lba`` are inclusive blocks of 512 bytes."""

    name: str
    type_guid: UUID
    guid: UUID
    first_lba: int
    last_lba: int
    attributes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionTable:
    """A primary partition table; ``event_data`` is what firmware hashes into PCR 5."""

    disk_guid: UUID
    first_usable_lba: int
    last_usable_lba: int
    partitions: tuple[Partition, ...]
    event_data: bytes


def parse_gpt(data: bytes, *, subject: str = "disk image") -> PartitionTable:
    """Read the primary table from the first ``PRIMARY_SIZE`` bytes of a disk.

    Raises ``FormatError`` for a wrong signature, size or checksum, and for partitions outside of the usable
    blocks or over one another.
    """
    header = data[BLOCK : BLOCK + HEADER.size]
    entries = data[2 * BLOCK : PRIMARY_SIZE]
    if len(data) < PRIMARY_SIZE:
        _refuse(subject, f"has {len(data)} bytes, less than a partition table")
    signature, revision, size, crc, _, own, _, first, last, disk, start, count, entry_size, entries_crc = (
        HEADER.unpack(header)
    )
    if (signature, revision, size, own, start) != (SIGNATURE, REVISION, HEADER.size, 1, 2):
        _refuse(subject, "has no GUID partition table of revision 1.0 in its second block")
    if (count, entry_size) != (ENTRY_COUNT, ENTRY.size):
        _refuse(subject, f"has {count} partition entries of {entry_size} bytes, not 128 of 128")
    if header_crc(header) != crc or zlib.crc32(entries) != entries_crc:
        _refuse(subject, "has a partition table with a wrong checksum")
    used = [entry for entry in _entries(entries) if entry[:16] != _FREE.bytes_le]
    partitions = tuple(_partition(entry, subject) for entry in used)
    _check_places(partitions, first, last, subject)
    return PartitionTable(
        disk_guid=UUID(bytes_le=disk),
        first_usable_lba=first,
        last_usable_lba=last,
        partitions=partitions,
        event_data=header + struct.pack("<Q", len(used)) + b"".join(used),
    )


def header_crc(header: bytes) -> int:
    """CRC32 of a header of 92 bytes, with its own field taken as zero."""
    return zlib.crc32(header[:16] + bytes(4) + header[20:])


def _entries(data: bytes) -> list[bytes]:
    return [data[start : start + ENTRY.size] for start in range(0, ENTRIES_SIZE, ENTRY.size)]


def _partition(entry: bytes, subject: str) -> Partition:
    type_guid, guid, first, last, attributes, raw_name = ENTRY.unpack(entry)
    try:
        name = raw_name.decode("utf-16-le").rstrip("\0")
    except UnicodeDecodeError:
        _refuse(subject, "has a partition name that is not UTF-16")
    return Partition(
        name=name,
        type_guid=UUID(bytes_le=type_guid),
        guid=UUID(bytes_le=guid),
        first_lba=first,
        last_lba=last,
        attributes=attributes,
    )


def _check_places(
    partitions: tuple[Partition, ...], first_usable: int, last_usable: int, subject: str
) -> None:
    free_from = first_usable
    for partition in sorted(partitions, key=lambda item: item.first_lba):
        if not free_from <= partition.first_lba <= partition.last_lba <= last_usable:
            _refuse(
                subject, f"partition {partition.name} overlaps another or is outside of the usable blocks"
            )
        free_from = partition.last_lba + 1


def _refuse(subject: str, reason: str) -> NoReturn:
    raise FormatError(
        reason, subject=subject, advice="give a whole, intact disk image with a GUID partition table"
    )
