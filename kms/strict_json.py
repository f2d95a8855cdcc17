"""Strict reading of JSON (RFC 8259): duplicate, missing and unknown keys, floats and wrong types are refused.

``read_object`` parses bytes, ``Fields`` hands out the members of one object by type; whoever reads must call
``done``, which refuses members that nobody asked for. Hex is lower case, base64 is standard with padding and
must be in its one canonical form. Errors are ``FieldError`` with code ``malformed``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

import rfc8785

from measurements.errors import FormatError
from measurements.json_text import json_text

LARGEST_INTEGER = (1 << 53) - 1
"""Canonical JSON (RFC 8785) holds no larger integer exactly."""

_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_T = TypeVar("_T")
_E = TypeVar("_E", bound=StrEnum)


class FieldError(FormatError):
    """A JSON document that is not of the form it should be."""

    code = "malformed"


def canonical_json(document: Any) -> bytes:
    """``document`` as canonical JSON (RFC 8785)."""
    return rfc8785.dumps(document)


def read_object(data: bytes, *, subject: str) -> Fields:
    """The JSON object that ``data`` (UTF-8) holds."""
    try:
        document = json.loads(
            json_text(data),
            object_pairs_hook=_without_duplicates,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except ValueError as error:
        fail(subject, f"it is not JSON: {error}", cause=error)
    return Fields(document, subject=subject)


class Fields:
    """The members of one JSON object, each taken once and by type."""

    def __init__(self, document: object, *, subject: str) -> None:
        if not isinstance(document, dict):
            fail(subject, "it is not a JSON object")
        self._members: Mapping[str, Any] = document
        self._left = set(document)
        self.subject = subject

    @property
    def document(self) -> Mapping[str, Any]:
        """The object as it was given."""
        return self._members

    def done(self) -> None:
        """Refuse members that were not taken."""
        if self._left:
            fail(self.subject, f"unknown keys {sorted(self._left)}")

    def raw(self, key: str) -> Any:
        """Member ``key``, whatever it is."""
        if key not in self._members:
            fail(self.subject, f"key {key!r} is missing")
        self._left.discard(key)
        return self._members[key]

    def text(self, key: str, *, longest: int = 256) -> str:
        """A string of at most ``longest`` characters."""
        value = self.raw(key)
        if not isinstance(value, str) or len(value) > longest:
            fail(self.subject, f"{key!r} is not a string of at most {longest} characters")
        return value

    def exactly(self, key: str, expected: str | int) -> None:
        """Refuse any other value than ``expected``."""
        value = self.raw(key)
        if type(value) is not type(expected) or value != expected:
            fail(self.subject, f"{key!r} is not {expected!r}")

    def integer(self, key: str, *, least: int = 0) -> int:
        """An integer from ``least`` to 2^53 - 1."""
        value = self.raw(key)
        if type(value) is not int or not least <= value <= LARGEST_INTEGER:
            fail(self.subject, f"{key!r} is not an integer from {least} to {LARGEST_INTEGER}")
        return value

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self.raw(key)
        if type(value) is not bool:
            fail(self.subject, f"{key!r} is neither true nor false")
        return value

    def hexadecimal(self, key: str, *, size: int) -> bytes:
        """``size`` bytes in lower-case hex."""
        value = self.raw(key)
        if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
            fail(self.subject, f"{key!r} is not {size} bytes in lower-case hex")
        return bytes.fromhex(value)

    def address(self, key: str) -> bytes:
        """20 bytes: ``0x`` and 40 lower-case hex digits."""
        value = self.raw(key)
        if not isinstance(value, str) or len(value) != 42 or not value.startswith("0x"):
            fail(self.subject, f"{key!r} is not an address of 0x and 40 hex digits")
        if not _HEX.fullmatch(value[2:]):
            fail(self.subject, f"{key!r} is not in lower-case hex")
        return bytes.fromhex(value[2:])

    def base64(self, key: str, *, largest: int) -> bytes:
        """At most ``largest`` bytes in canonical base64."""
        value = self.raw(key)
        if not isinstance(value, str) or len(value) > 4 * (largest // 3 + 1):
            fail(self.subject, f"{key!r} is not base64 of at most {largest} bytes")
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            fail(self.subject, f"{key!r} is not base64", cause=error)
        if len(data) > largest or base64.b64encode(data).decode("ascii") != value:
            fail(self.subject, f"{key!r} is not canonical base64 of at most {largest} bytes")
        return data

    def fields(self, key: str) -> Fields:
        """An object."""
        return Fields(self.raw(key), subject=f"{self.subject}, {key}")

    def array(self, key: str, *, most: int) -> list[Any]:
        """An array of at most ``most`` entries."""
        value = self.raw(key)
        if not isinstance(value, list) or len(value) > most:
            fail(self.subject, f"{key!r} is not an array of at most {most} entries")
        return value

    def optional(self, key: str, read: Callable[[str], _T]) -> _T | None:
        """``null`` or what ``read`` takes; the key must be there."""
        return None if self.raw(key) is None else read(key)


def member(kind: type[_E], value: str, *, subject: str) -> _E:
    """The member of a closed set that ``value`` names."""
    try:
        return kind(value)
    except ValueError as error:
        fail(subject, f"{value!r} is none of {', '.join(sorted(known.value for known in kind))}", cause=error)


def fail(subject: str, reason: str, *, cause: Exception | None = None) -> NoReturn:
    """Refuse a document."""
    raise FieldError(reason, subject=subject, advice="see docs/formats.md for this document") from cause


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"the number {text} is not an integer")
