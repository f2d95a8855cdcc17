"""Reads the values of a parsed JSON object strictly: exactly the keys that are known, each of its type and
within its bounds.

The module ships in the guest: standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from enum import Enum
from typing import NoReturn, TypeVar

from measurements.canonical import MAX_INTEGER, Json
from measurements.errors import FormatError

Item = TypeVar("Item")
Choice = TypeVar("Choice", bound=Enum)

MAX_TEXT = 1 << 16
"""Characters of one text."""

MAX_ITEMS = 1024
"""Entries of one list or table."""

_HEX = re.compile(r"(?:[0-9a-f]{2})*")


class Fields:
    """One JSON object whose keys are exactly ``keys``.

    ``refuse`` turns a reason into the error that is raised; ``path`` says where the object stands.
    """

    def __init__(
        self, value: Json, keys: Collection[str], *, path: str, refuse: Callable[[str], FormatError]
    ) -> None:
        self.path = path
        self._refuse = refuse
        if not isinstance(value, dict):
            raise refuse(f"{path or 'document'} is not an object")
        unknown = sorted(set(value) - set(keys))
        missing = sorted(set(keys) - set(value))
        if unknown or missing:
            what = f"unknown key {unknown[0]}" if unknown else f"key {missing[0]} is missing"
            raise refuse(f"{path or 'document'}: {what}")
        self._values: dict[str, Json] = value

    def fail(self, key: str, reason: str) -> NoReturn:
        """Refuse the value of ``key``."""
        raise self._refuse(f"{self._at(key)} {reason}")

    def is_null(self, key: str) -> bool:
        """Whether the value is ``null``."""
        return self._values[key] is None

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str:
        """A text that ``pattern`` matches whole; without a pattern any text that holds no NUL."""
        return self._text(key, self._values[key], pattern)

    def constant(self, key: str, value: str) -> None:
        """Exactly this text."""
        if self._values[key] != value:
            self.fail(key, f"is not {value}")

    def boolean(self, key: str) -> bool:
        """``true`` or ``false``."""
        value = self._values[key]
        if not isinstance(value, bool):
            self.fail(key, "is neither true nor false")
        return value

    def integer(self, key: str, lowest: int = 0, highest: int = MAX_INTEGER) -> int:
        """An integer in a range, both ends included."""
        return self._integer(key, self._values[key], lowest, highest)

    def integers(self, key: str, lowest: int = 0, highest: int = MAX_INTEGER) -> tuple[int, ...]:
        """A list of integers, each once."""
        found = tuple(self._integer(key, item, lowest, highest) for item in self._list(key))
        return self.unique(key, found)

    def octets(self, key: str, *sizes: int) -> bytes:
        """Bytes written as lower-case hex, as many as one of ``sizes``."""
        return self._octets(key, self.text(key, _HEX), sizes)

    def address(self, key: str) -> bytes:
        """An address of 20 bytes, not zero, written as ``0x`` and 40 lower-case hex digits."""
        value = self.text(key)
        if not value.startswith("0x") or not _HEX.fullmatch(value[2:]):
            self.fail(key, "is not an address (0x and 40 lower-case hex digits)")
        return self.not_zero(key, self._octets(key, value[2:], (20,)))

    def not_zero(self, key: str, value: bytes) -> bytes:
        """``value``, which may not be all zeros."""
        if not any(value):
            self.fail(key, "is zero")
        return value

    def choice(self, key: str, kind: type[Choice]) -> Choice:
        """A member of an enumeration of texts."""
        value = self._values[key]
        members = {str(member.value): member for member in kind}
        if not isinstance(value, str) or value not in members:
            self.fail(key, f"is not one of {', '.join(members)}")
        return members[value]

    def texts(
        self, key: str, pattern: re.Pattern[str] | None = None, *, unique: bool = True
    ) -> tuple[str, ...]:
        """A list of texts."""
        found = tuple(self._text(key, item, pattern) for item in self._list(key))
        return self.unique(key, found) if unique else found

    def table(self, key: str, names: re.Pattern[str]) -> dict[str, str]:
        """An object whose keys are data that ``names`` matches, and whose values are texts."""
        value = self._values[key]
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            self.fail(key, f"is not an object of up to {MAX_ITEMS} texts")
        for name in value:
            if not names.fullmatch(name):
                self.fail(key, f"holds {name!r}, which is not a name")
        return {name: self._text(f"{key}.{name}", item, None) for name, item in value.items()}

    def object(self, key: str, keys: Collection[str]) -> Fields:
        """An object with exactly ``keys``."""
        return Fields(self._values[key], keys, path=self._at(key), refuse=self._refuse)

    def objects(self, key: str, keys: Collection[str], read: Callable[[Fields], Item]) -> tuple[Item, ...]:
        """A list of objects with exactly ``keys`` each."""
        return tuple(
            read(Fields(item, keys, path=f"{self._at(key)}[{index}]", refuse=self._refuse))
            for index, item in enumerate(self._list(key))
        )

    def raw(self, key: str) -> Json:
        """The value as it is."""
        return self._values[key]

    def unique(self, key: str, values: tuple[Item, ...]) -> tuple[Item, ...]:
        """``values``, of which none may occur twice."""
        if len(set(values)) != len(values):
            self.fail(key, "names something twice")
        return values

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _list(self, key: str) -> list[Json]:
        value = self._values[key]
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            self.fail(key, f"is not a list of up to {MAX_ITEMS} entries")
        return value

    def _text(self, key: str, value: Json, pattern: re.Pattern[str] | None) -> str:
        if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
            self.fail(key, f"is not a text of up to {MAX_TEXT} characters without NUL")
        if pattern is not None and not pattern.fullmatch(value):
            self.fail(key, f"{value[:64]!r} is not of the form {pattern.pattern}")
        return value

    def _integer(self, key: str, value: Json, lowest: int, highest: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            self.fail(key, f"is not an integer from {lowest} to {highest}")
        return value

    def _octets(self, key: str, value: str, sizes: Collection[int]) -> bytes:
        if len(value) // 2 not in sizes:
            self.fail(key, f"has {len(value)} hex digits")
        return bytes.fromhex(value)
