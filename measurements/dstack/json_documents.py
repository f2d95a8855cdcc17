"""JSON of dstack: read as its own tools read it, but with each key once.

dstack's documents come from other people's hosts and guests. Unknown keys are refused where dstack's own
structures are closed, and floats nowhere: only the GPU policy of an app may hold them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NoReturn

from measurements.dstack.errors import DstackFormatError
from measurements.json_text import json_text

MAX_DOCUMENT = 64 << 20
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def parse_document(
    data: bytes, *, subject: str, limit: int = MAX_DOCUMENT, marks: int | None = None
) -> object:
    """Any JSON; raises ``DstackFormatError`` for broken text, a key twice, and numbers that are none.
    ``marks`` bounds the items (``measurements.json_text``).
    """
    if len(data) > limit:
        refuse(subject, f"has {len(data)} bytes, more than {limit}")
    try:
        return json.loads(json_text(data, marks=marks), object_pairs_hook=_once, parse_constant=_no_constant)
    except ValueError as error:
        refuse(subject, f"is not a JSON document: {error}")


def as_object(value: object, *, subject: str) -> Mapping[str, object]:
    """``value``, which must be a JSON object."""
    if not isinstance(value, dict):
        refuse(subject, "is not a JSON object")
    return value


def closed_object(
    value: object, *, required: frozenset[str], optional: frozenset[str], subject: str
) -> Mapping[str, object]:
    """An object with all ``required`` keys and no others than these and the ``optional`` ones."""
    found = as_object(value, subject=subject)
    missing, unknown = sorted(required - set(found)), sorted(set(found) - required - optional)
    if missing or unknown:
        what = f"key {missing[0]} is missing" if missing else f"key {unknown[0]!r} is unknown"
        refuse(subject, what)
    return found


def octets(value: object, *, subject: str, sizes: tuple[int, ...] = ()) -> bytes:
    """Bytes written as lower-case hex; of any length unless ``sizes`` are given."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        refuse(subject, "is not lower-case hex")
    if sizes and len(value) // 2 not in sizes:
        refuse(subject, f"has {len(value) // 2} bytes, not {' or '.join(str(size) for size in sizes)}")
    return bytes.fromhex(value)


def integer(value: object, *, subject: str, lowest: int = 0, highest: int = (1 << 64) - 1) -> int:
    """An integer in a range, both ends included."""
    if type(value) is not int or not lowest <= value <= highest:
        refuse(subject, f"is not an integer from {lowest} to {highest}")
    return value


def text(value: object, *, subject: str) -> str:
    """A text that has a form in UTF-8."""
    if not isinstance(value, str):
        refuse(subject, "is not a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        refuse(subject, "holds a lone surrogate")
    return value


def boolean(value: object, *, subject: str) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        refuse(subject, "is neither true nor false")
    return value


def refuse(subject: str, reason: str) -> NoReturn:
    """Raise ``DstackFormatError``."""
    raise DstackFormatError(reason, subject=subject, advice="give the document as dstack wrote it")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
