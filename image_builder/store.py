"""The content-addressed store: files by the SHA-256 of their bytes, shared by all projects of a user.

Layout below the root: ``sha256/<first two hex digits>/<64 hex digits>`` for objects, ``partial/<64 hex
digits>`` for downloads that are not complete, ``derived/<kind>/<key>/`` for what can be made again from
objects. An object becomes visible by an atomic rename after its hash has been checked; it is checked again
whenever it is read through :meth:`Store.verified`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from measurements.errors import KeyturnError

CHUNK = 1 << 20
HASH_PIECE = 4 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StoreError(KeyturnError):
    """An object that is absent from the store or is not what its name says, or a store that cannot be
    written.
    """

    code = "store"


class DiskFullError(KeyturnError):
    """No room for a file."""

    code = "disk-full"


def default_store_root() -> Path:
    """``$KEYTURN_CACHE``, else ``$XDG_CACHE_HOME/keyturn``, else ``~/.cache/keyturn``."""
    named = os.environ.get("KEYTURN_CACHE")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "keyturn"


def file_sha256(path: Path) -> str:
    """Lower-case hex SHA-256 of a file.

    Read in large pieces: between two of them a thread waits for the interpreter's lock.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        piece = memoryview(bytearray(min(HASH_PIECE, os.fstat(stream.fileno()).st_size + 1)))
        while size := stream.readinto(piece):
            digest.update(piece[:size])
    return digest.hexdigest()


@contextmanager
def clear_disk_errors(subject: str) -> Iterator[None]:
    """Turns "disk full" inside the ``with`` block into :class:`DiskFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFullError(
            f"no room to write it ({error.strerror})",
            subject=subject,
            advice="free disk space, or set KEYTURN_CACHE to a folder on a larger disk, and run again",
        ) from None


class Store:
    """One store on disk; made when it is first written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the object is or would be."""
        return self.root / "sha256" / _checked(sha256)[:2] / sha256

    def partial(self, sha256: str) -> Path:
        """Where a download of the object is kept until it is complete."""
        return self.root / "partial" / _checked(sha256)

    def derived(self, kind: str, key: str) -> Path:
        """Folder for something made from objects; it exists only once its maker has made it."""
        return self.root / "derived" / kind / key

    def has(self, sha256: str) -> bool:
        """Whether the object is there; says nothing about its bytes."""
        return self.path(sha256).is_file()

    def verified(self, sha256: str, *, name: str, size: int | None = None) -> Path:
        """Path of the object after its bytes have been checked.

        ``name`` is how errors call it. Raises :class:`StoreError` naming the file, what was expected and
        what was found.
        """
        path = self.path(sha256)
        try:
            found_size = path.stat().st_size
            found = file_sha256(path)
        except FileNotFoundError:
            raise StoreError(
                f"not in the store (SHA-256 {sha256})", subject=name, advice="run `keyturn fetch`"
            ) from None
        if found != sha256 or (size is not None and size != found_size):
            expected = f"SHA-256 {sha256}" + ("" if size is None else f", {size} bytes")
            raise StoreError(
                f"the store's copy {path} was altered: expected {expected}; "
                f"found SHA-256 {found}, {found_size} bytes",
                subject=name,
                advice="run `keyturn fetch`, which gets it again",
            )
        return path

    def add_bytes(self, data: bytes) -> str:
        """Put ``data`` in the store; its SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            with self.writer(sha256, name=sha256) as stream:
                stream.write(data)
        return sha256

    def add_file(self, path: Path) -> str:
        """Put a copy of the file ``path`` in the store; its SHA-256."""
        digest = hashlib.sha256()
        with clear_disk_errors(path.name), path.open("rb") as source, self._temporary() as copy:
            while piece := source.read(CHUNK):
                digest.update(piece)
                copy.write(piece)
            sha256 = digest.hexdigest()
            self._publish(copy, sha256)
        return sha256

    @contextmanager
    def writer(self, sha256: str, *, name: str) -> Iterator[IO[bytes]]:
        """A stream whose bytes become the object when the block ends, if they have that SHA-256."""
        with clear_disk_errors(name), self._temporary() as stream:
            yield stream
            stream.flush()
            found = file_sha256(Path(stream.name))
            if found != sha256:
                raise StoreError(
                    f"wrong bytes: expected SHA-256 {sha256}, found {found}",
                    subject=name,
                    advice="get the file from another source",
                )
            self._publish(stream, sha256)

    def adopt(self, path: Path, *, sha256: str, name: str) -> None:
        """Move the file ``path`` (of the same file system) in as an object, once its bytes are checked.

        A file with other bytes is removed and :class:`StoreError` is raised.
        """
        found = file_sha256(path)
        if found != sha256:
            path.unlink()
            raise StoreError(
                f"wrong bytes: expected SHA-256 {sha256}, found {found}",
                subject=name,
                advice="get the file from another mirror",
            )
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

    @contextmanager
    def _temporary(self) -> Iterator[IO[bytes]]:
        folder = self.root / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="new-", delete=False) as stream:
            try:
                yield stream.file
            finally:
                Path(stream.name).unlink(missing_ok=True)

    def _publish(self, stream: IO[bytes], sha256: str) -> None:
        stream.flush()
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(stream.name).chmod(0o644)
        Path(stream.name).replace(target)


def _checked(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise StoreError(
            f"{sha256!r} is not a SHA-256 in lower-case hex", subject="store", advice="correct the lock"
        )
    return sha256
