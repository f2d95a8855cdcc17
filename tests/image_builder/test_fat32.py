"""FAT32 file systems against dosfstools and mtools, and what must be refused."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_builder.fat32 import MIN_CLUSTERS, SECTOR, Fat32Summary, FatError, write_fat32
from image_builder.tree import BytesContent, Content, FileSlice
from tests.support.tools import require_tool

VOLUME_ID = 0x1234ABCD
SMALLEST = (32 + 2 * 512 + MIN_CLUSTERS) * SECTOR


def content_of(files: dict[str, bytes]) -> dict[str, Content]:
    return {path: BytesContent(data) for path, data in files.items()}


FILES = {
    "EFI/BOOT/BOOTX64.EFI": b"MZ" + b"\x17" * 300_000,
    "EFI/LINUX/A.EFI": b"x" * SECTOR,
    "EFI/LINUX/B": b"y" * (SECTOR + 1),
    "EMPTY.TXT": b"",
    "ONE-BYTE.TXT": b"z",
}


def write(
    path: Path, files: dict[str, bytes], *, size: int | None = None, label: str = "KEYTURN"
) -> Fat32Summary:
    with path.open("wb") as stream:
        return write_fat32(content_of(files), stream, size=size, volume_id=VOLUME_ID, label=label)


def many_files() -> dict[str, bytes]:
    """More files than fit one cluster of directory entries, in several directories."""
    return {f"DIR{folder}/F{index:04}": bytes([index % 256]) for folder in range(2) for index in range(100)}


CASES: dict[str, tuple[dict[str, bytes], int | None]] = {
    "usual": (FILES, None),
    "empty": ({}, None),
    "deep": ({"/".join("ABCDEFGH") + "/X.Y": b"deep"}, None),
    "many": (many_files(), None),
    "larger than the smallest": ({"BIG.BIN": bytes(range(256)) * 140_000}, None),
    "given size": (FILES, 64 << 20),
    "odd size": (FILES, SMALLEST + 77 * SECTOR),
}


@pytest.fixture(params=list(CASES))
def image(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, bytes], Fat32Summary]:
    """A file system with what is in it."""
    files, size = CASES[request.param]
    path = tmp_path / "esp.img"
    return path, files, write(path, files, size=size)


def test_fsck_has_nothing_to_say(image: tuple[Path, dict[str, bytes], Fat32Summary]) -> None:
    fsck = require_tool("fsck.vfat", package="dosfstools")
    path, _, summary = image
    checked = subprocess.run([fsck, "-n", "-v", str(path)], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert checked.stderr == ""
    used = summary.clusters - summary.free_clusters
    assert checked.stdout.rstrip().endswith(f" files, {used}/{summary.clusters} clusters")
    for word in ("differ", "wrong", "bad", "free cluster summary wrong", "dirty", "invalid"):
        assert word not in checked.stdout.lower()


def test_mtools_reads_every_file(image: tuple[Path, dict[str, bytes], Fat32Summary], tmp_path: Path) -> None:
    mcopy = require_tool("mcopy", package="mtools")
    path, files, _ = image
    target = tmp_path / "copied"
    target.mkdir()
    if files:
        command = [mcopy, "-s", "-i", str(path), "::*", str(target)]
        copied = subprocess.run(command, check=True, capture_output=True, text=True)
        assert copied.stderr == ""
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == files


def test_mtools_lists_names_dates_and_label(tmp_path: Path) -> None:
    mdir = require_tool("mdir", package="mtools")
    path = tmp_path / "esp.img"
    write(path, FILES, label="MY LABEL")
    output = subprocess.run([mdir, "-/", "-i", str(path), "::"], check=True, capture_output=True, text=True)
    assert "Volume in drive : is MY LABEL" in output.stdout
    assert "Serial Number is 1234-ABCD" in output.stdout
    assert "BOOTX64  EFI    300002 1980-01-01   0:00" in output.stdout
    dated = [line for line in output.stdout.splitlines() if "-01-01" in line]
    assert all("1980-01-01   0:00" in line for line in dated)
    assert len(dated) == len(FILES) + 3 + 2 * 3


def test_minfo_agrees_with_the_boot_sector(tmp_path: Path) -> None:
    minfo = require_tool("minfo", package="mtools")
    path = tmp_path / "esp.img"
    summary = write(path, FILES)
    output = subprocess.run([minfo, "-i", str(path), "::"], check=True, capture_output=True, text=True).stdout
    assert f"big size: {summary.size // SECTOR} sectors" in output
    assert f"free clusters={summary.free_clusters}" in output
    assert f"last allocated cluster={summary.clusters - summary.free_clusters + 2}" in output
    assert 'disk type="FAT32   "' in output


def test_reserved_sectors_equal_those_of_mkfs(tmp_path: Path) -> None:
    mkfs = require_tool("mkfs.vfat", package="dosfstools")
    write(tmp_path / "own", {}, size=64 << 20)
    with (tmp_path / "other").open("wb") as stream:
        stream.truncate(64 << 20)
    options = ["-F", "32", "-s", "1", "-i", f"{VOLUME_ID:08x}", "-n", "KEYTURN", "--invariant"]
    subprocess.run([mkfs, *options, str(tmp_path / "other")], check=True, capture_output=True)
    own, other = (tmp_path / "own").read_bytes(), (tmp_path / "other").read_bytes()
    geometry_and_fat_size = {*range(24, 28), *range(36, 40)}
    for at in (*range(11, 90), *range(510, 512)):
        assert own[at] == other[at] or at in geometry_and_fat_size, at
    counts = range(SECTOR + 488, SECTOR + 496)
    for at in range(SECTOR, 2 * SECTOR):
        assert own[at] == other[at] or at in counts, at


def test_bytes_are_pinned(tmp_path: Path) -> None:
    write(tmp_path / "esp.img", FILES)
    digest = hashlib.sha256((tmp_path / "esp.img").read_bytes()).hexdigest()
    assert digest == "3fa702f24bbe1800410b183a7f3064609a942ef831c73918df5d956532b8d914"


def test_smallest_file_system_is_still_fat32(tmp_path: Path) -> None:
    summary = write(tmp_path / "esp.img", {})
    assert (summary.size, summary.clusters) == (SMALLEST, MIN_CLUSTERS)
    assert (tmp_path / "esp.img").stat().st_size == SMALLEST


def test_backup_boot_sectors_equal_the_first(tmp_path: Path) -> None:
    write(tmp_path / "esp.img", FILES)
    data = (tmp_path / "esp.img").read_bytes()
    assert data[: 2 * SECTOR] == data[6 * SECTOR : 8 * SECTOR]
    assert data[510:512] == data[1022:1024] == b"\x55\xaa"


def test_full_file_system_names_no_free_cluster(tmp_path: Path) -> None:
    files = {"BIG.BIN": b"x" * ((MIN_CLUSTERS - 1) * SECTOR)}
    assert write(tmp_path / "esp.img", files).free_clusters == 0
    data = (tmp_path / "esp.img").read_bytes()
    assert struct.unpack_from("<II", data, SECTOR + 488) == (0, 0xFFFFFFFF)
    with pytest.raises(FatError, match="does not fit"):
        write(tmp_path / "esp.img", files | {"MORE": b"x"}, size=SMALLEST)


def test_files_lie_in_one_run(tmp_path: Path) -> None:
    pattern = b"".join(struct.pack("<I", number) for number in range(100_000))
    write(tmp_path / "esp.img", {"A/B": b"first", "RUN.BIN": pattern})
    assert pattern in (tmp_path / "esp.img").read_bytes()


def test_order_of_the_files_makes_no_difference(tmp_path: Path) -> None:
    write(tmp_path / "one", FILES)
    write(tmp_path / "two", dict(reversed(FILES.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "efi/BOOT",
        "LONGERNAME.EFI",
        "A.LONG",
        "A.B.C",
        "A B",
        "",
        "/A",
        "A/",
        "A//B",
        ".",
        "..",
        "../A",
        ".A",
        "A.",
        "Ä",
        "A\n",
        "A\0",
        "A:B",
        "A\\B",
        "\u212a",
    ],
)
def test_other_than_short_names_are_refused(name: str) -> None:
    with pytest.raises(FatError, match=r"is not in 8\.3 form"):
        write_fat32(content_of({name: b""}), io.BytesIO(), volume_id=1, label="X")


def test_file_that_is_also_a_directory_is_refused() -> None:
    with pytest.raises(FatError, match="also the directory"):
        write_fat32(content_of({"A": b"", "A/B": b""}), io.BytesIO(), volume_id=1, label="X")


def test_file_of_4_gib_is_refused() -> None:
    big: dict[str, Content] = {"A": FileSlice(path=Path("x"), offset=0, size=1 << 32)}
    with pytest.raises(FatError, match="has 4294967296 bytes"):
        write_fat32(big, io.BytesIO(), volume_id=1, label="X")


@pytest.mark.parametrize("size", [0, SECTOR, SMALLEST - SECTOR, (1 << 37) + (1 << 33)])
def test_sizes_that_are_not_fat32_are_refused(size: int) -> None:
    with pytest.raises(FatError, match="does not fit FAT32") as caught:
        write_fat32({}, io.BytesIO(), size=size, volume_id=1, label="X")
    assert str(SMALLEST) in caught.value.advice


def test_size_of_no_whole_sectors_is_refused() -> None:
    with pytest.raises(FatError, match="not a multiple of 512"):
        write_fat32({}, io.BytesIO(), size=SMALLEST + 1, volume_id=1, label="X")


@pytest.mark.parametrize(
    ("label", "volume_id"), [("", 1), ("TWELVE CHARS", 1), ("lower", 1), (" X", 1), ("X", -1), ("X", 1 << 32)]
)
def test_bad_labels_and_volume_ids_are_refused(label: str, volume_id: int) -> None:
    with pytest.raises(FatError, match="label or volume id"):
        write_fat32({}, io.BytesIO(), volume_id=volume_id, label=label)


def test_content_that_changes_its_size_is_refused(tmp_path: Path) -> None:
    class Growing:
        size = 1

        def chunks(self) -> Iterator[bytes]:
            yield b"more"

    with pytest.raises(FatError, match="gave 4 bytes, not its 1"):
        write_fat32({"A": Growing()}, io.BytesIO(), volume_id=1, label="X")
