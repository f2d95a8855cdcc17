"""Hashing in a thread: the bytes in their order, and what goes wrong there."""

from __future__ import annotations

import errno
import hashlib
import io
import random
from pathlib import Path

import pytest

from image_builder.stream_hash import WAITING_PIECES, ByteSink, PieceBuffer, StreamHash
from image_builder.tree import CHUNK

RANDOM = random.Random(3)


class Full:
    """A sink on a full disk."""

    def write(self, _: bytes | memoryview, /) -> int:
        raise OSError(errno.ENOSPC, "no space left")


def test_pieces_and_files_are_hashed_and_written_in_order(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(RANDOM.randbytes(2 * CHUNK + 5))
    pieces = [RANDOM.randbytes(size) for size in (1, 0, CHUNK, 70_000) * WAITING_PIECES]
    sink = io.BytesIO()
    with StreamHash(sink) as digest:
        for piece in pieces:
            digest.write(piece)
        digest.read(path)
        digest.write(memoryview(b"end"))
        found = digest.hexdigest()
    expected = b"".join(pieces) + path.read_bytes() + b"end"
    assert sink.getvalue() == expected
    assert found == hashlib.sha256(expected).hexdigest()


def test_without_a_sink_it_only_hashes() -> None:
    with StreamHash() as digest:
        digest.write(b"abc")
        assert digest.hexdigest() == hashlib.sha256(b"abc").hexdigest()


def written(pieces: int, sink: ByteSink) -> str:
    with StreamHash(sink) as digest:
        for _ in range(pieces):
            digest.write(b"x")
        return digest.hexdigest()


@pytest.mark.parametrize("pieces", [1, 3 * WAITING_PIECES])
def test_an_error_of_the_thread_is_raised_to_the_maker(pieces: int) -> None:
    with pytest.raises(OSError, match="no space left"):
        written(pieces, Full())


def test_an_absent_file_is_an_error(tmp_path: Path) -> None:
    with StreamHash() as digest:
        digest.read(tmp_path / "absent")
        with pytest.raises(FileNotFoundError):
            digest.hexdigest()


def test_small_pieces_are_passed_on_as_large_ones() -> None:
    class Sizes:
        def __init__(self) -> None:
            self.pieces: list[bytes] = []

        def write(self, data: bytes | memoryview, /) -> None:
            self.pieces.append(bytes(data))

    sink = Sizes()
    buffer = PieceBuffer(sink)
    data = RANDOM.randbytes(3 * CHUNK)
    for start in range(0, len(data), 300_001):
        buffer.write(data[start : start + 300_001])
    buffer.flush()
    buffer.flush()
    assert b"".join(sink.pieces) == data
    assert all(len(piece) >= CHUNK for piece in sink.pieces[:-1])
