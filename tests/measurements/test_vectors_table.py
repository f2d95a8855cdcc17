"""The table of vectors: complete, equal to what the tests use, and fetched only if the bytes are right."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from tests.support import fetch_vectors
from tests.support.fetch_vectors import Vector, read_table
from tests.support.vectors import vectors_folder


def test_vectors_at_hand_are_those_of_the_table() -> None:
    folder = vectors_folder()
    if folder is None:
        pytest.skip("no vectors: set KEYTURN_VECTORS or run `make vectors`")
    for row in read_table():
        path = folder / row.vector
        if path.exists():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == row.sha256, row.vector


def test_rows_are_unique_and_stay_inside_the_folder() -> None:
    names = [row.vector for row in read_table()]
    assert len(names) == len(set(names))
    assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in names)
    assert {row.encoding for row in read_table()} == {"raw", "base64"}


def row_for(data: bytes, *, encoding: str = "raw") -> Vector:
    digest = hashlib.sha256(data).hexdigest()
    return Vector(vector="a/b", repository="o/r", commit="c", path="p", encoding=encoding, sha256=digest)


def source_with(folder: Path, data: bytes) -> str:
    path = folder / "o/r/c/p"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("encoding", ["raw", "base64"])
def test_a_vector_is_fetched_once(tmp_path: Path, encoding: str) -> None:
    sent = base64.b64encode(b"data") if encoding == "base64" else b"data"
    source = source_with(tmp_path / "source", sent)
    row = row_for(b"data", encoding=encoding)
    assert fetch_vectors.fetch(row, tmp_path / "out", source) == "fetched"
    assert (tmp_path / "out/a/b").read_bytes() == b"data"
    assert fetch_vectors.fetch(row, tmp_path / "out", source) == "present"


def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    source = source_with(tmp_path / "source", b"other")
    with pytest.raises(ValueError, match="expected SHA-256"):
        fetch_vectors.fetch(row_for(b"data"), tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_failures_are_told_by_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch_vectors, "read_table", lambda: [row_for(b"data")])
    arguments = ["--folder", str(tmp_path / "out"), "--source", str(tmp_path / "nothing")]
    assert fetch_vectors.main(arguments) == 1
    assert "failed" in capsys.readouterr().out
