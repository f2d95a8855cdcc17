"""SCALE, the encoding of dstack's attestation containers.

Source: the SCALE specification of Polkadot (section "Compact general integers"; little endian). A length is
compact: the low two bits of the first byte are its mode: 0, one byte; 1, two; 2, four; the number is above
them, and in the smallest mode that holds it. Mode 3, for longer numbers, is refused here. Byte strings and
texts are a length and that many bytes, lists a length and the items.
"""

from __future__ import annotations

from measurements.dstack.json_documents import refuse

_SMALLEST = {1: 0, 2: 1 << 6, 4: 1 << 14}


class ScaleReader:
    """Reads from the front; raises ``DstackFormatError`` naming ``subject`` and the byte."""

    def __init__(self, data: bytes, *, subject: str) -> None:
        self._data = data
        self._at = 0
        self._subject = subject

    def take(self, size: int) -> bytes:
        """``size`` bytes."""
        if size > len(self._data) - self._at:
            refuse(self._subject, f"ends before the {size} bytes at byte {self._at}")
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def number(self, size: int) -> int:
        """An integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def length(self, *, most: int) -> int:
        """A compact number of up to ``most``."""
        start = self._at
        width = {0: 1, 1: 2, 2: 4}.get(self._data[start] & 3 if start < len(self._data) else 3)
        if width is None:
            refuse(self._subject, f"has no length of up to four bytes at byte {start}")
        value = self.number(width) >> 2
        if value < _SMALLEST[width]:
            refuse(self._subject, f"has a length that is not in its shortest form at byte {start}")
        if value > most:
            refuse(self._subject, f"has a length of {value} at byte {start}, more than {most}")
        return value

    def octets(self, *, most: int) -> bytes:
        """A byte string."""
        return self.take(self.length(most=most))

    def text(self, *, most: int) -> str:
        """A text."""
        start = self._at
        try:
            return self.octets(most=most).decode("utf-8")
        except UnicodeDecodeError:
            refuse(self._subject, f"has no UTF-8 at byte {start}")

    def end(self) -> None:
        """Refuse bytes that are left."""
        if self._at != len(self._data):
            refuse(self._subject, f"has {len(self._data) - self._at} bytes after byte {self._at}")
