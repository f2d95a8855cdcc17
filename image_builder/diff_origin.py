"""Finds the input that is behind a file that differs between two images.

The rules are asked in order, the first that knows an answer wins: a local file or a file of the agent in the
lock; a package or wheel that changed and holds the path; the recipe keys behind a file that the build writes
itself; a side that does not hold what its lock names. What remains is a change of keyturn itself.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from image_builder.comparison import Cause, CauseKind, follows
from image_builder.diff_inputs import (
    InputChange,
    agent_changes,
    file_changes,
    package_changes,
    package_key,
    recipe_changes,
    wheel_changes,
)
from image_builder.diff_trees import FileView
from image_builder.lockfile import Lock, LockedPackage, LockedWheel
from image_builder.package_paths import merged_path
from image_builder.store import Store
from image_builder.store_archive import lock_objects
from image_builder.tar_format import TarType
from image_builder.tree import Kind
from image_builder.unpack import unpack

_BYTECODE: Final = re.compile(r"(.*/)?__pycache__/([^/]+)\.cpython-[0-9]+\.pyc")
WHEEL_FOLDER: Final = "usr/lib/python3/dist-packages"
_PYTHON: Final = re.compile(r"(lib)?python3.*")

GENERATED: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "etc/passwd": (("user",), ("base-passwd",)),
    "etc/group": (("user",), ("base-passwd",)),
    "etc/shadow": (("user",), ("base-passwd",)),
    "etc/gshadow": (("user",), ("base-passwd",)),
    "etc/fstab": (("tmpfs",), ()),
    "etc/inittab": ((), ("python3",)),
    "etc/os-release": (("image",), ()),
    "usr/lib/os-release": (("image",), ("base-files",)),
    "etc/ssl/certs/ca-certificates.crt": (("file",), ("ca-certificates",)),
    "etc/keyturn/cmdline": (("kernel.command-line", "image.dev"), ()),
    "etc/keyturn/modules": (("kernel.modules",), ("linux-image",)),
    "etc/keyturn/partition": (("image.name",), ()),
    "etc/keyturn/mount-options": (("permissions",), ()),
}
"""Files that the build writes itself.

Prefixes of the recipe keys and of the packages that decide what is in them.
"""


class InputFiles(Protocol):
    """Knows which files the locked inputs hold; ``None`` where it cannot know."""

    def package(self, package: LockedPackage) -> Mapping[str, str] | None:
        """SHA-256 by path (after usr-merge) of a package; "" for what is not a regular file."""

    def wheel(self, wheel: LockedWheel) -> frozenset[str] | None:
        """Paths in the image of a wheel's files."""


