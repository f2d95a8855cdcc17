"""Where two runs of bytes differ."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from image_builder.comparison import Difference

Buffer = bytes | bytearray | memoryview | mmap.mmap

BLOCK: Final = 1 << 16
JOINED_GAP: Final = 16
"""Equal bytes between two differing ones that do not end a range."""
SAMPLE: Final = 24
"""Bytes of a range that are shown as text; half of them as hex."""
_DIFFERING: Final = re.compile(rb"[^\0]+")
_TEXT: Final = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D}
MOST_SPANS: Final = 64
"""After so many ranges the last one covers everything that differs further on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Bytes ``start`` up to but without ``stop``."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.stop:#x}"


def differing_spans(before: Buffer, after: Buffer) -> list[Span]:
    """Ranges that differ, in order; what only the longer side has is a range of its own."""
    common = min(len(before), len(after))
    spans: list[Span] = []
    for found in _raw_spans(memoryview(before)[:common], memoryview(after)[:common]):
        if spans and (found.start - spans[-1].stop < JOINED_GAP or len(spans) >= MOST_SPANS):
            spans[-1] = Span(start=spans[-1].start, stop=found.stop)
        else:
            spans.append(found)
    if len(before) != len(after):
        spans.append(Span(start=common, stop=max(len(before), len(after))))
    return spans


def _raw_spans(before: memoryview, after: memoryview) -> Iterator[Span]:
    for start in range(0, len(before), BLOCK):
        left, right = bytes(before[start : start + BLOCK]), bytes(after[start : start + BLOCK])
        if left == right:
            continue
        mask = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
        for found in _DIFFERING.finditer(mask.to_bytes(len(left), "big")):
            yield Span(start=start + found.start(), stop=start + found.end())


def byte_differences(
    before: Buffer, after: Buffer, *, base: int = 0, container: str = ""
) -> tuple[Difference, ...]:
    """One difference for each range.

    ``base`` is where ``after`` begins in ``container``, named in addition.
    """
    found = []
    for span in differing_spans(before, after):
        place = ""
        if container:
            place = f" ({Span(start=base + span.start, stop=base + span.stop)} of {container})"
        found.append(
            Difference(
                subject=f"bytes {span}{place}",
                before=_sample(before, span),
                after=_sample(after, span),
            )
        )
    return tuple(found)


def _sample(data: Buffer, span: Span) -> str:
    """The first bytes of a range, as text where they are text."""
    piece = bytes(data[span.start : min(span.stop, span.start + SAMPLE)])
    if not piece:
        return "nothing"
    if all(byte in _TEXT for byte in piece):
        shown, length = ascii(piece.decode("ascii")), len(piece)
    else:
        shown, length = piece[: SAMPLE // 2].hex(), len(piece[: SAMPLE // 2])
    return shown + ("…" if min(span.stop, len(data)) - span.start > length else "")
