"""Answers kept on disk: one file for each address, in the user's cache folder.

A file is named by SHA-256 of its address, in hex. It holds 32 bytes SHA-256 of the rest, then one CBOR map
(deterministic)::

    "type"       "keyturn-fetched/1"
    "url"        the address
    "fetched"    when the body came, seconds since 1970
    "confirmed"  when the server last said that it still holds
    "headers"    {name in lower case: value}: those that matter
    "body"       bytes

A file that is damaged, or speaks of another address, counts as absent. Files are replaced as a whole, so
processes can share a folder: each reads a whole answer, and the last one to write stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from measurements.kept import cache_folder, write_whole
from measurements.strict_cbor import CborError, encode_deterministic_cbor, parse_deterministic_cbor

FOLDER = "collateral"
MAX_FILE = 8 << 20
_TYPE = "keyturn-fetched/1"
_DIGEST_SIZE = 32
_KEYS = {"type", "url", "fetched", "confirmed", "headers", "body"}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptAnswer:
    """One answer; times are seconds since 1970."""

    url: str
    fetched: int
    confirmed: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class FetchCache:
    """The folder. What cannot be written there is fetched again the next time."""

    folder: Path = field(default_factory=lambda: cache_folder(FOLDER))

    def load(self, url: str) -> KeptAnswer | None:
        """The answer that is kept for ``url``."""
        return _decode(self._read(url), url)

    def is_damaged(self, url: str) -> bool:
        """Whether there is a file for ``url`` that counts as absent."""
        data = self._read(url)
        return bool(data) and _decode(data, url) is None

    def store(self, answer: KeptAnswer) -> None:
        """Keep an answer in place of what there is."""
        content = encode_deterministic_cbor(
            {
                "type": _TYPE,
                "url": answer.url,
                "fetched": answer.fetched,
                "confirmed": answer.confirmed,
                "headers": dict(answer.headers),
                "body": answer.body,
            }
        )
        with suppress(OSError):
            write_whole(self._path(answer.url), hashlib.sha256(content).digest() + content)

    def _path(self, url: str) -> Path:
        return self.folder / hashlib.sha256(url.encode()).hexdigest()

    def _read(self, url: str) -> bytes:
        try:
            with self._path(url).open("rb") as stream:
                return stream.read(MAX_FILE + 1)
        except OSError:
            return b""


def _decode(data: bytes, url: str) -> KeptAnswer | None:
    digest, content = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
    if len(data) > MAX_FILE or hashlib.sha256(content).digest() != digest:
        return None
    try:
        item = parse_deterministic_cbor(content, limit=MAX_FILE, subject="cache entry")
    except CborError:
        return None
    if not isinstance(item, dict) or set(item) != _KEYS or (item["type"], item["url"]) != (_TYPE, url):
        return None
    headers, body, times = item["headers"], item["body"], (item["fetched"], item["confirmed"])
    if not isinstance(headers, dict) or not isinstance(body, bytes) or any(type(t) is not int for t in times):
        return None
    if not all(isinstance(text, str) for pair in headers.items() for text in pair):
        return None
    return KeptAnswer(url=url, fetched=times[0], confirmed=times[1], headers=headers, body=body)
