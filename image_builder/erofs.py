"""Writes a tree as an uncompressed EROFS image, in one sequential pass and with the same bytes for the same
tree.

``erofs_format`` describes the bytes and ``erofs_layout`` decides where they go. Memory grows with the number
of nodes, not with their sizes: metadata are written block by block (a file's inline tail is read there), then
the data of each file is copied through. All times and the UUID are zero, inode numbers follow the sorted
paths.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from image_builder.erofs_format import (
    BLOCK_SIZE,
    EXTENDED,
    INODE,
    LAYOUT_SHIFT,
    MODE_TYPES,
    SLOT_SIZE,
    SUPERBLOCK,
    SUPERBLOCK_OFFSET,
    Superblock,
    encode_device,
)
from image_builder.erofs_layout import ErofsPlan, Inode, pack_directory, plan_erofs
from image_builder.erofs_xattr import xattr_count
from image_builder.tree import CHUNK, BytesContent, Content, FileSlice, Kind, Tree, raw_name
from measurements.errors import KeyturnError

OPEN_FILES = 64


class ContentError(KeyturnError):
    """A file's content is not as long as its size says, or cannot be read."""

    code = "image-content"


class ByteSink(Protocol):
    """Where the image goes: a file, or something that hashes on the way."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErofsSummary:
    """Size of an image: ``blocks`` of 4096 bytes, ``bytes`` in total, number of ``inodes``."""

    blocks: int
    bytes: int
    inodes: int


def write_erofs(tree: Tree, stream: ByteSink) -> ErofsSummary:
    """Write ``tree`` to ``stream``.

    Raises ``TreeError`` or ``XattrError`` before the first byte if the tree cannot be held, and
    ``ContentError`` if a file's content is shorter or longer than its size.
    """
    plan = plan_erofs(tree)
    with _ContentReader() as reader:
        for number, inodes in enumerate(plan.metadata):
            stream.write(_metadata_block(plan, number, inodes, reader))
        for inode in plan.inodes:
            if inode.body:
                _write_body(inode, stream, reader)
    return ErofsSummary(blocks=plan.blocks, bytes=plan.blocks * BLOCK_SIZE, inodes=len(plan.inodes))


def _metadata_block(plan: ErofsPlan, number: int, inodes: tuple[Inode, ...], reader: _ContentReader) -> bytes:
    block = bytearray(BLOCK_SIZE)
    if number == 0:
        superblock = Superblock(root_nid=plan.root_nid, inodes=len(plan.inodes), blocks=plan.blocks)
        SUPERBLOCK.pack_into(block, SUPERBLOCK_OFFSET, *superblock)
    for inode in inodes:
        at = inode.nid * SLOT_SIZE % BLOCK_SIZE
        packed = _pack_inode(inode) + inode.xattrs + (_tail(inode, reader) if inode.tail else b"")
        block[at : at + len(packed)] = packed
    return bytes(block)


def _pack_inode(inode: Inode) -> bytes:
    node = inode.node
    is_device = node.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
    return INODE.pack(
        EXTENDED | inode.layout << LAYOUT_SHIFT,
        xattr_count(len(inode.xattrs)),
        MODE_TYPES[node.kind] | node.mode,
        0,
        inode.size,
        encode_device(*node.device) if is_device else inode.first_block,
        inode.number,
        node.uid,
        node.gid,
        0,
        0,
        inode.links,
        bytes(16),
    )


def _tail(inode: Inode, reader: _ContentReader) -> bytes:
    return b"".join(_pieces(inode, reader, start=inode.body, stop=inode.size))


def _write_body(inode: Inode, stream: ByteSink, reader: _ContentReader) -> None:
    for piece in _pieces(inode, reader, start=0, stop=inode.body):
        stream.write(piece)
    if padding := -inode.body % BLOCK_SIZE:
        stream.write(bytes(padding))


def _pieces(inode: Inode, reader: _ContentReader, *, start: int, stop: int) -> Iterator[bytes]:
    node = inode.node
    if node.content is not None:
        return reader.pieces(node.content, start=start, stop=stop, path=node.path)
    whole = pack_directory(inode) if node.kind is Kind.DIRECTORY else raw_name(node.target)
    return iter((whole[start:stop],))


class _ContentReader:
    """Reads ranges of contents.

    Slices of one archive share an open file; at most ``OPEN_FILES`` stay open.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def pieces(self, content: Content, *, start: int, stop: int, path: str) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of ``content``, all of them or ``ContentError``."""
        if isinstance(content, BytesContent):
            return iter((content.data[start:stop],))
        if isinstance(content, FileSlice):
            return self._slice_pieces(content, start, stop, path)
        return _stream_pieces(content, start, stop, path)

    def _slice_pieces(self, content: FileSlice, start: int, stop: int, path: str) -> Iterator[bytes]:
        try:
            descriptor = self._descriptor(content.path)
            while start < stop:
                piece = os.pread(descriptor, min(CHUNK, stop - start), content.offset + start)
                if not piece:
                    raise _wrong_length(path, f"ends {stop - start} bytes early")
                start += len(piece)
                yield piece
        except OSError as error:
            raise ContentError(
                f"its content cannot be read: {error.strerror}",
                subject=f"/{path}",
                advice="fetch the packages again",
            ) from error

    def _descriptor(self, path: Path) -> int:
        descriptor = self._open.pop(path, None)
        if descriptor is None:
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._open[path] = descriptor
        return descriptor


def _stream_pieces(content: Content, start: int, stop: int, path: str) -> Iterator[bytes]:
    """A range of a content that can only be read from its beginning; its whole length is checked."""
    at = 0
    try:
        for piece in content.chunks():
            if part := piece[max(start - at, 0) : max(stop - at, 0)]:
                yield part
            at += len(piece)
            if at > content.size:
                raise _wrong_length(path, f"goes on after its {content.size} bytes")
    except EOFError as error:
        raise _wrong_length(path, str(error)) from error
    if at < content.size:
        raise _wrong_length(path, f"ends {content.size - at} bytes early")


def _wrong_length(path: str, reason: str) -> ContentError:
    return ContentError(
        f"its content {reason}", subject=f"/{path}", advice="the cache is damaged; fetch the packages again"
    )
