"""One download into the store: goes on where an earlier one stopped, checks the hash before the object
becomes visible.

The partial file is locked (flock(2)) while it is written, so that two runs that want the same object do not
write into each other.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from image_builder.progress import Progress
from image_builder.store import Store, StoreError, clear_disk_errors
from image_builder.transport import Place, Transport, TransportError


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One file; ``sources`` yields (place, path) pairs lazily, so that a later source is asked only when the
    earlier ones failed, and appends to its argument why a source has none.
    """

    name: str
    size: int
    sha256: str
    sources: Callable[[list[str]], Iterator[tuple[Place, str]]]


@dataclass(kw_only=True)
class FetchProgress:
    """Bytes done by all threads, reported as one task; ``stopped`` tells the threads to end."""

    total: int
    receiver: Progress
    done: int = 0
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, amount: int) -> None:
        """Report ``amount`` bytes more (negative: they have to come again)."""
        with self.lock:
            self.done += amount
            self.receiver.update("fetch", done=self.done, total=self.total)


def download_object(
    item: Wanted, place: Place, path: str, *, store: Store, transport: Transport, state: FetchProgress
) -> None:
    """Put ``item`` into ``store`` from ``path`` of ``place``.

    Raises :class:`TransportError` when the place fails (what came is kept for the next try), and
    :class:`StoreError` naming the file, the expected and the found hash when the bytes are wrong (they are
    removed). A wrong result of a continued download is tried once more from the start.
    """
    part = store.partial(item.sha256)
    with clear_disk_errors(item.name):
        part.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as stream:
            if store.has(item.sha256):  # another run was quicker
                part.unlink()
                state.add(item.size)
                return
            resumed = _receive(item, place, path, stream=stream, transport=transport, state=state)
            try:
                store.adopt(part, sha256=item.sha256, name=item.name)
            except StoreError:
                state.add(-item.size)
                if not resumed:
                    raise
            else:
                return
        download_object(item, place, path, store=store, transport=transport, state=state)


def _receive(
    item: Wanted, place: Place, path: str, *, stream: IO[bytes], transport: Transport, state: FetchProgress
) -> bool:
    """Append the file's missing bytes to ``stream``; whether there were some before."""
    have = os.fstat(stream.fileno()).st_size
    if have > item.size:
        stream.truncate(0)
        have = 0
    state.add(have)
    if have == item.size:
        return True
    with transport.open(place, path, start=have) as download:
        if download.start != have:
            stream.truncate(0)
            state.add(-have)
            have = 0
        resumed = have > 0
        for piece in download.chunks:
            have += len(piece)
            if state.stopped or have > item.size:
                break
            stream.write(piece)
            state.add(len(piece))
        stream.flush()
    if state.stopped:
        raise TransportError("stopped", subject=item.name)
    if have < item.size:
        state.add(-have)
        raise TransportError(f"it ends after {have} of {item.size} bytes", subject=item.name)
    return resumed


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """The partial file, open for appending and locked; another process may rename or remove it before the
    lock is had.
    """
    while True:
        stream = part.open("ab")
        fcntl.flock(stream, fcntl.LOCK_EX)
        if part.exists() and os.path.samestat(os.fstat(stream.fileno()), part.stat()):
            break
        stream.close()
    with stream:
        yield stream
