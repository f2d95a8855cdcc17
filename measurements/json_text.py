"""Bounds how deep JSON (RFC 8259) nests, and how many items it makes, before it is parsed.

Python's parser follows each level with a call in C, and only the interpreter's recursion limit stops it. A
library that raises that limit far enough, as ``py_ecc`` does below ``eth_account`` and ``web3``, lets a short
hostile document end the process.

The module ships in the guest: standard library only.
"""

from __future__ import annotations

import re
from itertools import accumulate

MAX_LEVELS = 64
"""Levels of lists and objects: more than any document here needs."""

# A text is one match, also where it never ends: brackets in it do not count, and no byte is read twice.
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]
_MARKS = (b"[", b"{", b",", b'"', b"\\")

MAX_MARKS = 100_000
"""Enough for evidence: what it takes to refuse a hostile megabyte is bounded by it."""


def nesting(data: bytes) -> int:
    """Levels of lists and objects in JSON of UTF-8: all that a parser enters, also in a broken document."""
    brackets = _TEXT.sub(b"", data).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets), initial=0))


def json_text(data: bytes, *, levels: int = MAX_LEVELS, marks: int | None = None) -> str:
    """The text to parse; raises ``ValueError`` unless ``data`` is UTF-8, nests at most ``levels`` deep and
    holds at most ``marks`` of the characters that begin, part or escape items, those in texts too.
    """
    if marks is not None and sum(map(data.count, _MARKS)) > marks:
        raise ValueError(f"it holds more than {marks} brackets, commas, quotes and backslashes")
    if nesting(data) > levels:
        raise ValueError(f"it nests deeper than {levels} levels")
    return data.decode("utf-8")
