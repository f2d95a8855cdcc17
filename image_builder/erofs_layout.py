"""Decides where everything in an EROFS image goes, from names and sizes alone: no file content is read.

Blocks 0 to ``metadata_blocks`` hold superblock, inodes, xattrs and inline tails; the data blocks follow in
the same order. Inodes are numbered and placed in the order of their raw path components (a directory before
what it holds), each with its xattrs and tail in the metadata block that has the least room left for it. So
the layout depends on the tree alone, and the root comes first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from image_builder.erofs_format import (
    BLOCK_SIZE,
    ENTRY,
    FILE_TYPES,
    INODE,
    MAX_BLOCKS,
    MAX_MAJOR,
    MAX_MINOR,
    MAX_NAME,
    MAX_TARGET,
    SLOT_SIZE,
    SUPERBLOCK,
    SUPERBLOCK_OFFSET,
    Layout,
    blocks_for,
)
from image_builder.erofs_xattr import encode_xattrs
from image_builder.tree import Kind, Node, Tree, raw_name
from measurements.errors import KeyturnError


class TreeError(KeyturnError):
    """A tree that no file system can hold."""

    code = "image-tree"


@dataclass(slots=True, kw_only=True)
class Inode:
    """One placed inode. ``size`` is in bytes.

    ``tail`` is how many of its last bytes are inline; ``first_block`` is its first data block.
    """

    node: Node
    number: int
    size: int
    xattrs: bytes
    layout: Layout
    tail: int
    nid: int = 0
    first_block: int = 0
    links: int = 1
    entries: list[tuple[bytes, Inode]] = field(default_factory=list)

    @property
    def body(self) -> int:
        """Bytes in data blocks."""
        return self.size - self.tail

    @property
    def header(self) -> int:
        """Bytes of inode and xattrs."""
        return INODE.size + len(self.xattrs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErofsPlan:
    """The whole image: inodes in number order, those in each metadata block, the total number of blocks."""

    inodes: tuple[Inode, ...]
    metadata: tuple[tuple[Inode, ...], ...]
    blocks: int

    @property
    def root_nid(self) -> int:
        """The root directory's inode slot."""
        return self.inodes[0].nid


def plan_erofs(tree: Tree) -> ErofsPlan:
    """Place every node of ``tree``.

    Raises ``TreeError`` or ``XattrError`` for a tree that the format cannot hold.
    """
    nodes = sorted(tree.items(), key=lambda item: raw_name(item[0]).replace(b"/", b"\0"))
    if not nodes or nodes[0][0] != "":
        raise _bad("", "the root directory is missing", "add a directory node with an empty path")
    if nodes[0][1].kind is not Kind.DIRECTORY:
        raise _bad("", "the root is not a directory", "add a directory node with an empty path")
    names = _names_by_directory(nodes)
    inodes: dict[str, Inode] = {}
    for path, node in nodes:
        inodes[path] = _sized(node, number=len(inodes) + 1, names=names.get(path, []))
    for path, inode in inodes.items():
        _link(path, inode, inodes)
    placed = tuple(inodes.values())
    metadata = _place_inodes(placed)
    return ErofsPlan(inodes=placed, metadata=metadata, blocks=_place_data(placed, first=len(metadata)))


def directory_blocks(names: list[bytes]) -> Iterator[list[bytes]]:
    """Split the sorted ``names`` of a directory into the names of each of its blocks."""
    block: list[bytes] = []
    used = 0
    for name in names:
        needed = ENTRY.size + len(name)
        if used + needed > BLOCK_SIZE:
            yield block
            block, used = [], 0
        block.append(name)
        used += needed
    yield block


def _names_by_directory(nodes: list[tuple[str, Node]]) -> dict[str, list[bytes]]:
    names: dict[str, list[bytes]] = {}
    for path, node in nodes:
        if path != node.path:
            raise _bad(
                path, f"the node says that its path is {node.path!r}", "store every node under its own path"
            )
        if path:
            parent, slash, name = path.rpartition("/")
            if slash and not parent:
                raise _bad(path, "it is an absolute path", "leave out the leading slash")
            if parent not in names:
                raise _bad(
                    path, "its parent directory is missing or no directory", "add the directory above it"
                )
            names[parent].append(_checked_name(path, name))
        if node.kind is Kind.DIRECTORY:
            names[path] = [b".", b".."]
    for entries in names.values():
        entries.sort()
    return names


def _checked_name(path: str, name: str) -> bytes:
    raw = raw_name(name)
    if not raw or raw in (b".", b"..") or b"\0" in raw:
        raise _bad(
            path, f"{name!r} is not a file name", "use a relative path without empty, '.' or '..' components"
        )
    if len(raw) > MAX_NAME:
        raise _bad(
            path, f"its name has {len(raw)} bytes; at most {MAX_NAME} are possible", "shorten the name"
        )
    return raw


