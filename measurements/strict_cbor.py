"""CBOR (RFC 8949) that is hashed or signed: one item, written the one way in which it can be written.

The decoder takes whatever is well formed: numbers written too long, a key twice of which the last one counts,
bytes after the item. Two readers can then see two documents in the same bytes. So an item counts only if
writing it again gives the same bytes, and it holds neither tags nor floats. ``measurements.cbor_scan``
bounds how much is built. Exempt is one thing that real writers do (the Nitro Security Module of today): the
outermost map may have an indefinite length.

Documents of keyturn's own are deterministic as well: keys sorted (RFC 8949 section 4.2.1).
"""

from __future__ import annotations

from typing import NoReturn

import cbor2

from measurements.cbor_scan import MAX_ITEMS, check_cbor
from measurements.errors import FormatError

_INDEFINITE_MAP, _BREAK = b"\xbf", b"\xff"


class CborError(FormatError):
    """Bytes that are not one CBOR item in its plain form."""

    code = "cbor"


def parse_cbor(data: bytes, *, limit: int, subject: str, items: int = MAX_ITEMS) -> object:
    """The item that ``data`` (at most ``limit`` bytes and ``items`` items) holds; raises ``CborError`` for
    anything else.
    """
    item = _load(data, limit, subject, items)
    written = cbor2.dumps(item)
    if data not in (written, _with_indefinite_length(written, item)):
        _refuse("is not one CBOR item with each key once and nothing after it", subject)
    return item


def parse_deterministic_cbor(data: bytes, *, limit: int, subject: str, items: int = MAX_ITEMS) -> object:
    """The item whose deterministic form is ``data``; raises ``CborError`` for anything else."""
    item = _load(data, limit, subject, items)
    if encode_deterministic_cbor(item) != data:
        _refuse("is not in its deterministic form: each key once, the keys sorted", subject)
    return item


def encode_deterministic_cbor(item: object) -> bytes:
    """The one form of ``item``, which holds texts, bytes, integers, booleans, null, lists, and maps whose
    keys are all of one type.
    """
    # Sorting by length first is sorting by bytes among keys of one type.
    return cbor2.dumps(item, canonical=True)


def _load(data: bytes, limit: int, subject: str, items: int) -> object:
    """The item, if it is plain and within the limits; not yet whether it is written in one way."""
    if len(data) > limit:
        _refuse(f"has {len(data)} bytes, more than {limit}", subject)
    try:
        check_cbor(data, items=items)
        item: object = cbor2.loads(data)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as error:
        _refuse(f"is not CBOR of one plain item with nothing after it: {error}", subject)
    _check_keys(item, subject)
    return item


def _check_keys(item: object, subject: str) -> None:
    """Refuse maps with keys that are no texts, bytes or integers."""
    waiting = [item]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if not all(type(key) in (str, bytes, int) for key in value):
                _refuse("holds a map with a key that is no text, bytes or integer", subject)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _with_indefinite_length(written: bytes, item: object) -> bytes:
    """``written``, if it is a short map, as a writer that did not know its length would give it."""
    is_short_map = isinstance(item, dict) and len(item) < 24
    return _INDEFINITE_MAP + written[1:] + _BREAK if is_short_map else written


def _refuse(reason: str, subject: str) -> NoReturn:
    raise CborError(reason, subject=subject, advice="give the bytes as the platform's own tool wrote them")
