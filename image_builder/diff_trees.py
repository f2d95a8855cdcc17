"""Compares the file trees inside two artefacts: root file systems or initrds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from image_builder.comparison import Cause, CauseKind, Change, Difference
from image_builder.cpio import CpioEntry, read_cpio
from image_builder.diff_bytes import byte_differences
from image_builder.erofs_format import MODE_TYPES
from image_builder.erofs_reader import ErofsEntry, ErofsReader
from image_builder.tree import Kind
from measurements.errors import FormatError

_KINDS = {bits: kind for kind, bits in MODE_TYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """One file as it is in an artefact.

    ``offset`` is where its content begins there, ``read`` gives the content.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    target: str
    device: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]
    offset: int
    read: Callable[[], bytes]

    @property
    def sha256(self) -> str:
        """Hash of a regular file's content."""
        return hashlib.sha256(self.read()).hexdigest()

    def __str__(self) -> str:
        owner = f"{self.mode:04o} {self.uid}:{self.gid}"
        if self.kind is Kind.SYMLINK:
            return f"link to {self.target}"
        return (
            f"{self.kind.value}, {self.size} bytes, {owner}"
            if self.kind is Kind.FILE
            else f"{self.kind.value}, {owner}"
        )


Tree = dict[str, FileView]
CauseOf = Callable[[str, FileView | None, FileView | None], tuple[Cause, ...]]
"""Gives the causes of a difference at a path; the views are those of both sides."""


def erofs_views(reader: ErofsReader) -> Tree:
    """The files of a root file system. Raises ``FormatError``."""
    return {entry.path: _erofs_view(reader, entry) for entry in reader.entries()}


def _erofs_view(reader: ErofsReader, entry: ErofsEntry) -> FileView:
    content = [part for part in entry.ranges if part.part in ("data", "tail")]
    return FileView(
        path=entry.path,
        kind=entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        target=entry.target,
        device=entry.device,
        xattrs=entry.xattrs,
        offset=content[0].offset if content else 0,
        read=lambda: reader.content(entry),
    )


def cpio_views(data: bytes, *, subject: str) -> Tree:
    """The files of an initrd. Raises ``FormatError``."""
    return {
        view.path: view
        for view in (_cpio_view(data, entry, subject) for entry in read_cpio(data, subject=subject))
    }


def _cpio_view(data: bytes, entry: CpioEntry, subject: str) -> FileView:
    kind = _KINDS.get(entry.mode & 0o170000)
    if kind is None:
        raise FormatError("a member has an unknown type", subject=subject, advice="build the image again")
    content = data[entry.offset : entry.offset + entry.size]
    return FileView(
        path=entry.name.decode("utf-8", "surrogateescape"),
        kind=kind,
        mode=entry.mode & 0o7777,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        target=content.decode("utf-8", "surrogateescape") if kind is Kind.SYMLINK else "",
        device=entry.device,
        xattrs=(),
        offset=entry.offset,
        read=lambda: content,
    )


def tree_differences(
    before: Mapping[str, FileView], after: Mapping[str, FileView], *, container: str, cause_of: CauseOf
) -> tuple[Difference, ...]:
    """Files that differ, grouped by what caused them."""
    found: dict[str, Difference] = {}
    causes: dict[str, tuple[Cause, ...]] = {}
    for path in sorted(before.keys() | after.keys(), key=lambda each: PurePosixPath(each).parts):
        old, new = before.get(path), after.get(path)
        difference = file_difference(old, new, container=container)
        if difference is not None:
            found[path] = difference
            causes[path] = cause_of(path, old, new)
    groups: dict[tuple[Cause, ...], list[Difference]] = {}
    for path, difference in found.items():
        groups.setdefault(_with_contents(path, difference, causes), []).append(difference)
    return tuple(
        Difference(subject=f"{len(each)} file{'s' * (len(each) > 1)}", causes=group, parts=tuple(each))
        for group, each in groups.items()
    )


def _with_contents(
    path: str, difference: Difference, causes: Mapping[str, tuple[Cause, ...]]
) -> tuple[Cause, ...]:
    """The causes at ``path``; what appears or vanishes without one does so for what is in it."""
    own = causes[path]
    if difference.change is Change.CHANGED or any(cause.kind is not CauseKind.BUILD_TOOL for cause in own):
        return own
    inside = [causes[other] for other in causes if other.startswith(f"{path}/")]
    known = (cause for each in inside for cause in each if cause.kind is not CauseKind.BUILD_TOOL)
    return tuple(dict.fromkeys(known)) or own


def file_difference(old: FileView | None, new: FileView | None, *, container: str) -> Difference | None:
    """What differs between two files at one path, ``None`` if nothing does."""
    if old is None or new is None:
        present = old or new
        if present is None:
            return None
        change = Change.ADDED if old is None else Change.REMOVED
        return Difference(subject=f"/{present.path}", change=change, after=str(present))
    parts = (*_attribute_differences(old, new), *_content_differences(old, new, container))
    return Difference(subject=f"/{old.path}", parts=parts) if parts else None


def _attribute_differences(old: FileView, new: FileView) -> tuple[Difference, ...]:
    pairs = (
        ("kind", old.kind.value, new.kind.value),
        ("mode", f"{old.mode:04o}", f"{new.mode:04o}"),
        ("owner", f"{old.uid}:{old.gid}", f"{new.uid}:{new.gid}"),
        ("link target", old.target, new.target),
        ("device", f"{old.device[0]}:{old.device[1]}", f"{new.device[0]}:{new.device[1]}"),
        ("extended attributes", _xattr_text(old), _xattr_text(new)),
    )
    return tuple(
        Difference(subject=name, before=one or "none", after=other or "none")
        for name, one, other in pairs
        if one != other
    )


def _content_differences(old: FileView, new: FileView, container: str) -> tuple[Difference, ...]:
    if old.kind is not Kind.FILE or new.kind is not Kind.FILE:
        return ()
    one, other = old.read(), new.read()
    if one == other:
        return ()
    size = (
        (Difference(subject="size", before=str(len(one)), after=str(len(other))),)
        if len(one) != len(other)
        else ()
    )
    return (*size, *byte_differences(one, other, base=new.offset, container=container))


def _xattr_text(view: FileView) -> str:
    return " ".join(f"{name}={value.hex()}" for name, value in view.xattrs)