def _sized(node: Node, *, number: int, names: list[bytes]) -> Inode:
    _check_fields(node)
    size = _size_of(node, names)
    xattrs = encode_xattrs(node.xattrs, path=node.path)
    header = INODE.size + len(xattrs)
    if header > BLOCK_SIZE:
        raise _bad(
            node.path, f"its extended attributes take {len(xattrs)} bytes", "keep them below 4032 bytes"
        )
    tail = size % BLOCK_SIZE
    if tail and header + tail <= BLOCK_SIZE:
        return Inode(node=node, number=number, size=size, xattrs=xattrs, layout=Layout.INLINE, tail=tail)
    return Inode(node=node, number=number, size=size, xattrs=xattrs, layout=Layout.PLAIN, tail=0)


def _check_fields(node: Node) -> None:
    if not 0 <= node.mode <= 0o7777:
        raise _bad(node.path, f"mode {node.mode:#o} has more than permission bits", "give at most 0o7777")
    if not (0 <= node.uid < 1 << 32 and 0 <= node.gid < 1 << 32):
        raise _bad(node.path, f"owner {node.uid}:{node.gid} is out of range", "give 32-bit owners")
    major, minor = node.device
    if not (0 <= major <= MAX_MAJOR and 0 <= minor <= MAX_MINOR):
        raise _bad(
            node.path,
            f"device {major}:{minor} is out of range",
            "give a 12-bit major and a 20-bit minor number",
        )
    if (node.kind is Kind.FILE) != (node.content is not None):
        raise _bad(
            node.path, f"a {node.kind.value} and content do not go together", "files alone have content"
        )


def _size_of(node: Node, names: list[bytes]) -> int:
    if node.kind is Kind.DIRECTORY:
        blocks = list(directory_blocks(names))
        return (len(blocks) - 1) * BLOCK_SIZE + sum(ENTRY.size + len(name) for name in blocks[-1])
    if node.kind is Kind.SYMLINK:
        return len(_checked_target(node))
    return node.content.size if node.content is not None else 0


def _checked_target(node: Node) -> bytes:
    target = raw_name(node.target)
    if not 0 < len(target) <= MAX_TARGET or b"\0" in target:
        raise _bad(
            node.path, "its link target is empty, too long or holds a zero byte", "give 1 to 4095 bytes"
        )
    return target


def _link(path: str, inode: Inode, inodes: dict[str, Inode]) -> None:
    """Enter ``inode`` in its parent, and a directory also as its own ``.`` and with its ``..``."""
    parent_path, _, name = path.rpartition("/")
    parent = inodes[parent_path]
    if path:
        parent.entries.append((raw_name(name), inode))
    if inode.node.kind is Kind.DIRECTORY:
        inode.entries += [(b".", inode), (b"..", parent)]
        inode.links += 1
        if path:
            parent.links += 1


def _place_inodes(inodes: tuple[Inode, ...]) -> tuple[tuple[Inode, ...], ...]:
    """Give each inode its slot: best fit, the earliest block among equals."""
    blocks: list[list[Inode]] = [[]]
    gaps = [(BLOCK_SIZE - SUPERBLOCK_OFFSET - SUPERBLOCK.size, 0)]
    for inode in inodes:
        needed = -(-(inode.header + inode.tail) // SLOT_SIZE) * SLOT_SIZE
        index = bisect_left(gaps, (needed, 0))
        if index == len(gaps):
            room, block = BLOCK_SIZE, len(blocks)
            blocks.append([])
        else:
            room, block = gaps.pop(index)
        inode.nid = (block * BLOCK_SIZE + BLOCK_SIZE - room) // SLOT_SIZE
        blocks[block].append(inode)
        if room - needed >= INODE.size:
            insort(gaps, (room - needed, block))
    return tuple(tuple(block) for block in blocks)


def _place_data(inodes: tuple[Inode, ...], *, first: int) -> int:
    """Give each inode its data blocks from ``first`` on, and return the number of blocks of the image."""
    following = first
    for inode in inodes:
        if inode.body:
            inode.first_block = following
            following += blocks_for(inode.body)
    if following > MAX_BLOCKS:
        raise _bad("", f"the image would have {following} blocks", "keep the root below 16 TiB")
    return following


def pack_directory(inode: Inode) -> bytes:
    """The bytes of a directory, ``inode.size`` long."""
    by_name = dict(inode.entries)
    blocks = [_pack_directory_block(block, by_name) for block in directory_blocks(sorted(by_name))]
    return b"".join(block.ljust(BLOCK_SIZE, b"\0") for block in blocks[:-1]) + blocks[-1]


def _pack_directory_block(names: list[bytes], by_name: dict[bytes, Inode]) -> bytes:
    offsets = [len(names) * ENTRY.size]
    for name in names:
        offsets.append(offsets[-1] + len(name))
    entries = b"".join(
        ENTRY.pack(by_name[name].nid, start, FILE_TYPES[by_name[name].node.kind], 0)
        for name, (start, _) in zip(names, pairwise(offsets), strict=True)
    )
    return entries + b"".join(names)


def _bad(path: str, reason: str, advice: str) -> TreeError:
    return TreeError(reason, subject=f"/{path}", advice=advice)
