"""SHA-256 over a stream, computed by a thread of its own.

Hashing and writing leave the interpreter's lock alone, so the maker of the bytes goes on meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
from types import TracebackType
from typing import Protocol, Self

from image_builder.tree import CHUNK

WAITING_PIECES = 16
"""How many pieces may wait for the thread; then the maker waits."""


class ByteSink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""


class StreamHash:
    """Hashes pieces in the order in which they are given, and writes each to ``sink`` if there is one.

    A context manager. What goes wrong in the thread is raised by the next call.
    """

    def __init__(self, sink: ByteSink | None = None) -> None:
        self._sink = sink
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._places = BoundedSemaphore(WAITING_PIECES)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def write(self, data: bytes | memoryview, /) -> int:
        """Take ``data`` as the next bytes; it must not change any more."""
        self._later(lambda: self._take(data))
        return len(data)

    def read(self, path: Path) -> None:
        """Take the content of the file ``path`` as the next bytes."""
        self._later(lambda: self._take_file(path))

    def hexdigest(self) -> str:
        """Lower-case hex SHA-256 of everything taken, which is in ``sink`` by then."""
        self._thread.shutdown()
        self._raise_failure()
        return self._digest.hexdigest()

    def _later(self, step: Callable[[], None]) -> None:
        self._raise_failure()
        self._places.acquire()
        self._thread.submit(self._run, step)

    def _run(self, step: Callable[[], None]) -> None:
        try:
            if self._failure is None:
                step()
        except BaseException as error:  # noqa: BLE001 - it is raised in the maker's thread
            self._failure = error
        finally:
            self._places.release()

    def _take(self, data: bytes | memoryview) -> None:
        if self._sink is not None:
            self._sink.write(data)
        self._digest.update(data)

    def _take_file(self, path: Path) -> None:
        with path.open("rb", buffering=0) as stream:
            while piece := stream.read(CHUNK):
                self._take(piece)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


class PieceBuffer:
    """Passes bytes on to ``sink`` in pieces of at least ``CHUNK`` bytes, the last one by :meth:`flush`."""

    def __init__(self, sink: ByteSink) -> None:
        self._sink = sink
        self._pieces: list[bytes | memoryview] = []
        self._size = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Take the next bytes."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= CHUNK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Pass on what is left."""
        if self._pieces:
            self._sink.write(b"".join(self._pieces))
        self._pieces.clear()
        self._size = 0
