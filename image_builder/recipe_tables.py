"""Reads TOML tables into frozen dataclasses, and collects everything that is wrong with them.

A field's annotation says how its key is read: ``Annotated[type, reader]``, or a dataclass for a table. The
key is the field's name with ``-`` for ``_``, or ``metadata["key"]``. A field without a reader is no key.

A reader takes the value as TOML has it and returns the field's value; it raises ``ValueError`` with the
reason, or :class:`ProblemsError` for parts of the value. ``__post_init__`` may raise ``ValueError`` for keys
that contradict each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, cast

Reader = Callable[[Any], Any]
Table = TypeVar("Table")


class ProblemKind(Enum):
    """What is wrong with a key."""

    UNKNOWN = "unknown"
    MISSING = "missing"
    VALUE = "value"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong. ``location`` leads to the key: names of keys, and numbers in lists.

    ``reason`` is set for values, ``known`` (the keys that exist there) for unknown keys.
    """

    kind: ProblemKind
    location: tuple[str | int, ...]
    reason: str = ""
    known: tuple[str, ...] = ()


class ProblemsError(Exception):
    """Everything that is wrong with a value or its parts."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = tuple(problems)


class _Collector:
    """Runs readers, and keeps what is wrong under its place."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def read(self, reader: Reader, value: object, *place: str | int) -> Any:
        """What ``reader`` makes of ``value``; ``None`` if that is wrong."""
        try:
            return reader(value)
        except ProblemsError as error:
            self.problems += [
                dataclasses.replace(problem, location=(*place, *problem.location))
                for problem in error.problems
            ]
        except ValueError as error:
            self.problems.append(Problem(kind=ProblemKind.VALUE, location=place, reason=str(error)))
        return None

    def check(self) -> None:
        """Raise ``ProblemsError`` if anything was wrong."""
        if self.problems:
            raise ProblemsError(self.problems)


def read_table(kind: type[Table], value: object, **given: object) -> Table:
    """The dataclass ``kind`` from a TOML table; ``given`` are the fields that are no keys."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not a table")
    keys = _keys(kind)
    collector = _Collector()
    fields: dict[str, object] = dict(given)
    for key, (field, reader) in keys.items():
        if key in value:
            fields[field.name] = collector.read(reader, value[key], key)
        elif field.default is field.default_factory is dataclasses.MISSING:
            collector.problems.append(Problem(kind=ProblemKind.MISSING, location=(key,)))
    known = tuple(sorted(keys))
    collector.problems += [
        Problem(kind=ProblemKind.UNKNOWN, location=(key,), known=known) for key in value if key not in keys
    ]
    collector.check()
    made = collector.read(lambda _: kind(**fields), None)
    collector.check()
    return cast(Table, made)


def text(check: Callable[[str], str]) -> Reader:
    """A text that ``check`` accepts."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a text")
        return check(value)

    return read


def boolean(value: object) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def number(lowest: int, highest: int) -> Reader:
    """A whole number in a range."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"{value!r} is not a whole number from {lowest} to {highest}")
        return value

    return read


def one_of(*values: str) -> Reader:
    """One of the texts ``values``."""

    def read(value: object) -> object:
        if value not in values:
            raise ValueError(f"{value!r} is not {' or '.join(map(repr, values))}")
        return value

    return read


def listed(reader: Reader, *, check: Reader | None = None, at_least: int = 0) -> Reader:
    """A list of what ``reader`` accepts; ``check`` takes the whole tuple."""

    def read(value: object) -> object:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list")
        if len(value) < at_least:
            raise ValueError(f"has {len(value)} entries, at least {at_least} are needed")
        collector = _Collector()
        items = tuple(collector.read(reader, item, index) for index, item in enumerate(value))
        collector.check()
        return items if check is None else check(items)

    return read


def mapped(key_reader: Reader, value_reader: Reader) -> Reader:
    """A table whose keys are data."""

    def read(value: object) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} is not a table")
        collector = _Collector()
        entries = {
            collector.read(key_reader, key, key): collector.read(value_reader, item, key)
            for key, item in value.items()
        }
        collector.check()
        return entries

    return read


def tables(kind: type[object]) -> Reader:
    """A list of tables (``[[name]]``)."""
    return listed(lambda value: read_table(kind, value))


def _keys(kind: type[object]) -> Mapping[str, tuple[dataclasses.Field[Any], Reader]]:
    found: dict[str, tuple[dataclasses.Field[Any], Reader]] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        reader = _reader(field.type)
        if reader is not None:
            found[field.metadata.get("key", field.name.replace("_", "-"))] = (field, reader)
    return found


def _reader(annotation: Any) -> Reader | None:
    if dataclasses.is_dataclass(annotation):
        return lambda value: read_table(cast(type[object], annotation), value)
    metadata = getattr(annotation, "__metadata__", ())
    return metadata[0] if metadata else None
