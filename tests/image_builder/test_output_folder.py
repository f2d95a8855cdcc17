"""An output folder is complete or absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from image_builder.output_folder import OutputError, new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_folder(tmp_path / "image") as folder:
        (folder / "manifest.json").write_text("1")
        assert not (tmp_path / "image").exists()
    assert names(tmp_path) == ["image"]


def test_replaces_an_image_and_leaves_it_alone_on_failure(tmp_path: Path) -> None:
    with new_folder(tmp_path / "image") as folder:
        (folder / "manifest.json").write_text("1")
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "image") as folder:
        (folder / "absent").unlink()
    assert (tmp_path / "image" / "manifest.json").read_text() == "1"
    with new_folder(tmp_path / "image") as folder:
        (folder / "manifest.json").write_text("3")
    assert (tmp_path / "image" / "manifest.json").read_text() == "3"
    assert names(tmp_path) == ["image"]


def test_never_replaces_anything_else(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("home", "file"):
        with pytest.raises(OutputError, match="is not an image"), new_folder(tmp_path / name):
            pass
    assert (tmp_path / "home" / "letter").read_text() == "dear"


def test_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for owner in (str(gone.pid), str(running.pid), "text"):
            (tmp_path / f".image.partial-{owner}").mkdir()
        with new_folder(tmp_path / "image"):
            pass
        left = {".image.partial-text", f".image.partial-{running.pid}", "image"}
        assert set(names(tmp_path)) == left
    finally:
        running.communicate(b"\n")
