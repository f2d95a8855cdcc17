"""Answers on disk: whole, of one address, or absent."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest

from attestation.fetch.cache import FetchCache, KeptAnswer

URL = "https://pccs.example/sgx/certification/v4/rootcacrl"
ANSWER = KeptAnswer(url=URL, fetched=10, confirmed=20, headers={"etag": '"a"'}, body=b"content")


def stored(folder: Path) -> Path:
    FetchCache(folder=folder).store(ANSWER)
    (path,) = folder.iterdir()
    return path


def test_an_answer_is_read_back(tmp_path: Path) -> None:
    cache = FetchCache(folder=tmp_path / "new" / "folder")
    assert cache.load(URL) is None
    cache.store(ANSWER)
    assert cache.load(URL) == ANSWER
    assert not cache.is_damaged(URL)
    cache.store(replace(ANSWER, confirmed=30))
    assert cache.load(URL) == replace(ANSWER, confirmed=30)


def test_addresses_do_not_mix(tmp_path: Path) -> None:
    cache = FetchCache(folder=tmp_path)
    cache.store(ANSWER)
    assert cache.load(URL + "?x") is None
    assert not cache.is_damaged(URL + "?x")


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KEYTURN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert FetchCache().folder == tmp_path / "keyturn" / "collateral"


def test_nobody_else_may_read_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    path = stored(folder)
    assert folder.stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0


def test_every_flipped_byte_makes_it_absent(tmp_path: Path) -> None:
    path = stored(tmp_path)
    cache = FetchCache(folder=tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x20
        path.write_bytes(changed)
        assert cache.load(URL) is None
        assert cache.is_damaged(URL)


def test_every_truncation_makes_it_absent(tmp_path: Path) -> None:
    path = stored(tmp_path)
    cache = FetchCache(folder=tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert cache.load(URL) is None
    path.write_bytes(whole + b"\0")
    assert cache.load(URL) is None


def test_an_entry_of_another_address_makes_it_absent(tmp_path: Path) -> None:
    path = stored(tmp_path)
    cache = FetchCache(folder=tmp_path)
    cache.store(replace(ANSWER, url=URL + "?x"))
    other = next(one for one in tmp_path.iterdir() if one != path)
    path.write_bytes(other.read_bytes())
    assert cache.load(URL) is None
    assert cache.is_damaged(URL)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(type="keyturn-fetched/2"),
        lambda d: d.update(more=1),
        lambda d: d.pop("body"),
        lambda d: d.update(body="text"),
        lambda d: d.update(fetched=True),
        lambda d: d.update(confirmed=None),
        lambda d: d.update(headers=[]),
        lambda d: d.update(headers={"etag": 1}),
        lambda d: d.update(headers={1: "etag"}),
    ],
)
def test_a_whole_entry_of_another_form_is_absent(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    path = stored(tmp_path)
    document = cbor2.loads(path.read_bytes()[32:])
    change(document)
    content = cbor2.dumps(document, canonical=True)
    path.write_bytes(hashlib.sha256(content).digest() + content)
    assert FetchCache(folder=tmp_path).load(URL) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    cache = FetchCache(folder=blocked / "cache")
    cache.store(ANSWER)
    assert cache.load(URL) is None


def _write_often(folder: str, mark: int) -> None:
    cache = FetchCache(folder=Path(folder))
    for turn in range(60):
        cache.store(replace(ANSWER, confirmed=turn, body=bytes([mark]) * 200_000))


def test_two_processes_never_see_half_an_answer(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(str(tmp_path), mark)) for mark in (1, 2)]
    for one in writers:
        one.start()
    cache = FetchCache(folder=tmp_path)
    seen: set[int] = set()
    while any(one.is_alive() for one in writers) or not seen:
        found = cache.load(URL)
        assert found is None or len(set(found.body)) == 1
        assert found is not None or not seen
        seen |= {found.body[0]} if found else set()
    for one in writers:
        one.join()
        assert one.exitcode == 0
    assert seen <= {1, 2}
    assert [path.name for path in tmp_path.iterdir()] == [hashlib.sha256(URL.encode()).hexdigest()]
