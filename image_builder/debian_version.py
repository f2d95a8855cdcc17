"""Debian version numbers: comparison and relations (deb-version(7), Debian Policy 5.6.12 and 7.1)."""

from __future__ import annotations

from functools import cmp_to_key, lru_cache
from typing import Any

from debian_inspector.version import Version, compare_version_objects

_TESTS = {
    "<<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    "<": lambda order: order <= 0,
    "=": lambda order: order == 0,
    ">=": lambda order: order >= 0,
    ">": lambda order: order >= 0,
    ">>": lambda order: order > 0,
}


@lru_cache(maxsize=1 << 14)
def _parsed(version: str) -> Any:
    epoch, colon, rest = version.rpartition(":")
    upstream, dash, revision = rest.rpartition("-")
    # Built by hand: the library's own parser refuses some versions that dpkg accepts.
    return Version(
        epoch=int(epoch) if colon else 0,
        upstream=upstream if dash else rest,
        revision=revision if dash else "0",
    )


@lru_cache(maxsize=1 << 16)
def compare(first: str, second: str) -> int:
    """Negative, zero or positive as ``first`` is older than, equal to or newer than ``second``."""
    return int(compare_version_objects(_parsed(first), _parsed(second)))


version_key = cmp_to_key(compare)
"""Key for sorting version strings from oldest to newest."""


def holds(version: str, operator: str, bound: str) -> bool:
    """Whether ``version operator bound`` is true; raises ``ValueError`` for an operator that does not
    exist.
    """
    if operator not in _TESTS:
        raise ValueError(f"no version relation {operator!r}")
    return bool(_TESTS[operator](compare(version, bound)))
