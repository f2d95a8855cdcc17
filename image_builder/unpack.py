"""Unpacks packages into the store's derived cache, once per package and version.

``derived/unpack-1/<SHA-256 of the .deb>/`` holds ``data.tar``, the decompressed data archive, and
``index.json``: its SHA-256, its members and the control files. Contents of the image are slices of that
``data.tar``, so a build never holds a package in memory. The ``.deb`` is checked against the lock on every
build, and ``data.tar`` against the index; a folder that does not hold what its index says is made again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from image_builder.deb import open_deb
from image_builder.lockfile import LockedPackage, PackageRole
from image_builder.output_folder import remove_leftovers
from image_builder.package_errors import bad_package
from image_builder.package_paths import member_path
from image_builder.progress import Progress
from image_builder.store import Store, clear_disk_errors, file_sha256
from image_builder.tar_format import BytesArchive, FileArchive, TarMember, TarType, read_tar
from image_builder.tree import FileSlice

KIND = "unpack-1"
_TYPES = {kind.value: kind for kind in TarType}


class Member(NamedTuple):
    """One member of a package: ``path`` as trees hold it, before usr-merge. A build makes thousands of them.

    ``size`` and ``offset`` are bytes in the tar. ``link`` is the target of a symbolic link as written, or the
    path of a hard link's original.
    """

    path: str
    type: TarType
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    offset: int
    size: int
    link: str
    xattrs: tuple[tuple[str, bytes], ...]
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """A package whose members can be read; ``control`` holds the control files by name (``postinst``)."""

    name: str
    version: str
    role: PackageRole
    tar: Path
    control: dict[str, bytes]
    members: tuple[Member, ...]

    def content(self, member: Member) -> FileSlice:
        """The bytes of a regular file."""
        return FileSlice(path=self.tar, offset=member.offset, size=member.size)

    def control_field(self, field: str) -> str:
        """One field of the control file, folded lines joined; "" if it is absent."""
        value: list[str] = []
        inside = False
        for line in self.control["control"].decode("utf-8", "replace").splitlines():
            if line[:1] in {" ", "\t"}:
                value.extend([line.strip()] if inside else [])
                continue
            key, _, text = line.partition(":")
            inside = key.lower() == field.lower()
            value.extend([text.strip()] if inside else [])
        return " ".join(value)


def unpack_all(
    packages: Sequence[LockedPackage], store: Store, *, jobs: int, progress: Progress
) -> tuple[Unpacked, ...]:
    """Unpack ``packages`` with ``jobs`` threads; the result is sorted by name.

    Raises ``StoreError`` if a package is absent or altered, ``PackageError`` or ``FormatError`` if it is
    damaged, ``DiskFullError`` if the cache has no room.
    """
    remove_leftovers(store.derived(KIND, "new").parent, "new")
    largest_first = sorted(packages, key=lambda package: (-package.size, package.name))
    total = sum(package.size for package in packages)
    done = 0
    unpacked = []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        results = pool.map(lambda package: unpack(package, store), largest_first)
        for package, result in zip(largest_first, results, strict=True):
            unpacked.append(result)
            done += package.size
            progress.update("unpack", done=done, total=total)
    return tuple(sorted(unpacked, key=lambda each: (each.name, each.role)))


def unpack(package: LockedPackage, store: Store) -> Unpacked:
    """One package, from the cache if it was unpacked before."""
    name = f"{package.name} {package.version}"
    deb = store.verified(package.sha256, name=name, size=package.size)
    folder = store.derived(KIND, package.sha256)
    index = _cached_index(folder)
    if index is None:
        shutil.rmtree(folder, ignore_errors=True)
        index = _make(deb, folder, name)
    return Unpacked(
        name=package.name,
        version=package.version,
        role=package.role,
        tar=folder / "data.tar",
        control={key: base64.b64decode(value) for key, value in index["control"].items()},
        members=tuple(_from_json(entry) for entry in index["members"]),
    )


def _cached_index(folder: Path) -> Any:
    """The index of an unpacked package whose tar is what the index says, else ``None``."""
    try:
        index = json.loads((folder / "index.json").read_bytes())
        return index if index["sha256"] == file_sha256(folder / "data.tar") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(deb: Path, folder: Path, name: str) -> Any:
    folder.parent.mkdir(parents=True, exist_ok=True)
    opened = open_deb(deb, name=name)
    digest = hashlib.sha256()
    with _new_folder(folder) as partial, clear_disk_errors(name):
        with (partial / "data.tar").open("xb") as stream:
            for chunk in opened.data_tar():
                digest.update(chunk)
                stream.write(chunk)
        with (partial / "data.tar").open("rb") as stream:
            members = _members(read_tar(FileArchive(stream.fileno()), subject=name), name)
        control = opened.control_tar()
        index = {
            "sha256": digest.hexdigest(),
            "control": {
                member.name.removeprefix("./"): base64.b64encode(
                    control[member.offset : member.offset + member.size]
                ).decode()
                for member in read_tar(BytesArchive(control), subject=name)
                if member.type is TarType.FILE
            },
            "members": [_to_json(member) for member in members],
        }
        if "control" not in index["control"]:
            raise bad_package(name, "no control file")
        (partial / "index.json").write_text(json.dumps(index, separators=(",", ":")))
    return index


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` once the block has ended well."""
    partial = Path(tempfile.mkdtemp(prefix=f"new-{os.getpid()}-", dir=folder.parent))
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _members(members: Iterator[TarMember], name: str) -> list[Member]:
    """Members with checked paths; the root itself is left out."""
    checked = []
    for member in members:
        path = member_path(member.name, package=name)
        link = member_path(member.link, package=name) if member.type is TarType.HARD_LINK else member.link
        if path:
            checked.append(_checked(member, path, link))
    return checked


def _checked(member: TarMember, path: str, link: str) -> Member:
    return Member(
        path=path,
        type=member.type,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        user=member.user,
        group=member.group,
        offset=member.offset,
        size=member.size,
        link=link,
        xattrs=member.xattrs,
        sha256=member.sha256,
    )


def _to_json(member: Member) -> list[Any]:
    xattrs = [[name, base64.b64encode(value).decode()] for name, value in member.xattrs]
    return [
        member.path,
        member.type.value,
        member.mode,
        member.uid,
        member.gid,
        member.user,
        member.group,
        member.offset,
        member.size,
        member.link,
        xattrs,
        member.sha256,
    ]


def _from_json(entry: list[Any]) -> Member:
    path, kind, mode, uid, gid, user, group, offset, size, link, xattrs, sha256 = entry
    return Member(
        path=path,
        type=_TYPES[kind],
        mode=mode,
        uid=uid,
        gid=gid,
        user=user,
        group=group,
        offset=offset,
        size=size,
        link=link,
        xattrs=tuple([(name, base64.b64decode(value)) for name, value in xattrs]),
        sha256=sha256,
    )
