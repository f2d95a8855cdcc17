"""The file tree of an image: plain values, contents by reference.

Paths are relative to the root, without a leading slash, ``/``-separated; the root itself is ``""``. Bytes
that are not UTF-8 are held with ``surrogateescape``. A node never holds a large file in memory: its
``content`` says where the bytes are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

CHUNK = 1 << 20


class Content(Protocol):
    """Bytes of a regular file, readable any number of times."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order, in pieces of at most ``CHUNK``."""


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Content held in memory; for small, generated files."""

    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces."""
        for start in range(0, len(self.data), CHUNK):
            yield self.data[start : start + CHUNK]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSlice:
    """Content that is ``size`` bytes at ``offset`` of a file (a member of an unpacked archive in the
    cache).
    """

    path: Path
    offset: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces; a file that ends early is an error of the cache."""
        descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            done = 0
            while left := self.size - done:
                piece = os.pread(descriptor, min(CHUNK, left), self.offset + done)
                if not piece:
                    raise EOFError(f"{self.path.name} ends {left} bytes early")
                done += len(piece)
                yield piece
        finally:
            os.close(descriptor)


def read_content(content: Content) -> bytes:
    """All bytes of ``content``."""
    return b"".join(content.chunks())


def content_sha256(content: Content) -> str:
    """Lower-case hex SHA-256 of ``content``."""
    digest = hashlib.sha256()
    for piece in content.chunks():
        digest.update(piece)
    return digest.hexdigest()


def raw_name(path: str) -> bytes:
    """Bytes of a tree path or link target: UTF-8 with ``surrogateescape``, whatever the locale."""
    return path.encode("utf-8", "surrogateescape")


class Kind(Enum):
    """What a node is."""

    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"
    CHARACTER_DEVICE = "character-device"
    BLOCK_DEVICE = "block-device"
    FIFO = "fifo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One entry of the tree.

    ``mode`` holds permission bits only (at most 0o7777). ``content`` is set for files alone, ``target`` for
    symbolic links alone, ``device`` (major, minor) for devices alone. ``xattrs`` are (full name, value) pairs
    sorted by name. ``origin`` names where the node comes from: a package, ``recipe``, ``keyturn`` or a build
    step.
    """

    path: str
    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    content: Content | None = None
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    origin: str = "keyturn"

    @property
    def name(self) -> bytes:
        """Last path component as raw bytes."""
        return raw_name(self.path.rpartition("/")[2])

    @property
    def parent(self) -> str:
        """Path of the directory that holds this node."""
        return self.path.rpartition("/")[0]


Tree = dict[str, Node]
"""Nodes by path. Writers sort; insertion order carries no meaning."""
