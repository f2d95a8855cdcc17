"""``keyturn eif`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyturn.cli import main
from tests.image_builder.test_measured_image import image_folder, initrd

pytestmark = pytest.mark.apt


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["eif", *map(str, arguments)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = image_folder(tmp_path / "image", initrd())
    (folder / "kernel").write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    return folder


def test_a_file_is_the_same_twice_and_says_what_it_measures(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "one.eif", tmp_path / "out/two.eif"]
    for file in files:
        assert call("build", image, "--output", file, "--memory", "512MiB", "--cpus", "4", "--json") == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    capsys.readouterr()
    assert call("show", files[0], "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["default_memory"], document["default_cpus"]) == (512 << 20, 4)
    assert [section["type"] for section in document["sections"]] == [
        "kernel",
        "cmdline",
        "metadata",
        "ramdisk",
    ]
    assert document["registers"]["0"] == document["registers"]["1"]
    assert set(document["registers"]["8"]) == {"0"}


def test_a_further_ram_disk_is_in_pcr_2(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "more.cpio"
    disk.write_bytes(initrd())
    documents = []
    choices: list[list[str | Path]] = [[], ["--ramdisk", disk]]
    for words in choices:
        assert call("build", image, "--output", tmp_path / "image.eif", *words, "--json") == 0
        documents.append(json.loads(capsys.readouterr().out)["registers"])
    assert documents[0]["1"] == documents[1]["1"]
    assert documents[0]["0"] != documents[1]["0"]
    assert documents[0]["2"] != documents[1]["2"]


def test_a_damaged_file_is_refused_by_name(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "image.eif"
    assert call("build", image, "--output", file) == 0
    assert "RAMDISK" in capsys.readouterr().out
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert call("show", file) == 2
    assert "image.eif" in capsys.readouterr().err


def test_what_cannot_be_written_leaves_nothing(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image / "kernel").write_bytes(b"no kernel")
    target = tmp_path / "out/image.eif"
    assert call("build", image, "--output", target) == 2
    assert "bzImage" in capsys.readouterr().err
    assert list(target.parent.iterdir()) == []
    assert call("build", image, "--output", tmp_path) == 2
    assert "is a folder" in capsys.readouterr().err
