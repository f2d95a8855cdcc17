"""GUID partition tables against sgdisk, and partitions that must be refused."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from image_builder.gpt import GptImage, PartitionError, build_gpt, disk_guid, partition_guid
from measurements.gpt import PRIMARY_SIZE, Partition, parse_gpt
from tests.support.tools import require_tool

SECTORS = 64 << 11
LAST_USABLE = SECTORS - 34
LAST_ALIGNED = SECTORS - 2048 - 1
TYPE = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


def partition(
    first: int, last: int, *, name: str = "data", number: int = 1, attributes: int = 0
) -> Partition:
    return Partition(
        name=name,
        type_guid=TYPE,
        guid=UUID(int=number),
        first_lba=first,
        last_lba=last,
        attributes=attributes,
    )


PAIR = [
    partition(2048, 4095, name="first", number=1),
    partition(4096, LAST_ALIGNED, name="x" * 36, number=2, attributes=1 << 60 | 1),
]


def write(path: Path, image: GptImage) -> None:
    with path.open("wb") as stream:
        stream.write(image.primary)
        stream.seek(SECTORS * 512 - len(image.backup))
        stream.write(image.backup)


@pytest.mark.parametrize("partitions", [[], PAIR[:1], PAIR])
def test_sgdisk_finds_no_problem(partitions: list[Partition], tmp_path: Path) -> None:
    sgdisk = require_tool("sgdisk", package="gdisk")
    path = tmp_path / "disk"
    write(path, build_gpt(SECTORS, disk_guid("demo"), partitions))
    verified = subprocess.run([sgdisk, "-v", str(path)], check=True, capture_output=True, text=True)
    assert "No problems found" in verified.stdout
    assert verified.stderr == ""
    for word in ("Caution", "Warning", "corrupt", "Identified"):
        assert word not in verified.stdout


def test_sgdisk_reads_what_was_asked_for(tmp_path: Path) -> None:
    sgdisk = require_tool("sgdisk", package="gdisk")
    path = tmp_path / "disk"
    write(path, build_gpt(SECTORS, disk_guid("demo"), PAIR))
    output = subprocess.run([sgdisk, "-p", "-i", "2", str(path)], check=True, capture_output=True, text=True)
    assert f"Disk identifier (GUID): {str(disk_guid('demo')).upper()}" in output.stdout
    assert f"Partition unique GUID: {str(UUID(int=2)).upper()}" in output.stdout
    assert f"Partition GUID code: {str(TYPE).upper()}" in output.stdout
    assert f"Last sector: {LAST_ALIGNED} " in output.stdout
    assert "Attribute flags: 1000000000000001" in output.stdout
    assert f"Partition name: '{'x' * 36}'" in output.stdout


def test_backup_repairs_a_lost_primary(tmp_path: Path) -> None:
    sgdisk = require_tool("sgdisk", package="gdisk")
    path = tmp_path / "disk"
    image = build_gpt(SECTORS, disk_guid("demo"), PAIR)
    write(path, image)
    with path.open("r+b") as stream:
        stream.seek(512)
        stream.write(bytes(PRIMARY_SIZE - 512))
    subprocess.run([sgdisk, "-e", str(path)], check=False, capture_output=True)
    assert path.read_bytes()[:PRIMARY_SIZE] == image.primary


def test_reader_gives_back_what_was_written() -> None:
    table = parse_gpt(build_gpt(SECTORS, disk_guid("demo"), PAIR).primary)
    assert table.partitions == tuple(PAIR)
    assert (table.disk_guid, table.first_usable_lba, table.last_usable_lba) == (
        disk_guid("demo"),
        34,
        LAST_USABLE,
    )


def test_reserved_bytes_are_zero() -> None:
    image = build_gpt(SECTORS, disk_guid("demo"), PAIR)
    backup = image.backup[-512:]
    for header in (image.primary[512:1024], backup):
        assert header[20:24] == bytes(4)
        assert header[92:] == bytes(420)
    assert struct.unpack_from("<QQ", backup, 24) == (SECTORS - 1, 1)
    assert struct.unpack_from("<Q", backup, 72) == (LAST_USABLE + 1,)


def test_most_and_smallest_partitions_are_taken() -> None:
    many = [partition(2048 * n, 2048 * n, name=f"p{n}", number=n) for n in range(1, 129)]
    table = parse_gpt(build_gpt(1 << 20, disk_guid("demo"), many).primary)
    assert table.partitions == tuple(many)


def test_protective_mbr_covers_the_disk() -> None:
    for sectors, size in ((SECTORS, SECTORS - 1), (1 << 33, 0xFFFFFFFF)):
        mbr = build_gpt(sectors, disk_guid("demo"), []).primary[:512]
        assert mbr[446:462] == b"\0\0\2\0\xee\xff\xff\xff" + struct.pack("<II", 1, size)
        assert mbr[:446] == bytes(446)
        assert mbr[462:] == bytes(48) + b"\x55\xaa"


def test_guids_come_from_the_names_alone() -> None:
    assert disk_guid("demo") == UUID("4ac2d542-adba-5547-a7e1-f006609237ff")
    assert partition_guid("demo", "root") == UUID("e89aec09-0d94-5262-b795-493c287b8fb0")
    assert {disk_guid("demo").version, partition_guid("demo", "root").version} == {5}
    guids = [disk_guid("a"), disk_guid("b"), partition_guid("a", "root"), partition_guid("a", "esp")]
    guids += [partition_guid("b", "root"), partition_guid("a\0root", ""), partition_guid("", "a")]
    assert len(set(guids)) == len(guids)


@pytest.mark.parametrize(
    ("partitions", "reason"),
    [
        ([partition(2049, 4095)], "multiple of 1 MiB"),
        ([partition(0, 4095)], "leaves the usable blocks"),
        ([partition(2048, LAST_USABLE + 1)], "leaves the usable blocks"),
        ([partition(4096, 4095)], "leaves the usable blocks"),
        ([PAIR[0], partition(2048, 4095, name="b", number=2)], "overlaps"),
        (list(reversed(PAIR)), "overlaps"),
        ([PAIR[0], partition(4096, 6143, name="first", number=2)], "same name or GUID"),
        ([PAIR[0], partition(4096, 6143, name="b", number=1)], "same name or GUID"),
        ([partition(2048, 4095, name="x" * 37)], "1 to 36 ASCII"),
        ([partition(2048, 4095, name="")], "1 to 36 ASCII"),
        ([partition(2048, 4095, name="ä")], "1 to 36 ASCII"),
        ([partition(2048, 2048)] * 129, "129 partitions"),
    ],
)
def test_partitions_that_do_not_fit_are_refused(partitions: list[Partition], reason: str) -> None:
    with pytest.raises(PartitionError, match=reason) as caught:
        build_gpt(SECTORS, disk_guid("demo"), partitions)
    assert caught.value.exit_status == 2
