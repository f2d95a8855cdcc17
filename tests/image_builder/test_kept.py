"""Kept facts: found once, found again when the file is not what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_builder.kept import NO_FACTS, KeptFacts, keep, kept
from image_builder.store import Store

KEY = "ab" * 32


def never() -> object:
    raise AssertionError("it is kept")


def test_a_fact_is_found_once(tmp_path: Path) -> None:
    facts = KeptFacts(Store(tmp_path / "store"))
    assert facts.of("kind-1", KEY, lambda: {"names": ["a", "b"]}) == {"names": ["a", "b"]}
    assert facts.of("kind-1", KEY, never) == {"names": ["a", "b"]}
    assert facts.of("kind-2", KEY, lambda: 2) == 2
    assert facts.of("kind-1", "cd" * 32, lambda: 3) == 3


def test_without_a_store_it_is_found_each_time() -> None:
    assert NO_FACTS.of("kind-1", KEY, lambda: 1) == 1
    assert NO_FACTS.of("kind-1", KEY, lambda: 2) == 2


def test_an_altered_file_is_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = keep(store, "kind-1", KEY, b"1")
    path.write_bytes(b"2")
    assert kept(store, "kind-1", KEY) is None
    assert KeptFacts(store).of("kind-1", KEY, lambda: 1) == 1
    assert kept(store, "kind-1", KEY) == path


def test_an_error_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(AssertionError):
        KeptFacts(store).of("kind-1", KEY, never)
    assert kept(store, "kind-1", KEY) is None
