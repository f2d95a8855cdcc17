"""The disk image: its parts where the table says, equal bytes by every way of copying, and speed."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
from pathlib import Path

import pytest

from image_builder.disk import ESP_TYPE, NO_AUTO, READ_ONLY, ROOT_TYPE, DiskLayout, plan_disk, write_disk
from image_builder.fat32 import FatError
from image_builder.gpt import PartitionError, disk_guid, partition_guid
from image_builder.tree import BytesContent
from measurements.gpt import PRIMARY_SIZE, parse_gpt
from tests.support.tools import require_tool

UKI = random.Random(7).randbytes(2_000_000)
ROOT = random.Random(8).randbytes(3_000_001) + bytes(5_000_000) + b"end"
MIB = 1 << 20


def build(folder: Path, *, name: str = "demo", root: bytes = ROOT, output: str = "disk.raw") -> DiskLayout:
    """A disk with ``UKI`` and ``root`` in ``folder``."""
    (folder / "root.erofs").write_bytes(root)
    esp = {"EFI/BOOT/BOOTX64.EFI": BytesContent(UKI)}
    return write_disk(folder / output, name=name, esp_files=esp, root=folder / "root.erofs")


def test_parts_are_where_the_layout_says(tmp_path: Path) -> None:
    layout = build(tmp_path)
    data = (tmp_path / "disk.raw").read_bytes()
    esp, root = layout.partitions
    assert len(data) == layout.size
    assert layout.size % MIB == 0
    for partition in layout.partitions:
        assert partition.first_lba * 512 % MIB == 0
        assert (partition.last_lba + 1) * 512 % MIB == 0
    assert data[esp.first_lba * 512 :][510:512] == b"\x55\xaa"
    assert UKI in data[esp.first_lba * 512 : (esp.last_lba + 1) * 512]
    content = data[root.first_lba * 512 : (root.last_lba + 1) * 512]
    assert content == ROOT.ljust(len(content), b"\0")
    table = parse_gpt(data[:PRIMARY_SIZE])
    assert table.partitions == layout.partitions
    assert table.disk_guid == layout.disk_guid


def test_names_types_and_guids(tmp_path: Path) -> None:
    layout = build(tmp_path)
    esp, root = layout.partitions
    assert (esp.name, esp.type_guid, esp.attributes) == ("esp", ESP_TYPE, 0)
    assert (root.name, root.type_guid, root.attributes) == ("root", ROOT_TYPE, READ_ONLY | NO_AUTO)
    assert esp.guid == partition_guid("demo", "esp")
    assert root.guid == partition_guid("demo", "root")
    assert layout.disk_guid == disk_guid("demo")


def test_sgdisk_and_fsck_find_no_problem(tmp_path: Path) -> None:
    sgdisk = require_tool("sgdisk", package="gdisk")
    fsck = require_tool("fsck.vfat", package="dosfstools")
    layout = build(tmp_path)
    path = tmp_path / "disk.raw"
    verified = subprocess.run([sgdisk, "-v", str(path)], check=True, capture_output=True, text=True)
    assert "No problems found" in verified.stdout
    assert "Caution" not in verified.stdout
    esp = layout.partitions[0]
    data = path.read_bytes()[esp.first_lba * 512 : (esp.last_lba + 1) * 512]
    (tmp_path / "esp.img").write_bytes(data)
    subprocess.run([fsck, "-n", str(tmp_path / "esp.img")], check=True, capture_output=True)


def test_mtools_read_the_uki_from_the_disk(tmp_path: Path) -> None:
    mcopy = require_tool("mcopy", package="mtools")
    layout = build(tmp_path)
    image = f"{tmp_path / 'disk.raw'}@@{layout.partitions[0].first_lba * 512}"
    command = [mcopy, "-i", image, "::EFI/BOOT/BOOTX64.EFI", str(tmp_path / "copy.efi")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "copy.efi").read_bytes() == UKI


def no_kernel_copy(*_: object, **__: object) -> int:
    """A kernel that does not copy between these files."""
    raise OSError(errno.EXDEV, "no")


@pytest.mark.parametrize("way", ["refused", "absent", "partly"])
def test_every_way_of_copying_gives_the_same_bytes(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, output="expected")
    kernel_copy = os.copy_file_range

    def partly(source: int, target: int, _: int, *, offset_src: int, offset_dst: int) -> int:
        if offset_src:
            return 0
        return kernel_copy(source, target, 12_345, offset_src=offset_src, offset_dst=offset_dst)

    if way == "absent":
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", partly if way == "partly" else no_kernel_copy)
    build(tmp_path, output="disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == (tmp_path / "expected").read_bytes()


def test_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="no space left"):
        build(tmp_path)


def test_old_contents_do_not_show_through_the_holes(tmp_path: Path) -> None:
    build(tmp_path, output="expected")
    (tmp_path / "disk.raw").write_bytes(b"\xff" * (60 * MIB))
    build(tmp_path)
    assert (tmp_path / "disk.raw").read_bytes() == (tmp_path / "expected").read_bytes()


def test_free_space_takes_no_room(tmp_path: Path) -> None:
    layout = build(tmp_path)
    taken = (tmp_path / "disk.raw").stat().st_blocks * 512
    assert taken < layout.size / 2


def test_image_names_make_different_disks(tmp_path: Path) -> None:
    one, two = build(tmp_path, name="one"), build(tmp_path, name="two")
    guids = {item.guid for layout in (one, two) for item in layout.partitions}
    assert len(guids | {one.disk_guid, two.disk_guid}) == 6


def test_bytes_are_pinned(tmp_path: Path) -> None:
    build(tmp_path, root=b"root" * 1024)
    digest = hashlib.sha256((tmp_path / "disk.raw").read_bytes()).hexdigest()
    assert digest == "ee1e13c1ed9a419c87560cb1cd9e2c925f428db4971da08cd91b0d589a672cdb"


def test_empty_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match="usable blocks"):
        build(tmp_path, root=b"")


def test_file_that_does_not_fit_an_esp_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(ROOT)
    with pytest.raises(FatError):
        write_disk(tmp_path / "disk", name="x", esp_files={"a": BytesContent(b"")}, root=tmp_path / "root")


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1])
def test_plan_has_room_for_both_parts_and_the_backup(size: int) -> None:
    layout = plan_disk("demo", esp_size=size, root_size=size)
    esp, root = layout.partitions
    for partition in (esp, root):
        assert (partition.last_lba - partition.first_lba + 1) * 512 >= size
    assert layout.size >= (root.last_lba + 1 + 33) * 512
    assert root.first_lba == esp.last_lba + 1
