"""A fuzz target that fails in three ways, to test the runner with."""

from __future__ import annotations

NAME = "failing"


def seeds() -> list[bytes]:
    """One that does not fail, and one for each failure."""
    return [b"good", b"raise", b"slow", b"memory"]


def target(data: bytes) -> None:
    """Raises, never ends or takes too much, by the first byte."""
    if data[:1] == b"r":
        raise RuntimeError("found")
    if data == b"slow":
        while True:
            pass
    if data[:1] == b"m":
        bytearray(1 << 30)
