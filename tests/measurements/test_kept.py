"""Kept results: the same as made anew, whatever lies in the folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.kept import cache_folder, kept
from measurements.systemd_stub import parse_uki
from measurements.uki_digests import decode_uki_digests, encode_uki_digests, hash_uki
from tests.support.boot_model import ModelImage

SOURCE = hashlib.sha256(b"inputs").digest()


def never() -> bytes:
    raise AssertionError("made again")


def test_a_result_is_made_once(tmp_path: Path) -> None:
    assert kept("kind/1", SOURCE, lambda: b"result", folder=tmp_path / "new") == b"result"
    assert kept("kind/1", SOURCE, never, folder=tmp_path / "new") == b"result"


@pytest.mark.parametrize(("kind", "source"), [("kind/2", SOURCE), ("kind/1", bytes(32))])
def test_another_kind_or_source_is_made_anew(kind: str, source: bytes, tmp_path: Path) -> None:
    kept("kind/1", SOURCE, lambda: b"result", folder=tmp_path)
    assert kept(kind, source, lambda: b"other", folder=tmp_path) == b"other"


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7), st.booleans())
def test_attack_an_entry_with_any_bit_changed_or_cut_is_made_anew(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    kept("kind/1", SOURCE, lambda: b"result", folder=folder)
    (entry,) = folder.iterdir()
    data = bytearray(entry.read_bytes())
    if cut:
        del data[place % len(data) :]
    else:
        data[place % len(data)] ^= 1 << bit
    entry.write_bytes(data)
    assert kept("kind/1", SOURCE, lambda: b"again", folder=folder) == b"again"


def test_without_a_place_the_result_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert kept("kind/1", SOURCE, lambda: b"result", folder=tmp_path / "file") == b"result"


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "own"))
    assert cache_folder("measured") == tmp_path / "own/measured"
    monkeypatch.delenv("KEYTURN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("measured") == tmp_path / "keyturn/measured"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("measured") == tmp_path / ".cache/keyturn/measured"


@pytest.mark.apt
def test_digests_of_a_uki_are_read_as_they_were_written() -> None:
    image = ModelImage().inputs().uki
    digests = hash_uki(image, parse_uki(image))
    assert decode_uki_digests(encode_uki_digests(digests)) == digests
    assert set(digests.sections) >= {".linux", ".initrd", ".cmdline"}
