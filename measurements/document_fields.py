"""Reads a parsed document of maps, lists, texts and bytes strictly: exactly the keys that are known, each of
its type and within its bounds. ``measurements.strict_fields`` does the same for JSON, which has no bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from enum import Enum
from typing import NoReturn, TypeVar

from measurements.errors import FormatError

Item = TypeVar("Item")
Choice = TypeVar("Choice", bound=Enum)


class DocumentFields:
    """One map whose keys are exactly ``keys``.

    ``refuse`` turns a reason into the error that is raised; ``path`` says where the map stands.
    """

    def __init__(
        self, value: object, keys: Collection[str], *, path: str, refuse: Callable[[str], FormatError]
    ) -> None:
        self.path = path
        self._refuse = refuse
        if not isinstance(value, dict):
            raise refuse(f"{path or 'document'} is not a map")
        unknown = [key for key in value if key not in keys]
        missing = [key for key in keys if key not in value]
        if unknown or missing:
            what = f"unknown key {str(unknown[0])[:64]!r}" if unknown else f"key {missing[0]} is missing"
            raise refuse(f"{path or 'document'}: {what}")
        self._values: dict[str, object] = value

    def fail(self, key: str, reason: str) -> NoReturn:
        """Refuse the value of ``key``."""
        raise self._refuse(f"{self._at(key)} {reason}")

    def raw(self, key: str) -> object:
        """The value as it is."""
        return self._values[key]

    def is_null(self, key: str) -> bool:
        """Whether the value is null."""
        return self._values[key] is None

    def constant(self, key: str, value: str) -> None:
        """Exactly this text."""
        if self._values[key] != value:
            self.fail(key, f"is not {value}")

    def text(self, key: str, pattern: re.Pattern[str]) -> str:
        """A text that ``pattern`` matches whole."""
        value = self._values[key]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.fail(key, f"is not a text of the form {pattern.pattern}")
        return value

    def choice(self, key: str, kind: type[Choice]) -> Choice:
        """A member of an enumeration of texts."""
        value = self._values[key]
        members = {str(member.value): member for member in kind}
        if not isinstance(value, str) or value not in members:
            self.fail(key, f"is not one of {', '.join(members)}")
        return members[value]

    def octets(self, key: str, lowest: int, highest: int) -> bytes:
        """Bytes, as many as in the range, both ends included."""
        return self._octets(key, self._values[key], lowest, highest)

    def optional_octets(self, key: str, lowest: int, highest: int) -> bytes | None:
        """Such bytes or null."""
        return None if self.is_null(key) else self.octets(key, lowest, highest)

    def octets_list(
        self, key: str, most: int, lowest: int, highest: int, *, unique: bool
    ) -> tuple[bytes, ...]:
        """A list of up to ``most`` such bytes, each once if ``unique``."""
        found = tuple(
            self._octets(f"{key}[{index}]", item, lowest, highest)
            for index, item in enumerate(self._list(key, most))
        )
        if unique and len(set(found)) != len(found):
            self.fail(key, "holds something twice")
        return found

    def fields(self, key: str, keys: Collection[str]) -> DocumentFields:
        """A map with exactly ``keys``."""
        return DocumentFields(self._values[key], keys, path=self._at(key), refuse=self._refuse)

    def objects(
        self, key: str, keys: Collection[str], most: int, read: Callable[[DocumentFields], Item]
    ) -> tuple[Item, ...]:
        """A list of up to ``most`` maps with exactly ``keys`` each."""
        return tuple(
            read(DocumentFields(item, keys, path=f"{self._at(key)}[{index}]", refuse=self._refuse))
            for index, item in enumerate(self._list(key, most))
        )

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _list(self, key: str, most: int) -> list[object]:
        value = self._values[key]
        if not isinstance(value, list) or len(value) > most:
            self.fail(key, f"is not a list of up to {most} items")
        return value

    def _octets(self, key: str, value: object, lowest: int, highest: int) -> bytes:
        if not isinstance(value, bytes) or not lowest <= len(value) <= highest:
            self.fail(key, f"is not {lowest} to {highest} bytes")
        return value