class StoreFiles:
    """The files of inputs in the store, or in ``further`` ones, from which they are then taken over."""

    def __init__(self, store: Store, *, further: Sequence[Store] = ()) -> None:
        self._store = store
        self._further = further
        self._packages: dict[str, Mapping[str, str] | None] = {}

    def package(self, package: LockedPackage) -> Mapping[str, str] | None:
        """Paths and hashes of a package, ``None`` if the store does not hold it."""
        if package.sha256 not in self._packages:
            there = self._take(package.sha256, name=package.name, size=package.size)
            self._packages[package.sha256] = self._read(package) if there else None
        return self._packages[package.sha256]

    def take_all(self, lock: Lock) -> None:
        """Take over every input of ``lock`` that only a further store holds."""
        for sha256, (name, size) in lock_objects(lock).items():
            self._take(sha256, name=name, size=size)

    def _take(self, sha256: str, *, name: str, size: int) -> bool:
        """Whether the store holds the object, or does now."""
        if not self._store.has(sha256):
            source = next((each for each in self._further if each.has(sha256)), None)
            if source is not None:
                self._store.add_file(source.verified(sha256, name=name, size=size))
        return self._store.has(sha256)

    def _read(self, package: LockedPackage) -> Mapping[str, str]:
        members = unpack(package, self._store).members
        return {
            merged_path(member.path): member.sha256 if member.type is TarType.FILE else ""
            for member in members
        }

    def wheel(self, wheel: LockedWheel) -> frozenset[str] | None:
        """Paths of a wheel's files, ``None`` if the store does not hold it."""
        if not self._take(wheel.sha256, name=wheel.filename, size=wheel.size):
            return None
        path = self._store.verified(wheel.sha256, name=wheel.filename, size=wheel.size)
        with zipfile.ZipFile(path) as archive:
            return frozenset(f"{WHEEL_FOLDER}/{name}" for name in archive.namelist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The inputs of one image.

    ``recipe`` is its TOML document, ``tool`` is the version of keyturn that its provenance names.
    """

    name: str
    lock: Lock
    recipe: Mapping[str, Any]
    tool: str


@dataclass(slots=True, kw_only=True)
class CauseFinder:
    """Answers for two images; ``before`` and ``after`` are their inputs."""

    before: Side
    after: Side
    files: InputFiles
    packages: list[InputChange] = field(init=False)
    wheels: list[InputChange] = field(init=False)
    recipe: list[InputChange] = field(init=False)
    own: dict[str, InputChange] = field(init=False)
    holders: dict[str, frozenset[str] | None] = field(init=False)
    answers: dict[str, tuple[Cause, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        old, new = self.before.lock, self.after.lock
        self.packages = package_changes(old, new)
        self.wheels = wheel_changes(old, new)
        self.recipe = recipe_changes(self.before.recipe, self.after.recipe)
        self.own = {change.key: change for change in (*file_changes(old, new), *agent_changes(old, new))}
        self.holders = self._holders()

    def __call__(self, path: str, old: FileView | None, new: FileView | None) -> tuple[Cause, ...]:
        """Causes of the difference at ``path``; at least one. Ask in the order of the paths."""
        self.answers[path] = causes = self._causes(path, old, new)
        return causes

    def _causes(self, path: str, old: FileView | None, new: FileView | None) -> tuple[Cause, ...]:
        if path == "etc/keyturn/verity":
            return (follows("the root file system"),)
        return (
            self._input(path)
            or self._link(old, new)
            or self._bytecode(path)
            or self._generated(path)
            or self._altered(path, old, new)
            or self._unknown()
        )

    def of_package(self, prefix: str) -> tuple[Cause, ...]:
        """The changed packages whose lock key begins with ``prefix``."""
        return tuple(change.cause for change in self.packages if change.key.startswith(prefix))

    def of_role(self, role: str) -> tuple[Cause, ...]:
        """The changed packages with a role other than root: ``kernel`` or ``stub``."""
        return tuple(change.cause for change in self.packages if change.key.endswith(f"({role})"))

    def of_recipe(self, *prefixes: str) -> tuple[Cause, ...]:
        """The changed recipe keys that begin with one of ``prefixes``."""
        return tuple(change.cause for change in self.recipe if change.key.startswith(prefixes))

    def unexplained(self) -> tuple[Cause, ...]:
        """The cause of something that no input explains."""
        return self._unknown()

    def _input(self, path: str) -> tuple[Cause, ...]:
        if path in self.own:
            return (self.own[path].cause,)
        found = [
            change.cause
            for change in (*self.packages, *self.wheels)
            if path in (self.holders[change.difference.subject] or ())
        ]
        named = [change.cause for change in self.recipe if _names(change, path)]
        return (*found, *named)

    def _link(self, old: FileView | None, new: FileView | None) -> tuple[Cause, ...]:
        """A link that the build makes (an alternative) changes with what it leads to."""
        targets = [view.target for view in (old, new) if view is not None and view.kind is Kind.SYMLINK]
        found: dict[Cause, None] = {}
        for target in targets:
            path = merged_path(target.removeprefix("/"))
            found |= dict.fromkeys(self.answers.get(path) or self._input(path))
        return tuple(found)

    def _holders(self) -> dict[str, frozenset[str] | None]:
        """Paths of every changed package and wheel, of both versions, by the subject of the change."""
        known: dict[str, frozenset[str] | None] = {}
        for change in self.packages:
            sides = [_package(side.lock, change.key) for side in (self.before, self.after)]
            known[change.difference.subject] = _joined([self.files.package(each) for each in sides if each])
        for change in self.wheels:
            wheels = [
                wheel
                for side in (self.before, self.after)
                for wheel in side.lock.wheels
                if wheel.name == change.key
            ]
            known[change.difference.subject] = _joined([self.files.wheel(each) for each in wheels])
        return known

    def _bytecode(self, path: str) -> tuple[Cause, ...]:
        match = _BYTECODE.fullmatch(path)
        if match is None:
            return ()
        source = f"{match[1] or ''}{match[2]}.py"
        python = tuple(change.cause for change in self.packages if _PYTHON.fullmatch(change.key))
        return self._input(source) or python

    def _generated(self, path: str) -> tuple[Cause, ...]:
        if path.startswith(("modules/", "usr/lib/modules/")):
            return self.of_role("kernel") or self.of_recipe("kernel.modules")
        if path not in GENERATED:
            return ()
        keys, packages = GENERATED[path]
        causes = self.of_recipe(*keys) if keys else ()
        return (*causes, *(cause for prefix in packages for cause in self.of_package(prefix)))

    def _altered(self, path: str, old: FileView | None, new: FileView | None) -> tuple[Cause, ...]:
        """The sides that do not hold what both locks name for ``path``."""
        named = next(self._locked_hashes(path), None)
        if named is None:
            return ()
        what, sha256 = named
        text = "does not hold the bytes that its lock names for"
        return tuple(
            Cause(
                kind=CauseKind.ALTERED, text=f"{side.name} {text} /{path} ({what}): changed after the build"
            )
            for side, view in ((self.before, old), (self.after, new))
            if view is None or view.kind is not Kind.FILE or view.sha256 != sha256
        )

    def _locked_hashes(self, path: str) -> Iterator[tuple[str, str]]:
        for entry in (*self.after.lock.files, *self.after.lock.agent):
            if entry.tree_path == path:
                yield f"from {entry.source}", entry.sha256
        for package in self.after.lock.packages:
            sha256 = (self.files.package(package) or {}).get(path)
            if sha256:
                yield f"package {package_key(package)} {package.version}", sha256

    def _unknown(self) -> tuple[Cause, ...]:
        unread = [subject for subject, paths in self.holders.items() if paths is None]
        if unread:
            text = "one of the changed inputs that are not in the store: " + ", ".join(unread)
            return (Cause(kind=CauseKind.PACKAGE, text=text),)
        old, new = self.before.tool, self.after.tool
        if old != new:
            text = f"keyturn itself: built by version {old} and by version {new}"
        else:
            text = f"no input explains it: other sources of keyturn {new}, or changed after the build"
        return (Cause(kind=CauseKind.BUILD_TOOL, text=text),)


def _package(lock: Lock, key: str) -> LockedPackage | None:
    return next((package for package in lock.packages if package_key(package) == key), None)


def _joined(found: Sequence[Mapping[str, str] | frozenset[str] | None]) -> frozenset[str] | None:
    if any(paths is None for paths in found):
        return None
    return frozenset(path for paths in found if paths is not None for path in paths)


def _names(change: InputChange, path: str) -> bool:
    """Whether a recipe change is about the file itself: its path is in the key or in a value."""
    difference = change.difference
    pattern = re.compile(rf"/{re.escape(path)}(?![\w./-])")
    return any(pattern.search(text) for text in (change.key, difference.before, difference.after))
