"""DER, as far as signatures on PE images need it.

Layout (ITU-T X.690, section 8 and 10): tag byte, length (one byte below 0x80, or 0x80 + n and n bytes big
endian, in the shortest form), contents. Tags of more than one byte and indefinite lengths are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from measurements.errors import FormatError

INTEGER = 0x02
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30
SET = 0x31
CONTEXT_0 = 0xA0


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """One element: ``contents`` without and ``encoded`` with tag and length."""

    tag: int
    contents: bytes
    encoded: bytes

    def children(self) -> tuple[Element, ...]:
        """The elements that the contents hold."""
        return tuple(elements(self.contents))

    def child(self, index: int, tag: int) -> Element:
        """Child number ``index``, which must have ``tag``."""
        found = self.children()
        if index >= len(found) or found[index].tag != tag:
            raise _error(f"has no element with tag {tag:#04x} at place {index}")
        return found[index]


def read_element(data: bytes) -> Element:
    """The first element of ``data``; what follows is ignored."""
    found = next(elements(data), None)
    if found is None:
        raise _error("is empty")
    return found


def elements(data: bytes) -> Iterator[Element]:
    """The elements of ``data`` one after another; raises ``FormatError`` where one is malformed."""
    position = 0
    while position < len(data):
        tag = data[position]
        if tag & 0x1F == 0x1F:
            raise _error("has a tag of several bytes")
        size, start = _length(data, position + 1)
        end = start + size
        if end > len(data):
            raise _error("has an element that is longer than its parent")
        yield Element(tag=tag, contents=data[start:end], encoded=data[position:end])
        position = end


def _length(data: bytes, position: int) -> tuple[int, int]:
    """Length of the contents, and where they start."""
    if position >= len(data):
        raise _error("ends before a length")
    first = data[position]
    if first < 0x80:
        return first, position + 1
    count = first & 0x7F
    raw = data[position + 1 : position + 1 + count]
    if not 1 <= count <= 4 or len(raw) != count or raw[0] == 0:
        raise _error("has a length that is not DER")
    size = int.from_bytes(raw, "big")
    if size < 0x80:
        raise _error("has a length that is not in the shortest form")
    return size, position + 1 + count


def _error(reason: str) -> FormatError:
    return FormatError(reason, subject="DER structure", advice="sign the image again")
