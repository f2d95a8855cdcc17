"""Release folders: complete ones, and ones in which any file is not as the checksum file says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from measurements.dstack.errors import DstackFormatError, DstackInputError
from measurements.dstack.release import parse_metadata, read_release
from tests.support.dstack_release import FILES, METADATA, write_release


def test_a_complete_release_is_read(tmp_path: Path) -> None:
    image_hash = write_release(tmp_path)
    release = read_release(tmp_path)
    assert release.os_image_hash == image_hash
    assert release.files["bzImage"] == FILES["bzImage"]
    assert "rootfs.img" not in release.files
    assert release.metadata.version == "0.5.5"
    assert release.document("measurement.tdx.cbor") is None


def test_measurement_documents_are_found(tmp_path: Path) -> None:
    write_release(tmp_path, {**FILES, "measurement.tdx.cbor": b"\xa0"})
    document = read_release(tmp_path).document("measurement.tdx.cbor")
    assert document is not None
    assert document.measurement == b"\xa0"
    assert hashlib.sha256(document.checksum_file).digest() == read_release(tmp_path).os_image_hash


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    write_release(tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DstackFormatError, match=f"{name}: has SHA-256"):
        read_release(tmp_path)


@pytest.mark.parametrize("name", [*sorted(FILES), "sha256sum.txt", "digest.txt"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    write_release(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DstackInputError, match=f"release, {name}: cannot be read"):
        read_release(tmp_path)


def test_a_digest_of_another_release_is_refused(tmp_path: Path) -> None:
    write_release(tmp_path)
    (tmp_path / "digest.txt").write_text("ab" * 32 + "\n")
    with pytest.raises(DstackFormatError, match=r"digest\.txt: says abab"):
        read_release(tmp_path)


@pytest.mark.parametrize("name", ["bzImage", "ovmf.fd", "initramfs.cpio.gz", "metadata.json"])
def test_files_that_are_used_must_be_listed(tmp_path: Path, name: str) -> None:
    write_release(tmp_path, listed=[each for each in FILES if each != name])
    with pytest.raises(DstackFormatError, match=f"does not list {name}"):
        read_release(tmp_path)


def test_names_that_leave_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    (tmp_path / "secret").write_bytes(b"secret")
    files = {**FILES, "metadata.json": json.dumps({**METADATA, "kernel": "../secret"}).encode()}
    write_release(folder, files)
    with pytest.raises(DstackFormatError, match=r"does not list \.\./secret"):
        read_release(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ovmf_variant": "202505"}, "the firmware layout '202505'"),
        ({"cmdline": " "}, "has no command line"),
        ({"cmdline": None}, "cmdline: is not a text"),
        ({"cmdline": "\ud800"}, "cmdline: holds a lone surrogate"),
        ({"kernel": 1}, "kernel: is not a text"),
        ({"is_dev": "no"}, "is_dev: is neither"),
    ],
)
def test_other_metadata_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_metadata(json.dumps({**METADATA, **changes}).encode())


@pytest.mark.parametrize("key", ["bios", "kernel", "initrd", "cmdline", "version"])
def test_missing_metadata_are_refused(key: str) -> None:
    fields = {name: value for name, value in METADATA.items() if name != key}
    with pytest.raises(DstackFormatError, match=f"has no {key}"):
        parse_metadata(json.dumps(fields).encode())


def test_metadata_of_newer_images() -> None:
    found = parse_metadata(
        json.dumps({**METADATA, "kernel_header_normalized": True, "bios-sev": "ovmf-sev.fd"}).encode()
    )
    assert found.kernel_header_normalized
    assert found.bios_sev == "ovmf-sev.fd"
