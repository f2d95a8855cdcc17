"""Checks of single values of a recipe. Each takes the value as written and returns it, or raises
``ValueError`` with the reason.
"""

from __future__ import annotations

import re
from typing import TypeVar

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)?")
_SIZE = re.compile(r"([0-9]{1,9}) ?(KiB|MiB|GiB)")
_UNITS = {"KiB": 10, "MiB": 20, "GiB": 30}
_MODE = re.compile(r"[0-7]{3,4}")
_MODULE = re.compile(r"[a-z0-9][a-z0-9_-]*")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_WORD = re.compile(r"[!-~]+")
_WHEEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9.+!]*")
_CAPABILITIES = re.compile(r"cap_[a-z_]+(,cap_[a-z_]+)*[+=]e?i?p?")

Item = TypeVar("Item")


def _matching(pattern: re.Pattern[str], value: str, *, what: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")
    return value


def not_empty(value: str) -> str:
    """Any text but none."""
    if not value:
        raise ValueError("is empty")
    return value


def image_label(value: str) -> str:
    """A name or version that can be part of file names."""
    return _matching(_LABEL, value, what="a plain name (letters, digits, . _ + ~ -)")


def package_name(value: str) -> str:
    """A Debian package name (Debian Policy 5.6.1)."""
    return _matching(_PACKAGE, value, what="a package name")


def suite_name(value: str) -> str:
    """A suite or code name of an archive."""
    return _matching(_SUITE, value, what="a suite name")


def module_name(value: str) -> str:
    """A kernel module's name, without path and suffix."""
    return _matching(_MODULE, value, what="a kernel module name (no path, no .ko)")


def accounts_name(value: str) -> str:
    """A user or group name."""
    return _matching(_ACCOUNT, value, what="a user or group name")


def command_line_word(value: str) -> str:
    """One word of the kernel command line: printable ASCII without blanks."""
    return _matching(_WORD, value, what="one word of a kernel command line")


def wheel_pin(value: str) -> str:
    """``name==version``."""
    return _matching(_WHEEL, value, what="a wheel pinned as name==version")


def capability_set(value: str) -> str:
    """File capabilities in the text form of cap_from_text(3), one clause."""
    return _matching(_CAPABILITIES, value, what="a capability set such as cap_net_raw+ep")


def size_in_bytes(value: object) -> int:
    """``"120MiB"`` → bytes."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{value!r} is not a size such as "120MiB" (KiB, MiB, GiB)')
    return int(match[1]) << _UNITS[match[2]]


def file_mode(value: object) -> int:
    """``"0644"`` → 0o644."""
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise ValueError(f'{value!r} is not a mode such as "0644" (a string of octal digits)')
    return int(value, 8)


def absolute_path(value: str) -> str:
    """A path of the image: absolute, normalised, without control characters."""
    parts = value.split("/")[1:]
    if not value.startswith("/") or not all(parts) or {".", ".."} & set(parts) or not value.isprintable():
        raise ValueError(f"{value!r} is not a plain absolute path of the image")
    return value


def relative_source(value: str) -> str:
    """A path below the recipe's folder: relative, normalised, without control characters."""
    parts = value.split("/")
    if not all(parts) or {".", ".."} & set(parts) or not value.isprintable() or "\\" in value:
        raise ValueError(f"{value!r} is not a plain path below the recipe's folder")
    return value


def unique(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """``items``, in which nothing may occur twice."""
    seen: set[Item] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"{item!r} is given twice")
        seen.add(item)
    return items
