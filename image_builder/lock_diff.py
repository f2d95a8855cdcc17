"""What changed between two locks: packages added, removed, upgraded (from the security suite or not),
wheels and files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from image_builder.debian_version import compare
from image_builder.lockfile import Lock, LockedFile, LockedPackage
from image_builder.mirrors import SECURITY, archive_of


class ChangeKind(StrEnum):
    """How one input changed."""

    ADDED = "added"
    REMOVED = "removed"
    UPGRADED = "upgraded"
    DOWNGRADED = "downgraded"
    REPLACED = "replaced"


@dataclass(frozen=True, kw_only=True, slots=True)
class LockChange:
    """One changed input. ``what`` is package, wheel, file or agent; no version is an empty text."""

    what: str
    name: str
    kind: ChangeKind
    before: str
    after: str
    suite: str = ""
    source: str = ""

    @property
    def security(self) -> bool:
        """Whether the new version comes from a security suite."""
        return bool(self.suite) and archive_of(self.suite) == SECURITY


def diff_locks(old: Lock, new: Lock) -> tuple[LockChange, ...]:
    """The changes from ``old`` to ``new``: packages, then wheels, files and agent files, each sorted by
    name.
    """
    return (
        *_packages(old.packages, new.packages),
        *_others(
            "wheel",
            {wheel.name: (wheel.version, wheel.sha256) for wheel in old.wheels},
            {wheel.name: (wheel.version, wheel.sha256) for wheel in new.wheels},
        ),
        *_others("file", _files(old.files), _files(new.files)),
        *_others("agent", _files(old.agent), _files(new.agent)),
    )


def _packages(old: Sequence[LockedPackage], new: Sequence[LockedPackage]) -> list[LockChange]:
    before = {(package.name, package.role): package for package in old}
    after = {(package.name, package.role): package for package in new}
    changes = []
    for key in sorted(before.keys() | after.keys()):
        gone, come = before.get(key), after.get(key)
        if gone is not None and come is not None and gone.sha256 == come.sha256:
            continue
        known = [package for package in (come, gone) if package is not None]
        changes.append(
            LockChange(
                what="package",
                name=key[0],
                kind=_kind(gone.version if gone else "", come.version if come else ""),
                before=gone.version if gone else "",
                after=come.version if come else "",
                suite=come.suite if come else "",
                source=known[0].source,
            )
        )
    return changes


def _kind(before: str, after: str) -> ChangeKind:
    if not before:
        return ChangeKind.ADDED
    if not after:
        return ChangeKind.REMOVED
    order = compare(before, after)
    if order == 0:
        return ChangeKind.REPLACED
    return ChangeKind.UPGRADED if order < 0 else ChangeKind.DOWNGRADED


def _files(files: Sequence[LockedFile]) -> dict[str, tuple[str, str]]:
    """Path → (what is shown as its version, everything that identifies it)."""
    return {
        file.path: (file.sha256[:12], f"{file.sha256} {file.mode:o} {file.owner} {file.group}")
        for file in files
    }


def _others(
    what: str, before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]
) -> list[LockChange]:
    changes = []
    for name in sorted(before.keys() | after.keys()):
        gone, come = before.get(name), after.get(name)
        if gone == come:
            continue
        kind = (
            ChangeKind.ADDED if gone is None else ChangeKind.REMOVED if come is None else ChangeKind.REPLACED
        )
        changes.append(
            LockChange(
                what=what,
                name=name,
                kind=kind,
                before=gone[0] if gone else "",
                after=come[0] if come else "",
            )
        )
    return changes
