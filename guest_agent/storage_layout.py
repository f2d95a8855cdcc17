"""Where dm-integrity puts what on the data disk, and the superblock that says so, computed instead of read.
Pure.

Source: Linux ``drivers/md/dm-integrity.c``: ``struct superblock``, ``calculate_journal_section_size``,
``calculate_device_limits``, ``get_provided_data_sectors``, ``sb_mac``. Superblock, little-endian, 4096 bytes
of which all but the following are zero::

    0  magic "integrt\\0"   8  u8 version = 5   9  u8 log2 interleave sectors = 15   10 u16 tag size = 32
    12 u32 journal sections   16 u64 data sectors   24 u32 flags = 0x19 (journal MAC, fixed padding and HMAC)
    28 u8 log2 sectors per block = 3   29 u8 log2 blocks per bitmap bit   48 salt (16)
    480 HMAC-SHA-256 of bytes 0 to 479 under the journal's key

Sectors of the device: 8 of superblock, the journal (16 sections of 264 sectors: 8 with 32 entries, and 32
blocks), then areas: 256 sectors of tags, 32768 sectors of data, of which the last may be short.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from guest_agent.device_tables import BLOCK, BLOCK_SECTORS, TAG_BYTES, StorageKeys
from measurements.errors import RefusedError

MIN_DISK_SECTORS = (16 << 20) // 512
_HEAD = struct.Struct("<8sBBHIQIBB18x16s")
_MAC_AT = 512 - 32
_FLAGS = 0x01 | 0x08 | 0x10
_LOG2_INTERLEAVE = 15
_INTERLEAVE = 1 << _LOG2_INTERLEAVE
_TAG_SECTORS = _INTERLEAVE // BLOCK_SECTORS * TAG_BYTES // 512
_SECTION_SECTORS = 8 * (1 + 4 * BLOCK_SECTORS)
_SECTIONS = 16
JOURNAL_SECTORS = _SECTIONS * _SECTION_SECTORS
_AREAS_AT = BLOCK_SECTORS + JOURNAL_SECTORS


class LayoutError(RefusedError):
    """A disk that cannot hold the layout."""

    code = "storage-layout"


class Layout(NamedTuple):
    """The layout of one disk: its sectors, and the sectors of data that dm-integrity provides."""

    disk_sectors: int
    data_sectors: int


def plan_layout(disk_sectors: int) -> Layout:
    """The layout of a disk of ``disk_sectors`` sectors, the superblock not counted. Raises ``LayoutError``
    when the disk is too small or is no whole number of blocks.
    """
    if disk_sectors < MIN_DISK_SECTORS or disk_sectors % BLOCK_SECTORS:
        raise LayoutError(
            f"has {disk_sectors} sectors",
            subject="data disk",
            advice=f"give a disk of a multiple of {BLOCK} bytes and at least {MIN_DISK_SECTORS // 2048} MiB",
        )
    space = disk_sectors + BLOCK_SECTORS - _AREAS_AT
    areas, rest = divmod(space, _TAG_SECTORS + _INTERLEAVE)
    return Layout(disk_sectors, areas * _INTERLEAVE + max(0, rest - _TAG_SECTORS))


def data_sector_on_disk(layout: Layout, sector: int) -> int:
    """The sector of the host's disk that holds sector ``sector`` of the data."""
    if not 0 <= sector < layout.data_sectors:
        raise LayoutError("lies outside", subject=f"sector {sector}", advice="report this as a bug")
    area, offset = divmod(sector, _INTERLEAVE)
    return _AREAS_AT + area * _INTERLEAVE + (area + 1) * _TAG_SECTORS + offset - BLOCK_SECTORS


def superblock(layout: Layout, keys: StorageKeys) -> bytes:
    """The superblock as the kernel would write it, with the derived salt."""
    import hmac

    head = _HEAD.pack(
        b"integrt",
        5,
        _LOG2_INTERLEAVE,
        TAG_BYTES,
        _SECTIONS,
        layout.data_sectors,
        _FLAGS,
        BLOCK_SECTORS.bit_length() - 1,
        _bitmap_bit(layout.data_sectors),
        keys.journal_salt,
    ).ljust(_MAC_AT, b"\0")
    return (head + hmac.digest(keys.journal_mac, head, "sha256")).ljust(BLOCK, b"\0")


def same_layout(found: bytes, computed: bytes) -> bool:
    """Whether two superblocks describe the same layout: equal but for salt and HMAC."""
    return len(found) == len(computed) and found[:48] == computed[:48]


def _bitmap_bit(data_sectors: int) -> int:
    log2 = _LOG2_INTERLEAVE
    while (data_sectors + (1 << log2) - 1) >> log2 > JOURNAL_SECTORS << 12:
        log2 += 1
    return log2 - (BLOCK_SECTORS.bit_length() - 1)
