"""MessagePack, the encoding of dstack's attestations from version 1 on.

Source: the MessagePack specification (github.com/msgpack/msgpack, spec.md; big endian). Read are nil,
booleans, integers, texts, byte strings, arrays, and maps with each key once, a text; floats and extension
types are refused. Lengths may be written in more bytes than they need, as the specification allows it.
"""

from __future__ import annotations

from measurements.dstack.json_documents import refuse

MAX_ITEMS = 100_000
"""Items of one document: byte strings may be written as arrays of numbers."""
MAX_LEVELS = 16

_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_SIGNED = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_TABLES = (_UNSIGNED, _BYTES, _TEXTS, _ARRAYS, _MAPS)
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class MsgpackReader:
    """Reads one document; raises ``DstackFormatError`` naming ``subject`` and the byte."""

    def __init__(self, data: bytes, *, subject: str) -> None:
        self._data = data
        self._at = 0
        self._items = 0
        self._subject = subject

    def document(self) -> object:
        """The one item that all of the bytes are."""
        found = self._item(0)
        if self._at != len(self._data):
            refuse(self._subject, f"has {len(self._data) - self._at} bytes after byte {self._at}")
        return found

    def _item(self, depth: int) -> object:
        self._items += 1
        if self._items > MAX_ITEMS or depth > MAX_LEVELS:
            refuse(self._subject, f"holds more than {MAX_ITEMS} items, or nests deeper than {MAX_LEVELS}")
        first = self._number(1)
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0xC0:
            return self._fixed(first, depth)
        return _CONSTANTS[first] if first in _CONSTANTS else self._sized(first, depth)

    def _sized(self, first: int, depth: int) -> object:
        """An item whose value or length stands in the bytes after its first."""
        if first in _SIGNED:
            return int.from_bytes(self._take(_SIGNED[first]), "big", signed=True)
        width = next((table[first] for table in _TABLES if first in table), None)
        if width is None:
            refuse(self._subject, f"holds a float or an extension at byte {self._at - 1}")
        number = self._number(width)
        if first in _UNSIGNED:
            return number
        if first in _BYTES:
            return self._take(number)
        if first in _TEXTS:
            return self._text(number)
        return self._array(number, depth) if first in _ARRAYS else self._map(number, depth)

    def _fixed(self, first: int, depth: int) -> object:
        """An item whose length stands in its first byte."""
        if first < 0x90:
            return self._map(first & 0x0F, depth)
        if first < 0xA0:
            return self._array(first & 0x0F, depth)
        return self._text(first & 0x1F)

    def _array(self, length: int, depth: int) -> list[object]:
        return [self._item(depth + 1) for _ in range(self._bounded(length))]

    def _map(self, length: int, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        for _ in range(self._bounded(length)):
            start = self._at
            key = self._item(depth + 1)
            if not isinstance(key, str) or key in found:
                refuse(self._subject, f"has a key at byte {start} that is no text, or stands twice")
            found[key] = self._item(depth + 1)
        return found

    def _bounded(self, length: int) -> int:
        """``length``, as each item has at least a byte."""
        if length > len(self._data) - self._at:
            refuse(self._subject, f"ends before the {length} items at byte {self._at}")
        return length

    def _text(self, size: int) -> str:
        start = self._at
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError:
            refuse(self._subject, f"has no UTF-8 at byte {start}")

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            refuse(self._subject, f"ends before the {size} bytes at byte {self._at}")
        found = self._data[self._at : self._at + size]
        self._at += size
        return found
