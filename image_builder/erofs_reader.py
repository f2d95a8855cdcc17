"""Reads uncompressed EROFS images: ours, and those of ``mkfs.erofs`` without compression.

``erofs_format`` has the layout. Nothing in an image is trusted: every offset is checked against the image's
length, a directory is entered once, inodes and directories cannot together take more bytes than the image
has. So any input ends soon, with a result or with ``FormatError``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from image_builder.erofs_format import (
    BLOCK_BITS,
    BLOCK_SIZE,
    COMPACT_INODE,
    ENTRY,
    EXTENDED,
    FILE_TYPES,
    INODE,
    LAYOUT_SHIFT,
    MAX_NAME,
    MAX_TARGET,
    MODE_TYPES,
    SLOT_SIZE,
    SUPERBLOCK,
    SUPERBLOCK_MAGIC,
    SUPERBLOCK_OFFSET,
    Layout,
    Superblock,
    blocks_for,
    decode_device,
)
from image_builder.erofs_xattr import HEADER, decode_entries, xattr_size
from image_builder.tree import Kind
from measurements.errors import FormatError

Buffer = bytes | bytearray | memoryview | mmap.mmap

MAX_PATH: Final = 4096
KINDS: Final = {bits: kind for kind, bits in MODE_TYPES.items()}
DEVICES: Final = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """``length`` bytes at ``offset`` of the image that belong to ``part`` (inode, xattrs, data, tail)."""

    part: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErofsEntry:
    """One name in the image.

    ``path`` is as in ``tree``; ``target``, ``device`` and ``xattrs`` too. ``size`` is in bytes, also of a
    directory. ``ranges`` says where its bytes are in the image, in the order inode, xattrs, data, tail; data
    and tail joined are its content.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    nid: int
    links: int
    mtime: int
    target: str
    device: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]
    ranges: tuple[ByteRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inode:
    nid: int
    offset: int
    header: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    mtime: int
    device: tuple[int, int]
    xattr_bytes: int
    body_offset: int
    tail: int

    def ranges(self) -> tuple[ByteRange, ...]:
        """Where the inode's bytes are; empty parts are left out."""
        tail_offset = self.offset + self.header + self.xattr_bytes
        parts = (
            ByteRange(part="inode", offset=self.offset, length=self.header),
            ByteRange(part="xattrs", offset=self.offset + self.header, length=self.xattr_bytes),
            ByteRange(part="data", offset=self.body_offset, length=self.size - self.tail),
            ByteRange(part="tail", offset=tail_offset, length=self.tail),
        )
        return tuple(part for part in parts if part.length)


@contextmanager
def open_erofs(path: Path) -> Iterator[ErofsReader]:
    """A reader over a file, without loading it.

    Raises ``FormatError`` if it is not an EROFS image, ``OSError`` if it cannot be read.
    """
    with path.open("rb") as stream:
        if not path.stat().st_size:
            raise _malformed("the file is empty", path.name)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield ErofsReader(mapped, subject=path.name)


class ErofsReader:
    """One image: ``data`` may go on after the file system (a hash tree). ``subject`` names it in errors."""

    def __init__(self, data: Buffer, *, subject: str = "EROFS image") -> None:
        self._data = data
        self._subject = subject
        self._superblock = self._read_superblock()
        self._limit = self._superblock.blocks * BLOCK_SIZE
        self._inodes: dict[int, _Inode] = {}
        self._entries: dict[int, ErofsEntry] = {}
        self._unclaimed = self._limit

    @property
    def length(self) -> int:
        """Bytes of the file system."""
        return self._limit

    def entries(self) -> Iterator[ErofsEntry]:
        """Every name, directories before what they hold, in the order of raw path components.

        Raises ``FormatError``.
        """
        root = self._inode(self._superblock.root_nid)
        if root.kind is not Kind.DIRECTORY:
            raise self._bad("the root is not a directory")
        waiting = [(b"", root)]
        entered = {root.nid}
        while waiting:
            path, inode = waiting.pop()
            yield self._entry(path, inode)
            if inode.kind is not Kind.DIRECTORY:
                continue
            children = []
            for name, nid, file_type in self._directory(inode):
                if name not in (b".", b".."):
                    children.append(self._child(path, name, nid, file_type, entered))
            waiting.extend(reversed(children))

    def content(self, entry: ErofsEntry) -> bytes:
        """All bytes of a file, link target or directory."""
        return b"".join(
            self._slice(part.offset, part.length) for part in entry.ranges if part.part in ("data", "tail")
        )

    def _child(
        self, parent: bytes, name: bytes, nid: int, file_type: int, entered: set[int]
    ) -> tuple[bytes, _Inode]:
        path = parent + b"/" + name if parent else name
        if len(path) > MAX_PATH:
            raise self._bad("a path is longer than 4096 bytes")
        child = self._inode(nid)
        if FILE_TYPES[child.kind] != file_type:
            raise self._bad(f"the directory entry of {path!r} and its inode name different file types")
        if child.kind is Kind.DIRECTORY:
            if nid in entered:
                raise self._bad(f"the directory {path!r} is reachable twice")
            entered.add(nid)
        return path, child

    def _entry(self, path: bytes, inode: _Inode) -> ErofsEntry:
        linked = self._entries.get(inode.nid)
        if linked is not None:
            return replace(linked, path=_text(path))
        entry = self._entries[inode.nid] = ErofsEntry(
            path=_text(path),
            kind=inode.kind,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            size=inode.size,
            nid=inode.nid,
            links=inode.links,
            mtime=inode.mtime,
            target=self._target(inode),
            device=inode.device,
            xattrs=self._xattrs(inode),
            ranges=inode.ranges(),
        )
        return entry

    def _target(self, inode: _Inode) -> str:
        if inode.kind is not Kind.SYMLINK:
            return ""
        if inode.size > MAX_TARGET:
            raise self._bad(f"the link target of inode {inode.nid} is too long")
        return _text(self._body(inode))

    def _body(self, inode: _Inode) -> bytes:
        return b"".join(
            self._slice(part.offset, part.length) for part in inode.ranges() if part.part in ("data", "tail")
        )

    def _read_superblock(self) -> Superblock:
        if len(self._data) < SUPERBLOCK_OFFSET + SUPERBLOCK.size:
            raise self._bad("it is too short for a superblock")
        superblock = Superblock._make(SUPERBLOCK.unpack_from(self._data, SUPERBLOCK_OFFSET))
        if superblock.magic != SUPERBLOCK_MAGIC:
            raise self._bad("it has no EROFS superblock")
        if superblock.block_bits != BLOCK_BITS:
            raise self._bad(f"its block size of 2^{superblock.block_bits} bytes is not supported")
        if superblock.incompatible:
            raise self._bad(f"it uses features ({superblock.incompatible:#x}) of compressed images")
        if superblock.blocks * BLOCK_SIZE > len(self._data):
            raise self._bad(f"it is cut off: {superblock.blocks} blocks should be there")
        return superblock

    def _inode(self, nid: int) -> _Inode:
        """Inode ``nid``, read once and its metadata counted once."""
        inode = self._inodes.get(nid)
        if inode is None:
            inode = self._inodes[nid] = self._read_inode(nid)
            in_data_blocks = 0 if inode.kind is Kind.FILE else inode.size - inode.tail
            self._unclaimed -= inode.header + inode.xattr_bytes + inode.tail + in_data_blocks
            if self._unclaimed < 0:
                raise self._bad("its inodes and directories overlap")
        return inode

    def _read_inode(self, nid: int) -> _Inode:
        offset = self._superblock.metadata_block * BLOCK_SIZE + nid * SLOT_SIZE
        form = int.from_bytes(self._slice(offset, 2), "little")
        if form & EXTENDED:
            fields = INODE.unpack(self._slice(offset, INODE.size))
            _, xattrs, mode, _, size, place, _, uid, gid, mtime, _, links, _ = fields
            header = INODE.size
        else:
            fields = COMPACT_INODE.unpack(self._slice(offset, COMPACT_INODE.size))
            _, xattrs, mode, links, size, _, place, _, uid, gid, _ = fields
            header, mtime = COMPACT_INODE.size, 0
        kind = KINDS.get(mode & 0o170000)
        if kind is None:
            raise self._bad(f"inode {nid} has the unknown type {mode >> 12:#o}")
        inode = _Inode(
            nid=nid,
            offset=offset,
            header=header,
            kind=kind,
            mode=mode & 0o7777,
            uid=uid,
            gid=gid,
            size=size,
            links=links,
            mtime=mtime,
            device=decode_device(place) if kind in DEVICES else (0, 0),
            xattr_bytes=xattr_size(xattrs),
            body_offset=place * BLOCK_SIZE,
            tail=self._tail_size(form, size, nid),
        )
        self._check_places(inode)
        return inode

    def _tail_size(self, form: int, size: int, nid: int) -> int:
        layout = form >> LAYOUT_SHIFT
        if layout == Layout.PLAIN:
            return 0
        if layout == Layout.INLINE:
            return size % BLOCK_SIZE
        raise self._bad(f"inode {nid} has the data layout {layout}, which an uncompressed image does not use")

    def _check_places(self, inode: _Inode) -> None:
        if inode.kind not in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK) and inode.size:
            raise self._bad(f"inode {inode.nid} is a {inode.kind.value} but has a size")
        if inode.xattr_bytes > BLOCK_SIZE:
            raise self._bad(f"inode {inode.nid} has more than a block of xattrs")
        for part in inode.ranges():
            length = blocks_for(part.length) * BLOCK_SIZE if part.part == "data" else part.length
            if part.offset + length > self._limit:
                raise self._bad(f"the {part.part} of inode {inode.nid} lies outside the image")
        tail_offset = (inode.offset + inode.header + inode.xattr_bytes) % BLOCK_SIZE
        if tail_offset + inode.tail > BLOCK_SIZE:
            raise self._bad(f"the inline tail of inode {inode.nid} crosses a block")

    def _directory(self, inode: _Inode) -> Iterator[tuple[bytes, int, int]]:
        """(name, nid, file type) of every entry; names out of order are an error."""
        before = b""
        for part in inode.ranges():
            if part.part not in ("data", "tail"):
                continue
            for start in range(part.offset, part.offset + part.length, BLOCK_SIZE):
                block = self._slice(start, min(BLOCK_SIZE, part.offset + part.length - start))
                for name, nid, file_type in self._directory_block(block, inode.nid):
                    if name <= before:
                        raise self._bad(f"the names in directory inode {inode.nid} are not sorted")
                    before = name
                    yield name, nid, file_type

    def _directory_block(self, block: bytes, nid: int) -> Iterator[tuple[bytes, int, int]]:
        if len(block) < ENTRY.size:
            raise self._bad(f"a block of directory inode {nid} is cut off")
        first = ENTRY.unpack_from(block)[1]
        if first % ENTRY.size or not ENTRY.size <= first < len(block):
            raise self._bad(f"a block of directory inode {nid} has the name offset {first}")
        entries = list(ENTRY.iter_unpack(block[:first]))
        ends = [start for _, start, _, _ in entries[1:]] + [len(block)]
        for (child, start, file_type, _), end in zip(entries, ends, strict=True):
            if not first <= start < end <= len(block):
                raise self._bad(f"a name in directory inode {nid} lies outside its block")
            name = block[start:end].partition(b"\0")[0] if end == len(block) else block[start:end]
            if not 0 < len(name) <= MAX_NAME or b"/" in name or b"\0" in name:
                raise self._bad(f"directory inode {nid} holds the impossible name {name!r}")
            yield name, child, file_type

    def _xattrs(self, inode: _Inode) -> tuple[tuple[str, bytes], ...]:
        if not inode.xattr_bytes:
            return ()
        area = self._slice(inode.offset + inode.header, inode.xattr_bytes)
        _, shared, _ = HEADER.unpack_from(area)
        if shared:
            raise self._bad(f"inode {inode.nid} has shared xattrs, which are not supported")
        return tuple(sorted(decode_entries(area[HEADER.size :], subject=self._subject)))

    def _slice(self, offset: int, length: int) -> bytes:
        if offset + length > self._limit:
            raise self._bad(f"bytes {offset} to {offset + length} lie outside the image")
        return bytes(self._data[offset : offset + length])

    def _bad(self, reason: str) -> FormatError:
        return _malformed(reason, self._subject)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _malformed(reason: str, subject: str) -> FormatError:
    return FormatError(
        reason, subject=subject, advice="the image is damaged or of another kind; build it again with keyturn"
    )
