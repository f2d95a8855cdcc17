"""Canonical JSON for documents that are hashed or signed.

Source: RFC 8785 (JSON Canonicalization Scheme), restricted to documents without floats and with ASCII keys.
UTF-8 without blanks; keys in code-point order, which for ASCII is the order of RFC 8785 3.2.3; in texts only
``"``, ``\\`` and characters below U+0020 are escaped, by their short form or as ``\\u00xx`` in lower case
(3.2.2.2); integers from -(2^53 - 1) to 2^53 - 1 in decimal (I-JSON, RFC 7493 2.2).

The module ships in the guest: standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias

from measurements.errors import FormatError
from measurements.json_text import json_text

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"

MAX_INTEGER = (1 << 53) - 1
MAX_DEPTH = 32
"""Levels of lists and objects: more than any document here needs."""


class CanonicalError(FormatError):
    """A document that has no canonical form, or bytes that are not in it."""

    code = "canonical-json"


def encode_canonical(document: Json, *, subject: str = "document") -> bytes:
    """The canonical bytes of ``document``.

    Raises ``CanonicalError`` for floats, keys that are not ASCII texts, integers beyond 2^53 - 1, lone
    surrogates, other types, and nesting deeper than ``MAX_DEPTH``.
    """
    _check(document, subject, 0)
    try:
        return _dump(document)
    except UnicodeEncodeError:
        _refuse("a text holds a lone surrogate", subject)


def parse_canonical(data: bytes, *, subject: str = "document", marks: int | None = None) -> Json:
    """The document whose canonical form is ``data``; anything but exactly that raises ``CanonicalError``.
    ``marks`` bounds the items (``measurements.json_text``).
    """
    document = parse_json(data, subject=subject, marks=marks)
    if _dump(document) != data:
        _refuse("not in canonical form (RFC 8785)", subject)
    return document


def parse_json(data: bytes, *, subject: str = "document", marks: int | None = None) -> Json:
    """The document from JSON that need not be canonical, but has no floats, no duplicate keys and nothing
    else that has no canonical form.
    """
    try:
        document: Json = json.loads(
            json_text(data, marks=marks),
            object_pairs_hook=_object,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except ValueError as error:
        _refuse(f"not a JSON document: {error}", subject)
    encode_canonical(document, subject=subject)
    return document


def _dump(document: Json) -> bytes:
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:32]} is not an integer")


def _check(value: object, subject: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        _refuse(f"nested deeper than {MAX_DEPTH} levels", subject)
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            _refuse("an integer is beyond 2^53 - 1", subject)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                _refuse(f"key {key!r} is not an ASCII text", subject)
            _check(item, subject, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, subject, depth + 1)
    else:
        _refuse(f"a {type(value).__name__} has no canonical form", subject)


def _refuse(reason: str, subject: str) -> NoReturn:
    raise CanonicalError(
        reason, subject=subject, advice="write the document as canonical JSON without floats"
    )
