"""Compares the inputs of two images: their locks and their recipes.

Every difference found here is a cause of differences in the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from image_builder.comparison import Cause, CauseKind, Change, Difference
from image_builder.debian_version import compare
from image_builder.lockfile import Lock, LockedFile, LockedPackage, LockedSuite, LockedWheel, PackageRole

_Entry = TypeVar("_Entry", LockedPackage, LockedWheel, LockedFile, LockedSuite)
_Pair = tuple[_Entry | None, _Entry | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputChange:
    """One input that differs, by key (package name, image path, recipe key)."""

    key: str
    difference: Difference

    @property
    def cause(self) -> Cause:
        """The cause that this change is."""
        return self.difference.causes[0]


def package_changes(before: Lock, after: Lock) -> list[InputChange]:
    """Packages that differ, by name."""
    return _changes(
        {package_key(package): package for package in before.packages},
        {package_key(package): package for package in after.packages},
        kind=CauseKind.PACKAGE,
        describe=_describe_package,
        verb=_package_verb,
    )


def package_key(package: LockedPackage) -> str:
    """The name of a package, with its role unless it is an ordinary one."""
    return package.name if package.role is PackageRole.ROOT else f"{package.name} ({package.role.value})"


def wheel_changes(before: Lock, after: Lock) -> list[InputChange]:
    """Wheels that differ, by name."""
    return _changes(
        {wheel.name: wheel for wheel in before.wheels},
        {wheel.name: wheel for wheel in after.wheels},
        kind=CauseKind.WHEEL,
        describe=lambda wheel: f"{wheel.version} ({wheel.sha256[:12]})",
    )


def file_changes(before: Lock, after: Lock) -> list[InputChange]:
    """Local files that differ, by their path in the image without the leading slash."""
    return _changes(
        _by_path(before.files), _by_path(after.files), kind=CauseKind.LOCAL_FILE, describe=_describe_file
    )


def agent_changes(before: Lock, after: Lock) -> list[InputChange]:
    """Files of the guest agent that differ, by their path in the image without the leading slash."""
    return _changes(
        _by_path(before.agent), _by_path(after.agent), kind=CauseKind.AGENT, describe=_describe_file
    )


def suite_changes(before: Lock, after: Lock) -> list[InputChange]:
    """Package indexes that differ: nothing of them is in an image, but they tell why packages changed."""
    return _changes(
        {f"{suite.suite}/{suite.component}": suite for suite in before.suites},
        {f"{suite.suite}/{suite.component}": suite for suite in after.suites},
        kind=CauseKind.INDEX,
        describe=lambda suite: f"InRelease {suite.release_sha256[:12]}, index {suite.index_sha256[:12]}",
    )


def recipe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[InputChange]:
    """Keys that differ between two recipes (TOML documents), dotted: ``kernel.command-line``."""
    old, new = (dict(_flat(document, "")) for document in (before, after))
    found = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            found.append(_change(key, old.get(key), new.get(key), kind=CauseKind.RECIPE, word="recipe key"))
    return found


def lock_differences(before: Lock, after: Lock) -> tuple[Difference, ...]:
    """Everything that differs between two locks, grouped; nothing is behind them but the locks."""
    groups = (
        ("packages", package_changes(before, after)),
        ("wheels", wheel_changes(before, after)),
        ("local files", file_changes(before, after)),
        ("agent files", agent_changes(before, after)),
        ("package indexes", suite_changes(before, after)),
        ("recipe", _scalar_changes(before, after)),
    )
    return tuple(
        Difference(subject=name, parts=tuple(replace(change.difference, causes=()) for change in changes))
        for name, changes in groups
        if changes
    )


def _scalar_changes(before: Lock, after: Lock) -> list[InputChange]:
    found = []
    for name in ("architecture", "recipe_sha256", "request_sha256"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append(_change(name.replace("_", "-"), old, new, kind=CauseKind.RECIPE, word="lock key"))
    return found


def _changes(
    before: Mapping[str, _Entry],
    after: Mapping[str, _Entry],
    *,
    kind: CauseKind,
    describe: Callable[[_Entry], str],
    verb: Callable[[_Entry, _Entry], str] = lambda _, __: "changed",
) -> list[InputChange]:
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old != new:
            texts = [describe(entry) if entry is not None else None for entry in (old, new)]
            how = verb(old, new) if old is not None and new is not None else ""
            found.append(_change(key, *texts, kind=kind, word=_WORDS[kind], verb=how))
    return found


_WORDS = {
    CauseKind.PACKAGE: "package",
    CauseKind.WHEEL: "wheel",
    CauseKind.LOCAL_FILE: "local file for",
    CauseKind.AGENT: "keyturn's own file",
    CauseKind.INDEX: "index",
}


def _change(
    key: str, old: str | None, new: str | None, *, kind: CauseKind, word: str, verb: str = "changed"
) -> InputChange:
    subject = f"{word} {key}"
    if old is None:
        change, text = Change.ADDED, f"{subject} added: {new}"
    elif new is None:
        change, text = Change.REMOVED, f"{subject} removed: {old}"
    else:
        change, text = Change.CHANGED, f"{subject} {verb}: {old} → {new}"
    cause = Cause(kind=kind, text=text)
    return InputChange(
        key=key,
        difference=Difference(
            subject=subject, change=change, before=old or "", after=new or "", causes=(cause,)
        ),
    )


def _package_verb(old: LockedPackage, new: LockedPackage) -> str:
    order = compare(old.version, new.version)
    if order:
        return "upgraded" if order < 0 else "downgraded"
    return "replaced" if old.sha256 != new.sha256 else "changed"


def _describe_package(package: LockedPackage) -> str:
    return f"{package.version} from {package.suite} ({package.sha256[:12]})"


def _describe_file(entry: LockedFile) -> str:
    return f"{entry.source} ({entry.sha256[:12]}, {entry.mode:04o} {entry.owner}:{entry.group})"


def _by_path(entries: tuple[LockedFile, ...]) -> dict[str, LockedFile]:
    return {entry.tree_path: entry for entry in entries}


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Leaves of a TOML document as (dotted key, text); tables of an array are keyed by their name or path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{prefix}[{item.get('path') or item.get('name') or number}]")
    else:
        yield prefix, str(value)
