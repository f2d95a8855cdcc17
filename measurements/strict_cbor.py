"""CBOR (RFC 8949) that is hashed or signed: one item, written the one way in which it can be written.

The decoder takes whatever is well formed: numbers written too long, a key twice of which the last one counts,
bytes after the item. Two readers can then see two documents in the same bytes. So an item counts only if
writing it again gives the same bytes, and it holds neither tags nor floats. Exempt is one thing that real
writers do (the Nitro Security Module of today): the outermost map may have an indefinite length.
"""

from __future__ import annotations

from typing import NoReturn

import cbor2

from measurements.errors import FormatError

_INDEFINITE_MAP, _BREAK = b"\xbf", b"\xff"
_INTEGERS = 1 << 64


class CborError(FormatError):
    """Bytes that are not one CBOR item in its plain form."""

    code = "cbor"


def parse_cbor(data: bytes, *, limit: int, subject: str) -> object:
    """The item that ``data`` (at most ``limit`` bytes) holds; raises ``CborError`` for anything else."""
    if len(data) > limit:
        _refuse(f"has {len(data)} bytes, more than {limit}", subject)
    try:
        item: object = cbor2.loads(data)
        written = cbor2.dumps(item)
    # Hostile tags reach the constructors of many types, each with errors of its own.
    except (cbor2.CBORError, ArithmeticError, ValueError, TypeError, RecursionError) as error:
        _refuse(f"is not CBOR: {error}", subject)
    if data not in (written, _with_indefinite_length(written, item)):
        _refuse("is not one CBOR item with each key once and nothing after it", subject)
    _check_plain(item, subject)
    return item


def _check_plain(item: object, subject: str) -> None:
    """Refuse values that only tags, floats or the simple values beyond null can have given."""
    waiting = [item]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif type(value) is int:
            if not -_INTEGERS <= value < _INTEGERS:
                _refuse("holds an integer of more than 64 bits", subject)
        elif value is not None and type(value) not in (bytes, str, bool):
            _refuse(f"holds a {type(value).__name__}", subject)


def _with_indefinite_length(written: bytes, item: object) -> bytes:
    """``written``, if it is a short map, as a writer that did not know its length would give it."""
    is_short_map = isinstance(item, dict) and len(item) < 24
    return _INDEFINITE_MAP + written[1:] + _BREAK if is_short_map else written


def _refuse(reason: str, subject: str) -> NoReturn:
    raise CborError(reason, subject=subject, advice="give the bytes as the platform's own tool wrote them")
