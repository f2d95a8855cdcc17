"""Debian packages: every compression, and damage of every kind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from image_builder.deb import open_deb
from image_builder.package_errors import PackageError
from image_builder.tar_format import BytesArchive, read_tar
from tests.image_builder.package_files import COMPRESSORS, ar_bytes, deb_bytes, folder, regular, tar_bytes
from tests.support.tools import require_tool

MEMBERS = [folder("./usr"), regular("./usr/file", b"hello" * 1000)]


def opened(tmp_path: Path, data: bytes) -> tuple[bytes, bytes]:
    path = tmp_path / "package.deb"
    path.write_bytes(data)
    deb = open_deb(path, name="demo")
    return deb.control_tar(), b"".join(deb.data_tar())


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_reads_every_compression(tmp_path: Path, compression: str) -> None:
    control, data = opened(tmp_path, deb_bytes("demo", MEMBERS, compression=compression))
    assert data == tar_bytes(MEMBERS)
    assert [member.name for member in read_tar(BytesArchive(control), subject="demo")] == ["./control"]


def test_reads_what_dpkg_makes(tmp_path: Path) -> None:
    dpkg_deb = require_tool("dpkg-deb", package="dpkg")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: d\n"
    )
    (tree / "file").write_bytes(b"content")
    for compression in ("xz", "gzip", "zstd", "none"):
        path = tmp_path / f"{compression}.deb"
        subprocess.run(
            [dpkg_deb, f"-Z{compression}", "-b", str(tree), str(path)], check=True, capture_output=True
        )
        expected = subprocess.run(
            [dpkg_deb, "--fsys-tarfile", str(path)], check=True, capture_output=True
        ).stdout
        assert b"".join(open_deb(path, name="demo").data_tar()) == expected


def test_skips_members_with_an_underscore(tmp_path: Path) -> None:
    tar = tar_bytes(MEMBERS)
    data = ar_bytes([("debian-binary", b"2.0\n"), ("_extra", b"?"), ("control.tar", tar), ("data.tar", tar)])
    assert opened(tmp_path, data)[1] == tar


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("debian-binary", b"2.0\n"), ("data.tar", b"")], "do not make a package"),
        ([("debian-binary", b"3.0\n"), ("control.tar", b""), ("data.tar", b"")], "format is not 2.0"),
        ([("debian-binary", b"2.0\n"), ("control.tar", b""), ("data.tar.lz9", b"")], "not supported"),
        ([("debian-binary", b"2.0\n"), ("control.tar", b""), ("data.tar", b""), ("x", b"")], "do not make"),
    ],
)
def test_refuses_other_archives(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    with pytest.raises(PackageError, match=reason):
        opened(tmp_path, ar_bytes(members))


@pytest.mark.parametrize("compression", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "longer"])
def test_refuses_damaged_compressed_data(tmp_path: Path, compression: str, damage: str) -> None:
    plain = tar_bytes(MEMBERS)
    packed = COMPRESSORS[compression](plain)
    packed = {
        "cut": packed[:-9],
        "flipped": packed[:-30] + bytes([packed[-30] ^ 0xFF]) + packed[-29:],
        "longer": packed + b"more" * 100_000,
    }[damage]
    data = ar_bytes([("debian-binary", b"2.0\n"), ("control.tar", plain), (f"data.tar{compression}", packed)])
    with pytest.raises(PackageError, match="demo"):
        opened(tmp_path, data)


@pytest.mark.parametrize("length", [0, 7, 30, 67, 90, 200])
def test_refuses_a_file_that_ends_early(tmp_path: Path, length: int) -> None:
    with pytest.raises(PackageError):
        opened(tmp_path, deb_bytes("demo", MEMBERS)[:length])
