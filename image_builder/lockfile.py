"""The lock ``keyturn.lock``: every input byte of an image by SHA-256.

TOML 1.0, sorted, so that two locks of the same inputs are the same bytes and a change is easy to review. It
holds no host names, no machine paths and no times. Tables: ``[[suite]]``, ``[[package]]``, ``[[wheel]]``,
``[[file]]`` (local files of the recipe) and ``[[agent]]`` (the guest agent's own files). Hashes are
lower-case hex, sizes are bytes, modes are octal strings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from measurements.errors import KeyturnError

LOCK_NAME = "keyturn.lock"
LOCK_VERSION = 1
_HEADER = "# Made by `keyturn lock`; every input of the image by hash. Change the recipe, not this file.\n\n"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class LockError(KeyturnError):
    """A lock that cannot be used."""

    code = "lock"


class PackageRole(StrEnum):
    """What a locked package is for."""

    ROOT = "root"
    KERNEL = "kernel"
    STUB = "stub"


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedSuite:
    """One signed index: ``release_sha256`` is the hash of the InRelease file, ``index_sha256`` of the
    Packages file at ``index_path`` below the suite. Who signed is not kept: keyrings of different age know
    different certificates, and the same inputs must give the same lock.
    """

    suite: str
    archive: str
    component: str
    release_sha256: str
    index_path: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedPackage:
    """One Debian package; ``path`` is its place below the root of ``suite``'s archive."""

    name: str
    version: str
    architecture: str
    role: PackageRole
    size: int
    sha256: str
    path: str
    suite: str
    source: str
    source_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedWheel:
    """One Python wheel."""

    name: str
    version: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedFile:
    """One local file: ``path`` in the image (absolute), ``source`` below the recipe's folder, or below
    keyturn's own packages.
    """

    path: str
    source: str
    size: int
    sha256: str
    mode: int
    owner: str
    group: str

    @property
    def tree_path(self) -> str:
        """``path`` as trees hold it, without the leading slash."""
        return self.path.removeprefix("/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A whole lock. ``recipe_sha256`` is over the recipe's bytes, ``request_sha256`` over what decides
    about packages and wheels.
    """

    version: int = LOCK_VERSION
    architecture: str
    recipe_sha256: str
    request_sha256: str
    suites: tuple[LockedSuite, ...] = ()
    packages: tuple[LockedPackage, ...] = ()
    wheels: tuple[LockedWheel, ...] = ()
    files: tuple[LockedFile, ...] = ()
    agent: tuple[LockedFile, ...] = ()

    def with_role(self, role: PackageRole) -> tuple[LockedPackage, ...]:
        """The packages of one role."""
        return tuple(package for package in self.packages if package.role is role)


_Entry = TypeVar("_Entry", LockedSuite, LockedPackage, LockedWheel, LockedFile)


def lock_bytes(lock: Lock) -> bytes:
    """The lock as a file's bytes: the same lock always gives the same bytes."""
    document: dict[str, Any] = {
        "version": lock.version,
        "architecture": lock.architecture,
        "recipe-sha256": lock.recipe_sha256,
        "request-sha256": lock.request_sha256,
    }
    lists: dict[str, list[dict[str, Any]]] = {
        "suite": [
            _table(entry) for entry in sorted(lock.suites, key=lambda each: (each.suite, each.component))
        ],
        "package": [
            _table(entry) for entry in sorted(lock.packages, key=lambda each: (each.name, each.role))
        ],
        "wheel": [_table(entry) for entry in sorted(lock.wheels, key=lambda each: each.name)],
        "file": [_table(entry) for entry in sorted(lock.files, key=lambda each: each.path)],
        "agent": [_table(entry) for entry in sorted(lock.agent, key=lambda each: each.path)],
    }
    document.update({key: tables for key, tables in lists.items() if tables})
    return (_HEADER + tomli_w.dumps(document)).encode()


def lock_sha256(data: bytes) -> str:
    """SHA-256 of a lock file's bytes."""
    return hashlib.sha256(data).hexdigest()


def parse_lock(data: bytes, *, name: str = LOCK_NAME) -> Lock:
    """The lock in ``data``; raises :class:`LockError` for anything that :func:`lock_bytes` would not have
    written.
    """
    try:
        document = tomllib.loads(data.decode())
        if document.get("version") != LOCK_VERSION:
            raise ValueError(f"lock version {document.get('version')!r}, this program knows {LOCK_VERSION}")
        lock = Lock(
            version=LOCK_VERSION,
            architecture=_text(document.pop("architecture", None), "architecture"),
            recipe_sha256=_hash(document.pop("recipe-sha256", None), "recipe-sha256"),
            request_sha256=_hash(document.pop("request-sha256", None), "request-sha256"),
            suites=_entries(document, "suite", LockedSuite),
            packages=_entries(document, "package", LockedPackage),
            wheels=_entries(document, "wheel", LockedWheel),
            files=_entries(document, "file", LockedFile),
            agent=_entries(document, "agent", LockedFile),
        )
        document.pop("version")
        if document:
            raise ValueError(f"unknown key {min(document)}")
    except ValueError as error:  # also not UTF-8, not TOML
        raise LockError(
            f"not a lock: {error}", subject=name, advice="remove the file and run `keyturn lock`"
        ) from None
    return lock


def read_lock(path: Path) -> Lock:
    """The lock in the file ``path``; raises :class:`LockError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LockError(
            f"cannot be read: {error.strerror}", subject=path.name, advice="run `keyturn lock` first"
        ) from None
    return parse_lock(data, name=path.name)


def check_lock(*, recipe_sha256: str, lock: Lock) -> None:
    """Refuse a lock that was made for another text of the recipe; raises :class:`LockError`."""
    if lock.recipe_sha256 != recipe_sha256:
        raise LockError(
            "the lock is older than the recipe: the recipe has changed since it was locked",
            subject=LOCK_NAME,
            advice="run `keyturn lock`",
        )


def _table(entry: _Entry) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if field.name == "mode":
            value = f"{value:04o}"
        elif isinstance(value, PackageRole):
            value = value.value
        table[field.name.replace("_", "-")] = value
    return table


def _entries(document: dict[str, Any], key: str, kind: type[_Entry]) -> tuple[_Entry, ...]:
    tables = document.pop(key, [])
    if not isinstance(tables, list):
        raise ValueError(f"{key} is not a list of tables")
    return tuple(_entry(table, f"{key}[{index}]", kind) for index, table in enumerate(tables))


def _entry(table: object, where: str, kind: type[_Entry]) -> _Entry:
    if not isinstance(table, dict):
        raise ValueError(f"{where} is not a table")
    left = dict(table)
    values = {}
    for field in dataclasses.fields(kind):
        key = field.name.replace("_", "-")
        if key not in left:
            raise ValueError(f"{where} has no {key}")
        values[field.name] = _READERS.get(field.name, _text)(left.pop(key), f"{where}.{key}")
    if left:
        raise ValueError(f"{where} has an unknown key {min(left)}")
    return kind(**values)


def _relative_path(value: object, where: str) -> str:
    text = _plain_path(value, where)
    if text.startswith("/"):
        raise ValueError(f"{where} is not a relative path")
    return text


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{where} is not a plain text")
    return value


def _hash(value: object, where: str) -> str:
    text = _text(value, where)
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{where} is not a SHA-256 in lower-case hex")
    return text


def _size(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where} is not a size in bytes")
    return value


def _mode(value: object, where: str) -> int:
    text = _text(value, where)
    if not re.fullmatch(r"[0-7]{4}", text):
        raise ValueError(f"{where} is not a mode of four octal digits")
    return int(text, 8)


def _plain_path(value: object, where: str) -> str:
    text = _text(value, where)
    parts = text.removeprefix("/").split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\\" in text or ":" in parts[0]:
        raise ValueError(f"{where} is not a plain path")
    return text


def _file_name(value: object, where: str) -> str:
    text = _plain_path(value, where)
    if "/" in text:
        raise ValueError(f"{where} is not a plain file name")
    return text


def _role(value: object, where: str) -> PackageRole:
    return PackageRole(_text(value, where))


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "sha256": _hash,
    "release_sha256": _hash,
    "index_sha256": _hash,
    "size": _size,
    "mode": _mode,
    "path": _plain_path,
    "source": _relative_path,
    "index_path": _relative_path,
    "filename": _file_name,
    "role": _role,
}
