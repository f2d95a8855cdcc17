"""Debian binary packages: finds the two archives in a ``.deb`` and decompresses them in pieces.

Layout (deb(5), ar(5)): ``!<arch>\\n``, then members, each with a header of 60 ASCII bytes (name 16, mtime 12,
uid 6, gid 6, octal mode 8, decimal size 10, ``\\`\\n``), its data, and a newline if the size is odd. The
members are, in this order, ``debian-binary`` with the text ``2.0\\n``, ``control.tar`` and ``data.tar``, the
last two plain or with the suffix ``.gz``, ``.xz`` or ``.zst``. Members whose name starts with ``_`` may stand
between them and are skipped; anything else is refused, as is a package without one of the three.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from image_builder.package_errors import bad_package

MAGIC = b"!<arch>\n"
HEADER_SIZE = 60
CHUNK = 1 << 18


@dataclass(frozen=True, kw_only=True, slots=True)
class DebMember:
    """One archive of a package: ``name`` with its suffix, and where its bytes are in the file."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Deb:
    """An opened package file."""

    path: Path
    name: str
    control: DebMember
    data: DebMember

    def control_tar(self) -> bytes:
        """The decompressed control archive."""
        return b"".join(self._chunks(self.control))

    def data_tar(self) -> Iterator[bytes]:
        """The decompressed data archive, in pieces."""
        return self._chunks(self.data)

    def _chunks(self, member: DebMember) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            yield from decompressed(_slice(stream, member), name=member.name, package=self.name)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool:
        """Whether the compressed data are complete."""

    def decompress(self, data: bytes, /) -> bytes:
        """Decompress the next bytes."""


def _zstd() -> _Decompressor:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ),
    "gz": lambda: zlib.decompressobj(31),
    "zst": _zstd,
}


def _damage(suffix: str) -> type[Exception]:
    """What a decompressor raises for damaged data; asked for only once something was raised."""
    if suffix == "zst":
        import zstandard

        return zstandard.ZstdError
    return lzma.LZMAError if suffix == "xz" else zlib.error


def decompressed(chunks: Iterator[bytes], *, name: str, package: str) -> Iterator[bytes]:
    """The bytes of one archive member, decompressed as the suffix of ``name`` says.

    Raises ``PackageError`` for damaged data, data that ends early, and data behind the end of the stream.
    """
    suffix = name.rpartition(".")[2]
    if suffix not in _DECOMPRESSORS:
        yield from chunks
        return
    decompressor = _DECOMPRESSORS[suffix]()
    try:
        for chunk in chunks:
            if decompressor.eof:
                raise bad_package(package, f"{name} has bytes behind the end of its compressed data")
            if piece := decompressor.decompress(chunk):
                yield piece
    except _damage(suffix) as error:
        raise bad_package(package, f"{name} is damaged: {error}") from None
    if not decompressor.eof:
        raise bad_package(package, f"{name} ends early")


def open_deb(path: Path, *, name: str) -> Deb:
    """Find the archives in the package file ``path``; ``name`` is how errors call it.

    Raises ``PackageError`` unless it is a package in a form that is supported.
    """
    with path.open("rb") as stream:
        members = [member for member in _members(stream, name) if not member.name.startswith("_")]
        kinds = [member.name.split(".tar")[0] for member in members]
        if kinds != ["debian-binary", "control", "data"]:
            raise bad_package(name, f"members {[member.name for member in members]} do not make a package")
        if b"".join(_slice(stream, members[0])) != b"2.0\n":
            raise bad_package(name, "package format is not 2.0")
    for member in members[1:]:
        if member.name.partition(".tar")[2] not in {"", ".gz", ".xz", ".zst"}:
            raise bad_package(name, f"{member.name} is compressed in a way that is not supported")
    return Deb(path=path, name=name, control=members[1], data=members[2])


def _members(stream: BinaryIO, package: str) -> Iterator[DebMember]:
    if stream.read(len(MAGIC)) != MAGIC:
        raise bad_package(package, "not a Debian package (no ar archive)")
    end = stream.seek(0, 2)
    offset = len(MAGIC)
    while offset < end:
        stream.seek(offset)
        header = stream.read(HEADER_SIZE)
        size = header[48:58].rstrip(b" ")
        if len(header) != HEADER_SIZE or header[58:] != b"`\n" or not size.isdigit():
            raise bad_package(package, f"damaged ar header at byte {offset}")
        member = DebMember(
            name=header[:16].rstrip(b" ").removesuffix(b"/").decode("ascii", "replace"),
            offset=offset + HEADER_SIZE,
            size=int(size),
        )
        if member.offset + member.size > end:
            raise bad_package(package, f"{member.name} ends early")
        yield member
        offset = member.offset + member.size + member.size % 2


def _slice(stream: BinaryIO, member: DebMember) -> Iterator[bytes]:
    stream.seek(member.offset)
    left = member.size
    while left:
        piece = stream.read(min(CHUNK, left))
        if not piece:
            raise EOFError(f"{member.name} ends {left} bytes early")
        left -= len(piece)
        yield piece
