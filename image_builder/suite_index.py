"""Gets a suite's index from a mirror, believes it only below its signature, and keeps it in the store by
hash.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pysequoia import Cert

from image_builder.lockfile import LockedSuite
from image_builder.mirrors import MIRROR_VARIABLE, MirrorError, Mirrors, archive_of
from image_builder.openpgp import verify_inline
from image_builder.release_index import (
    ArchiveIndexError,
    IndexedFile,
    PackagesIndex,
    Release,
    parse_release,
)
from image_builder.store import Store
from image_builder.transport import Place, Transport, TransportError

RELEASE_LIMIT = 8 << 20
PACKAGES_LIMIT = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteIndex:
    """One component of one suite, checked: what the lock records and what the resolver reads."""

    locked: LockedSuite
    packages: PackagesIndex
    not_automatic: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexReader:
    """Reads indexes for one lock; ``now`` is the time at which they have to be valid."""

    transport: Transport
    mirrors: Mirrors
    keyring: Sequence[Cert]
    store: Store
    architecture: str
    now: datetime

    def read(self, suite: str, components: Sequence[str]) -> list[SuiteIndex]:
        """The indexes of ``suite``, one per component; raises errors of mirrors, signatures and indexes."""
        place, document = self._in_release(suite)
        signed = verify_inline(document, keyring=self.keyring, name=f"{suite}/InRelease")
        release = parse_release(signed.text, suite=suite, now=self.now)
        release_sha256 = self.store.add_bytes(document)
        found = []
        for component in components:
            compressed, plain = release.packages_files(component=component, architecture=self.architecture)
            text = self._packages(place, suite, compressed, plain)
            locked = LockedSuite(
                suite=suite,
                archive=archive_of(suite),
                component=component,
                release_sha256=release_sha256,
                index_path=plain.path,
                index_sha256=plain.sha256,
            )
            found.append(_suite_index(locked, text, release))
        return found

    def _in_release(self, suite: str) -> tuple[Place, bytes]:
        tried = []
        for place in self.mirrors.of(archive_of(suite)):
            try:
                path = f"dists/{suite}/InRelease"
                return place, self.transport.read(place, path, limit=RELEASE_LIMIT)
            except TransportError as error:
                tried.append(f"{place} ({error.reason})")
        raise MirrorError(
            f"no mirror serves it; tried {', '.join(tried)}",
            subject=f"suite {suite}",
            advice=f"name a mirror that has it with --mirror URL (or security=URL), or in ${MIRROR_VARIABLE}",
        )

    def _packages(self, place: Place, suite: str, compressed: IndexedFile, plain: IndexedFile) -> str:
        name = f"{suite}/{plain.path}"
        if not self.store.has(plain.sha256):
            data = self._download(place, suite, compressed)
            with self.store.writer(plain.sha256, name=name) as stream:
                stream.write(_unpacked(data, limit=plain.size, name=name))
        path = self.store.verified(plain.sha256, name=name, size=plain.size)
        return path.read_text(encoding="utf-8")

    def _download(self, place: Place, suite: str, file: IndexedFile) -> bytes:
        """The compressed index: by hash, which no mirror update can race with, else by name."""
        folder, _, _ = file.path.rpartition("/")
        limit = min(file.size, PACKAGES_LIMIT)
        by_hash = f"dists/{suite}/{folder}/by-hash/SHA256/{file.sha256}"
        try:
            data = self.transport.read(place, by_hash, limit=limit)
        except TransportError as error:
            if not error.absent:
                raise
            data = self.transport.read(place, f"dists/{suite}/{file.path}", limit=limit)
        _check_bytes(data, file, name=f"{suite}/{file.path}")
        return data


def _suite_index(locked: LockedSuite, text: str, release: Release) -> SuiteIndex:
    return SuiteIndex(
        locked=locked,
        packages=PackagesIndex(text, suite=locked.suite),
        not_automatic=release.not_automatic,
    )


def _check_bytes(data: bytes, file: IndexedFile, *, name: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256 or len(data) != file.size:
        raise ArchiveIndexError(
            f"wrong bytes: its signed Release says SHA-256 {file.sha256}, found {found}",
            subject=name,
            advice="wait until the mirror has finished its update, or use another mirror",
        )


def _unpacked(data: bytes, *, limit: int, name: str) -> bytes:
    """The xz-compressed ``data`` unpacked, of at most ``limit`` bytes."""
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    try:
        plain = decompressor.decompress(data, max_length=limit + 1)
    except lzma.LZMAError as error:
        raise ArchiveIndexError(f"bad xz data: {error}", subject=name, advice="use another mirror") from None
    return plain
