"""``keyturn diff``: what it prints and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyturn.cli import main
from tests.image_builder.image_folders import FakeImage


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def images(tmp_path: Path) -> tuple[str, str]:
    """Two images that differ in a user's number, which the colons of ``/etc/passwd`` surround."""
    return str(FakeImage().write(tmp_path / "old")), str(FakeImage(uid=1001).write(tmp_path / "new"))


def test_identical_images_exit_with_0(capsys: pytest.CaptureFixture[str], images: tuple[str, str]) -> None:
    status, out, _ = run(capsys, "diff", images[0], images[0])
    assert (status, out) == (0, f"identical: {images[0]} and {images[0]}\n")


def test_different_images_exit_with_1_and_say_why(
    capsys: pytest.CaptureFixture[str], images: tuple[str, str]
) -> None:
    status, out, _ = run(capsys, "diff", *images)
    assert status == 1
    assert "recipe key user[app].uid changed: 1000 → 1001" in out
    assert "/etc/passwd" in out


def test_json_is_one_document(capsys: pytest.CaptureFixture[str], images: tuple[str, str]) -> None:
    status, out, _ = run(capsys, "diff", "--json", *images)
    document = json.loads(out)
    assert status == 1
    assert document["identical"] is False
    assert [cause["kind"] for cause in document["causes"]] == ["recipe"]
    assert {"keyturn.toml", "root.erofs", "disk.raw"} <= {each["subject"] for each in document["differences"]}


def test_what_is_no_image_exits_with_2(
    capsys: pytest.CaptureFixture[str], images: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    status, out, err = run(capsys, "diff", images[0], str(tmp_path / "empty"))
    assert (status, out) == (2, "")
    assert "has no manifest.json" in err
