"""Writes GUID partition tables; the layout is in ``measurements.gpt``.

Block 0 holds the protective MBR (UEFI 2.10, section 5.2.3): one partition record at 446 (boot indicator 0,
first CHS 00 02 00, type 0xee, last CHS ff ff ff, u32 first block 1, u32 number of blocks, at most
0xffffffff), and 0x55 0xaa at 510.

GUIDs are version 5 UUIDs of the image's name (RFC 9562, section 5.5): the same image has the same GUIDs
wherever it is built.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn
from uuid import UUID, uuid5

from measurements.errors import KeyturnError
from measurements.gpt import (
    BLOCK,
    ENTRIES_SIZE,
    ENTRY,
    ENTRY_COUNT,
    HEADER,
    PRIMARY_SIZE,
    REVISION,
    SIGNATURE,
    Partition,
    header_crc,
)

ALIGNMENT_BLOCKS = 2048
"""Partitions start at multiples of 1 MiB."""
BACKUP_SIZE = ENTRIES_SIZE + BLOCK
"""Bytes of the copy at the end of the disk: entries, header."""
_NAMESPACE = UUID("6f1d3f5c-6d0e-4e0f-9b1b-3c1f2b7a9e54")
_MBR_RECORD = struct.Struct("<B3sB3sII")
_NAME_LIMIT = 36


class PartitionError(KeyturnError):
    """Partitions that do not fit the disk or one another."""

    code = "partition"


@dataclass(frozen=True, kw_only=True, slots=True)
class GptImage:
    """``primary`` goes to the start of the disk (protective MBR included), ``backup`` to its end."""

    primary: bytes
    backup: bytes


def disk_guid(image_name: str) -> UUID:
    """The disk GUID of the image ``image_name``."""
    return uuid5(_NAMESPACE, f"disk\0{image_name}")


def partition_guid(image_name: str, partition_name: str) -> UUID:
    """The GUID of the partition ``partition_name`` of the image ``image_name``."""
    return uuid5(_NAMESPACE, f"partition\0{image_name}\0{partition_name}")


def build_gpt(disk_sectors: int, guid: UUID, partitions: Sequence[Partition]) -> GptImage:
    """Both copies of the table of a disk of ``disk_sectors`` blocks of 512 bytes with the disk GUID ``guid``.

    Raises ``PartitionError`` for partitions that overlap, are not aligned to 1 MiB, leave the usable blocks
    or have the same name or GUID.
    """
    first_usable = PRIMARY_SIZE // BLOCK
    last_usable = disk_sectors - 1 - BACKUP_SIZE // BLOCK
    _check(partitions, first_usable, last_usable)
    entries = b"".join(_entry(partition) for partition in partitions).ljust(ENTRIES_SIZE, b"\0")
    last = disk_sectors - 1
    common = (first_usable, last_usable, guid.bytes_le)
    entries_crc = zlib.crc32(entries)
    primary = _header(1, last, *common, 2, entries_crc)
    backup = _header(last, 1, *common, last_usable + 1, entries_crc)
    return GptImage(primary=_protective_mbr(disk_sectors) + primary + entries, backup=entries + backup)


def _header(
    own: int, other: int, first_usable: int, last_usable: int, guid: bytes, entries_at: int, entries_crc: int
) -> bytes:
    """One header, padded to a block."""
    fields = (
        0,
        own,
        other,
        first_usable,
        last_usable,
        guid,
        entries_at,
        ENTRY_COUNT,
        ENTRY.size,
        entries_crc,
    )
    header = HEADER.pack(SIGNATURE, REVISION, HEADER.size, 0, *fields)
    return (header[:16] + struct.pack("<I", header_crc(header)) + header[20:]).ljust(BLOCK, b"\0")


def _entry(partition: Partition) -> bytes:
    return ENTRY.pack(
        partition.type_guid.bytes_le,
        partition.guid.bytes_le,
        partition.first_lba,
        partition.last_lba,
        partition.attributes,
        partition.name.encode("utf-16-le"),
    )


def _protective_mbr(disk_sectors: int) -> bytes:
    size = min(disk_sectors - 1, 0xFFFFFFFF)
    record = _MBR_RECORD.pack(0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, size)
    return bytes(446) + record + bytes(48) + b"\x55\xaa"


def _check(partitions: Sequence[Partition], first_usable: int, last_usable: int) -> None:
    if len(partitions) > ENTRY_COUNT:
        _refuse("partition table", f"{len(partitions)} partitions are more than {ENTRY_COUNT}")
    free_from = first_usable
    for partition in partitions:
        if partition.first_lba % ALIGNMENT_BLOCKS:
            _refuse(partition.name, "does not start at a multiple of 1 MiB")
        if not free_from <= partition.first_lba <= partition.last_lba <= last_usable:
            _refuse(partition.name, "overlaps the partition before it or leaves the usable blocks")
        if not partition.name.isascii() or not 0 < len(partition.name) <= _NAME_LIMIT:
            _refuse(partition.name, f"has a name that is not 1 to {_NAME_LIMIT} ASCII characters")
        free_from = partition.last_lba + 1
    for values in ([item.name for item in partitions], [item.guid for item in partitions]):
        if len(set(values)) != len(values):
            _refuse("partition table", "two partitions have the same name or GUID")


def _refuse(subject: str, reason: str) -> NoReturn:
    raise PartitionError(reason, subject=subject, advice="choose other partitions or a larger disk")
