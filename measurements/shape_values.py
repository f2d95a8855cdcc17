"""Values of a machine shape as flags and TOML give them, each refused with the key it stands at."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from measurements.errors import KeyturnError

Choice = TypeVar("Choice", bound=StrEnum)

_MEMORY = re.compile(r"([0-9]+)\s*(MiB|GiB|TiB|M|G|T)?")
_UNITS = {"": 1, "M": 1, "G": 1 << 10, "T": 1 << 20}


class ShapeError(KeyturnError):
    """A machine shape that cannot be."""

    code = "shape"


def bad(subject: str, reason: str, advice: str) -> ShapeError:
    """The error for the key ``subject``."""
    return ShapeError(reason, subject=subject, advice=advice)


def check_range(subject: str, value: int, low: int, high: int, *, unit: str = "") -> None:
    """Refuses a number outside ``low`` to ``high``."""
    if not low <= value <= high:
        raise bad(subject, f"{value}{unit} is out of range", f"give {low} to {high}{unit}")


def refuse_unknown(document: Mapping[str, object], known: Iterable[str], *, subject: str) -> None:
    """Refuses a key that is not in ``known``, naming the nearest one."""
    for key in document:
        if key not in known:
            nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)[0]
            raise bad(subject, f"unknown key {key!r}", f"the nearest known key is {nearest!r}")


def tables(document: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    """The list of tables at ``key``; empty when there is none."""
    found = document.get(key, [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise bad(key, "is not a list of tables", f"write [[{key}]]")
    return found


def split_flag(text: str, *, known: tuple[str, ...] | None, subject: str) -> tuple[str, dict[str, str]]:
    """``MODEL[,key=value…]``; with ``known`` None every key is taken."""
    model, *parts = text.split(",")
    options = dict(part.partition("=")[::2] for part in parts)
    if known is not None:
        refuse_unknown(options, known, subject=subject)
    return model, options


def parse_memory(text: str, *, subject: str = "memory") -> int:
    """MiB of ``2048``, ``2048MiB``, ``2GiB``, ``2G`` or ``4TiB``."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise bad(subject, f"{text!r} is not a memory size", "write it as 2048MiB or 2GiB")
    return int(match[1]) * _UNITS[(match[2] or "")[:1]]


def memory(value: object, *, subject: str) -> int:
    """MiB of a number or a text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return parse_memory(str(value), subject=subject)


def integer(value: object, *, subject: str) -> int:
    """A whole number, also as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(str(value), 0) if not isinstance(value, bool) else _not_a_number(value, subject)
    except ValueError:
        return _not_a_number(value, subject)


def _not_a_number(value: object, subject: str) -> int:
    raise bad(subject, f"{value!r} is not a whole number", "give a whole number")


def text(value: object, *, subject: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise bad(subject, f"{value!r} is not a string", "put it in quotes")
    return value


def flag(value: object, *, subject: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise bad(subject, f"{value!r} is neither true nor false", "write true or false")
    return value


def choice(kind: type[Choice], value: object, *, subject: str) -> Choice:
    """One of the members of ``kind``."""
    try:
        return kind(str(value))
    except ValueError as problem:
        raise bad(subject, f"{value!r} is not supported", f"use one of: {', '.join(kind)}") from problem
