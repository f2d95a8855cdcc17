"""Bounds what CBOR (RFC 8949) makes a decoder build, before anything is built.

A megabyte of one-byte empty arrays is a hundred megabytes of objects, and tags call constructors of many
types. Here only the heads of the items are read: a head is the major type (3 bits) and the argument (5 bits,
or the 1, 2, 4 or 8 bytes that follow), section 3.
"""

from __future__ import annotations

MAX_LEVELS = 16
"""Levels of arrays and maps: more than any document here needs."""

MAX_ITEMS = 8192
"""Items of one document, keys counted."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = range(8)
_CONSTANTS = (20, 21, 22)  # false, true, null
_INDEFINITE_MAP, _BREAK = 0xBF, 0xFF
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}
_SMALLEST = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}


def check_cbor(data: bytes, *, items: int = MAX_ITEMS, levels: int = MAX_LEVELS) -> None:
    """Raises ``ValueError`` unless ``data`` is one item of at most ``items`` items, ``levels`` deep, all of
    definite length and in their shortest form, without tags, floats and simple values beyond null.

    The outermost map may have an indefinite length. Time is linear in ``items``, whatever the lengths say.
    """
    outermost = len(data) > 1 and data[0] == _INDEFINITE_MAP
    if outermost and data[-1] != _BREAK:
        raise ValueError("its outermost map has no end")
    at, end = (1, len(data) - 1) if outermost else (0, len(data))
    waiting = [] if outermost else [1]
    count = 0
    while waiting or (outermost and at < end):
        if waiting and waiting[-1] == 0:
            waiting.pop()
            continue
        count += 1
        if count > items:
            raise ValueError(f"it holds more than {items} items")
        if waiting:
            waiting[-1] -= 1
        major, argument, at = _head(data, at, end)
        if major in (_BYTES, _TEXT):
            at += argument
        elif major in (_ARRAY, _MAP):
            waiting.append(argument if major == _ARRAY else 2 * argument)
        if at > end or len(waiting) > levels + 1:
            raise ValueError("it ends early" if at > end else f"it nests deeper than {levels} levels")
    if at != end:
        raise ValueError(f"it is followed by {end - at} bytes")


def _head(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Major type, argument, and where the item's content starts."""
    if at >= end:
        raise ValueError(f"it ends early, at byte {at}")
    major, low = data[at] >> 5, data[at] & 31
    if major == _OTHER and low not in _CONSTANTS:
        raise ValueError(f"it holds a float, a break or another simple value at byte {at}")
    if major == _TAG:
        raise ValueError(f"it holds a tag at byte {at}")
    if low < 24:
        return major, low, at + 1
    width = _WIDTHS.get(low)
    if width is None:
        raise ValueError(f"it holds an item without a definite length at byte {at}")
    if at + 1 + width > end:
        raise ValueError(f"it ends early, at byte {end}")
    argument = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    if argument < _SMALLEST[width]:
        raise ValueError(f"it holds a number that is written too long at byte {at}")
    return major, argument, at + 1 + width
