"""Reading GUID partition tables: sgdisk's own ones, and tables that are not right."""

from __future__ import annotations

import struct
import subprocess
import zlib
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.gpt import build_gpt
from measurements.errors import FormatError
from measurements.gpt import BLOCK, ENTRY, HEADER, PRIMARY_SIZE, Partition, header_crc, parse_gpt
from tests.support.tools import require_tool

ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
DISK = UUID("00112233-4455-6677-8899-aabbccddeeff")
ENTRIES_AT = 2 * BLOCK


def two_partitions() -> bytes:
    """The start of a disk with two partitions."""
    first = Partition(name="esp", type_guid=ESP, guid=UUID(int=1), first_lba=2048, last_lba=4095)
    second = Partition(name="root", type_guid=LINUX, guid=UUID(int=2), first_lba=4096, last_lba=6143)
    return build_gpt(8192, DISK, [first, second]).primary


def changed(layout: str, at: int, *values: object, repair: bool = True) -> bytes:
    """The table with other values at ``at``, and with correct checksums where ``repair`` says so."""
    data = bytearray(two_partitions())
    struct.pack_into(layout, data, at, *values)
    if repair:
        struct.pack_into("<I", data, BLOCK + 88, zlib.crc32(data[ENTRIES_AT:PRIMARY_SIZE]))
        struct.pack_into("<I", data, BLOCK + 16, header_crc(bytes(data[BLOCK : BLOCK + HEADER.size])))
    return bytes(data)


def test_table_of_sgdisk_is_read(tmp_path: Path) -> None:
    sgdisk = require_tool("sgdisk", package="gdisk")
    path = tmp_path / "disk"
    with path.open("wb") as stream:
        stream.truncate(64 << 20)
    options = ["-U", str(DISK), "-n", "3:2048:4095", "-t", "3:ef00", "-u", f"3:{UUID(int=7)}"]
    options += ["-c", "3:größe €", "-n", "9:4096:0", "-A", "9:set:60"]
    subprocess.run([sgdisk, *options, str(path)], check=True, capture_output=True)
    data = path.read_bytes()
    table = parse_gpt(data[:PRIMARY_SIZE])
    first, second = table.partitions
    assert table.disk_guid == DISK
    assert first == Partition(
        name="größe €", type_guid=ESP, guid=UUID(int=7), first_lba=2048, last_lba=4095, attributes=0
    )
    assert (second.first_lba, second.last_lba, second.attributes) == (4096, (64 << 11) - 34, 1 << 60)
    assert second.type_guid == LINUX
    used = [data[ENTRIES_AT + index * ENTRY.size :][: ENTRY.size] for index in (2, 8)]
    assert table.event_data == data[512:604] + b"\2\0\0\0\0\0\0\0" + b"".join(used)


def test_disk_without_partitions() -> None:
    table = parse_gpt(build_gpt(8192, DISK, []).primary)
    assert table.partitions == ()
    assert table.event_data[92:] == bytes(8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "less than a partition table"),
        (two_partitions()[:-1], "less than a partition table"),
        (bytes(PRIMARY_SIZE), "no GUID partition table"),
        (changed("<8s", BLOCK, b"EFI PARX"), "no GUID partition table"),
        (changed("<I", BLOCK + 8, 0x20000), "no GUID partition table"),
        (changed("<I", BLOCK + 12, 96), "no GUID partition table"),
        (changed("<Q", BLOCK + 24, 2), "no GUID partition table"),
        (changed("<Q", BLOCK + 72, 3), "no GUID partition table"),
        (changed("<I", BLOCK + 80, 0xFFFFFFFF), "not 128 of 128"),
        (changed("<I", BLOCK + 84, 256), "not 128 of 128"),
        (changed("<B", BLOCK + 56, 1, repair=False), "wrong checksum"),
        (changed("<B", ENTRIES_AT + 56, 1, repair=False), "wrong checksum"),
        (changed("<Q", ENTRIES_AT + 32, 33), "outside of the usable blocks"),
        (changed("<Q", ENTRIES_AT + 40, 4096), "overlaps another"),
        (changed("<Q", ENTRIES_AT + 40, 2047), "outside of the usable blocks"),
        (changed("<Q", ENTRIES_AT + 128 + 40, 8192 - 33), "outside of the usable blocks"),
        (changed("<H", ENTRIES_AT + 56, 0xD800), "not UTF-16"),
    ],
)
def test_tables_that_are_not_right_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_gpt(data)


@settings(max_examples=200)
@given(st.integers(BLOCK, ENTRIES_AT + 400), st.binary(min_size=1, max_size=16), st.booleans())
def test_changed_tables_give_only_format_errors(at: int, value: bytes, repair: bool) -> None:
    with suppress(FormatError):
        parse_gpt(changed(f"<{len(value)}s", at, value, repair=repair))


@given(st.binary(max_size=200))
def test_garbage_gives_only_format_errors(data: bytes) -> None:
    for disk in (data, (bytes(BLOCK) + data).ljust(PRIMARY_SIZE, b"\0")):
        with suppress(FormatError):
            parse_gpt(disk)
