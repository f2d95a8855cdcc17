"""Protocol Buffers on the wire, as far as attestations need it.

Source: protobuf.dev, "Encoding". A message is records of a tag (varint: field number ``<< 3 |`` wire type)
and a value: wire type 0 varint, 2 varint length and that many bytes; the fixed-size types 1 and 5 occur in
no message here and are refused. Repeated fields are records of one number; a map is repeated messages of key
(field 1) and value (field 2). A varint has at most 10 bytes of 7 bits, least significant first.
"""

from __future__ import annotations

from attestation.importers.source import refuse

MAX_FIELDS = 4096
_MAX_VARINT = 10
_VARINT, _LENGTH = 0, 2


class Message:
    """The fields of one message, in order; raises ``EvidenceImportError`` naming ``what``."""

    def __init__(self, data: bytes, *, what: str) -> None:
        self._what = what
        self._fields: list[tuple[int, int | bytes]] = []
        at = 0
        while at < len(data):
            if len(self._fields) == MAX_FIELDS:
                refuse(f"has more than {MAX_FIELDS} fields", what=what)
            tag, at = self._varint(data, at)
            value, at = self._varint(data, at)
            if tag & 7 == _LENGTH:
                start, at = at, at + value
                if at > len(data):
                    refuse(f"ends before the {value} bytes at byte {start}", what=what)
                self._fields.append((tag >> 3, data[start:at]))
            elif tag & 7 == _VARINT:
                self._fields.append((tag >> 3, value))
            else:
                refuse(f"has a field of wire type {tag & 7}", what=what)

    def require_known(self, *numbers: int) -> None:
        """Refuse fields of other numbers."""
        for number, _ in self._fields:
            if number not in numbers:
                refuse(f"has an unknown field {number}", what=self._what)

    def has(self, number: int) -> bool:
        """Whether the field is there."""
        return any(found == number for found, _ in self._fields)

    def octets(self, number: int) -> bytes:
        """A byte string that is there at most once; empty where it is absent."""
        found = self.all_octets(number)
        if len(found) > 1:
            refuse(f"has field {number} twice", what=self._what)
        return found[0] if found else b""

    def all_octets(self, number: int) -> list[bytes]:
        """All byte strings of a repeated field."""
        values = [value for found, value in self._fields if found == number]
        octets = [value for value in values if isinstance(value, bytes)]
        if len(octets) != len(values):
            refuse(f"has a number as field {number}", what=self._what)
        return octets

    def number(self, number: int) -> int:
        """A number that is there at most once; zero where it is absent."""
        values = [value for found, value in self._fields if found == number]
        if len(values) > 1 or not all(isinstance(value, int) for value in values):
            refuse(f"has no single number as field {number}", what=self._what)
        return next((value for value in values if isinstance(value, int)), 0)

    def _varint(self, data: bytes, at: int) -> tuple[int, int]:
        """A number, and where the next item starts."""
        end = at
        while end < len(data) and end - at < _MAX_VARINT - 1 and data[end] >= 0x80:
            end += 1
        if end == len(data) or data[end] >= 0x80:
            refuse(f"has no number of up to {_MAX_VARINT} bytes at byte {at}", what=self._what)
        value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[at : end + 1]))
        return value, end + 1
