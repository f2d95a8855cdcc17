"""Reads the members of a tar archive, in memory or in a file, without holding more than a piece of it.

Layout (POSIX.1-2001 pax, "ustar interchange format"; GNU tar manual, "Basic Tar Format"): blocks of 512
bytes. A header block holds name 100, mode 8, uid 8, gid 8, size 12, mtime 12, checksum 8, type 1, link name
100, magic 6, version 2, user name 32, group name 32, device major 8, device minor 8, prefix 155; numbers are
octal text, or binary, big-endian, when the top bit of the first byte is set. The data follow, padded to a
block. Two blocks of zeros end the archive, and only zeros may follow.

Types: 0 and NUL regular file, 1 hard link, 2 symbolic link, 3 and 4 devices, 5 directory, 6 FIFO; L and K
give the next member's name and link name (GNU); x gives attributes of the next member (records ``length
key=value\\n``), g of all that follow. A global header that sets anything we read is refused, as are sparse
files and multi-volume archives.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn, Protocol

from measurements.errors import FormatError

BLOCK = 512
CHUNK = 1 << 20
_XATTR = "SCHILY.xattr."
_ZERO = bytes(BLOCK)


class TarType(Enum):
    """What a member is."""

    FILE = "file"
    HARD_LINK = "hard-link"
    SYMLINK = "symlink"
    CHARACTER_DEVICE = "character-device"
    BLOCK_DEVICE = "block-device"
    DIRECTORY = "directory"
    FIFO = "fifo"


_TYPES = {
    b"\0": TarType.FILE,
    b"0": TarType.FILE,
    b"7": TarType.FILE,
    b"1": TarType.HARD_LINK,
    b"2": TarType.SYMLINK,
    b"3": TarType.CHARACTER_DEVICE,
    b"4": TarType.BLOCK_DEVICE,
    b"5": TarType.DIRECTORY,
    b"6": TarType.FIFO,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """One member: ``name`` and ``link`` as written (surrogateescape), ``offset`` of its ``size`` data bytes.

    ``sha256`` is the lower-case hex hash of a file's data, "" for everything else.
    """

    name: str
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


class Archive(Protocol):
    """Bytes that can be read at any offset."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end."""


@dataclass(frozen=True, slots=True)
class BytesArchive:
    """An archive in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return self.data[offset : offset + size]


@dataclass(frozen=True, slots=True)
class FileArchive:
    """An archive in an open file, which must be on disk."""

    descriptor: int

    @property
    def size(self) -> int:
        """Length in bytes."""
        return os.fstat(self.descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return os.pread(self.descriptor, size, offset)


def read_tar(archive: Archive, *, subject: str) -> Iterator[TarMember]:
    """The members of ``archive``, in order; raises ``FormatError`` naming ``subject``."""
    offset = 0
    overrides: dict[str, str] = {}
    while True:
        block = archive.read(offset, BLOCK)
        if len(block) != BLOCK:
            _refuse(subject, f"ends at byte {offset} without an end mark")
        if block == _ZERO:
            _check_end(archive, offset, subject)
            return
        _check_header(block, offset, subject)
        kind = block[156:157]
        size = int(overrides["size"]) if "size" in overrides else _number(block[124:136], offset, subject)
        body = offset + BLOCK
        if kind in b"LKxg":
            offset = _next(archive, body, size, subject)
            _extend(overrides, kind, archive.read(body, size), subject)
            continue
        if kind not in _TYPES:
            _refuse(subject, f"member of unknown type {kind!r} at byte {offset}")
        member = _member(archive, block, overrides, offset, size, subject)
        yield member
        overrides = {}
        offset = _next(archive, body, member.size, subject)


def _member(
    archive: Archive, block: bytes, overrides: dict[str, str], offset: int, size: int, subject: str
) -> TarMember:
    kind = _TYPES[block[156:157]]
    size = size if kind is TarType.FILE else 0
    body = offset + BLOCK
    digest = ""
    if kind is TarType.FILE:
        _next(archive, body, size, subject)
        digest = _sha256(archive, body, size)
    return TarMember(
        name=overrides["path"] if "path" in overrides else _name(block),
        type=kind,
        mode=_number(block[100:108], offset, subject) & 0o7777,
        uid=int(overrides["uid"]) if "uid" in overrides else _number(block[108:116], offset, subject),
        gid=int(overrides["gid"]) if "gid" in overrides else _number(block[116:124], offset, subject),
        user=overrides["uname"] if "uname" in overrides else _text(block[265:297]),
        group=overrides["gname"] if "gname" in overrides else _text(block[297:329]),
        offset=body,
        size=size,
        link=overrides["linkpath"] if "linkpath" in overrides else _text(block[157:257]),
        xattrs=tuple(
            (key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
            for key, value in sorted(overrides.items())
            if key.startswith(_XATTR)
        ),
        sha256=digest,
    )


def _sha256(archive: Archive, offset: int, size: int) -> str:
    digest = hashlib.sha256()
    for start in range(offset, offset + size, CHUNK):
        digest.update(archive.read(start, min(CHUNK, offset + size - start)))
    return digest.hexdigest()


def _name(block: bytes) -> str:
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        return f"{_text(block[345:500])}/{name}"
    return name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes, offset: int, subject: str) -> int:
    if field[0] & 0x80:
        if field[0] != 0x80:
            _refuse(subject, f"negative number in the header at byte {offset}")
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        _refuse(subject, f"number {digits!r} in the header at byte {offset}")


def _check_header(block: bytes, offset: int, subject: str) -> None:
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156], offset, subject) != total:
        _refuse(subject, f"wrong header checksum at byte {offset}")


def _next(archive: Archive, body: int, size: int, subject: str) -> int:
    if body + size > archive.size:
        _refuse(subject, f"the member at byte {body - BLOCK} ends early")
    return body + -(-size // BLOCK) * BLOCK


def _check_end(archive: Archive, offset: int, subject: str) -> None:
    for start in range(offset, archive.size, CHUNK):
        if archive.read(start, CHUNK).strip(b"\0"):
            _refuse(subject, f"bytes behind the end mark at byte {offset}")


def _extend(overrides: dict[str, str], kind: bytes, data: bytes, subject: str) -> None:
    """Take in one header that speaks about the next member."""
    if kind == b"L":
        overrides["path"] = _text(data)
    elif kind == b"K":
        overrides["linkpath"] = _text(data)
    else:
        records = dict(_records(data, subject))
        if any("sparse" in key for key in records):
            _refuse(subject, "sparse members are not supported")
        if kind == b"g" and set(records) - {"comment"}:
            _refuse(subject, f"global header sets {', '.join(sorted(records))}")
        if kind == b"x":
            overrides.update(records)


def _records(data: bytes, subject: str) -> Iterator[tuple[str, str]]:
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            _refuse(subject, "damaged extended header")
        record, data = data[len(length) + 1 : int(length)], data[int(length) :]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or not record.endswith(b"\n"):
            _refuse(subject, "damaged extended header")
        name = key.decode("utf-8", "surrogateescape")
        if name in {"size", "uid", "gid"} and not value.isdigit():
            _refuse(subject, f"extended header gives {name} {value!r}")
        yield name, value.decode("utf-8", "surrogateescape")


def _refuse(subject: str, reason: str) -> NoReturn:
    raise FormatError(f"tar archive: {reason}", subject=subject, advice="get the package again")
