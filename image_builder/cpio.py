"""cpio archives in the "newc" form: the initrd that the kernel unpacks into its first root.

Layout (Linux ``Documentation/driver-api/early-userspace/buffer-format.rst``): per member a header of 110
ASCII bytes, the magic ``070701`` and 13 fields of eight hex digits (ino, mode, uid, gid, nlink, mtime,
filesize, devmajor, devminor, rdevmajor, rdevminor, namesize with the NUL, check), then the name and its NUL,
zeros to a multiple of 4, the data, zeros to a multiple of 4. The last member is called ``TRAILER!!!``.

Fixed here, so that equal trees give equal bytes: members sorted by the bytes of their paths (a parent sorts
before its children), inode numbers counted from 1, mtime 0, device number 0, nlink 1 (directories 2),
lower-case hex digits, and the whole padded with zeros to a multiple of 512.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from image_builder.tree import Content, Kind, Node, Tree, raw_name
from measurements.errors import FormatError, KeyturnError

MAGIC = b"070701"
TRAILER = b"TRAILER!!!"
HEADER_SIZE = 110
BLOCK = 512
NAME_LIMIT = 4095
FIELD_LIMIT = 0xFFFFFFFF
_TYPES = {
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


class CpioError(KeyturnError):
    """A tree that cannot be written as a cpio archive."""

    code = "cpio"


@dataclass(frozen=True, kw_only=True, slots=True)
class CpioEntry:
    """One member of an archive: raw name, full mode with type bits, and where its ``size`` bytes of data
    start in the archive.
    """

    name: bytes
    inode: int
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime: int
    device: tuple[int, int]
    offset: int
    size: int


def write_cpio(tree: Tree, stream: BinaryIO) -> int:
    """Write ``tree`` to ``stream`` and return the number of bytes; the root itself is left out, since the
    kernel's first root exists.

    Raises ``CpioError`` for nodes that newc cannot hold: extended attributes, missing parents, names or files
    that are too long.
    """
    length = 0
    nodes = sorted((raw_name(path), node) for path, node in tree.items() if path)
    for inode, (name, node) in enumerate(nodes, start=1):
        _check(name, node, tree)
        length += _write_member(stream, name, node, inode)
    trailer = _header(TRAILER, inode=0, mode=0, uid=0, gid=0, nlink=1, size=0, device=(0, 0))
    stream.write(trailer)
    length += len(trailer)
    padding = bytes(-length % BLOCK)
    stream.write(padding)
    return length + len(padding)


def cpio_bytes(tree: Tree) -> bytes:
    """The archive of ``tree`` in memory; errors as ``write_cpio``."""
    stream = io.BytesIO()
    write_cpio(tree, stream)
    return stream.getvalue()


def read_cpio(data: bytes | memoryview, *, subject: str = "cpio archive") -> Iterator[CpioEntry]:
    """The members of one newc archive, without its trailer.

    Raises ``FormatError`` for a wrong magic or field, padding that is not zero, a missing trailer, and
    anything but zeros behind it.
    """
    view = memoryview(data)
    at = 0
    while True:
        entry = _read_member(view, at, subject)
        at = _aligned(entry.offset + entry.size)
        _check_zeros(view, entry.offset + entry.size, at, subject)
        if entry.name == TRAILER:
            break
        yield entry
    if entry.size:
        _refuse_format(subject, "its trailer has data")
    _check_zeros(view, at, len(view), subject)


def _check(name: bytes, node: Node, tree: Tree) -> None:
    parent = tree.get(node.parent)
    if node.parent and (parent is None or parent.kind is not Kind.DIRECTORY):
        _refuse(node, "has no parent directory in the tree")
    if len(name) > NAME_LIMIT or name == TRAILER or b"\0" in name:
        _refuse(
            node, f"has a name that cpio cannot hold (a NUL, {TRAILER.decode()}, over {NAME_LIMIT} bytes)"
        )
    if node.xattrs:
        _refuse(node, "has extended attributes, which cpio cannot hold")


def _write_member(stream: BinaryIO, name: bytes, node: Node, inode: int) -> int:
    content = _content(node)
    size = len(content) if isinstance(content, bytes) else content.size
    if size > FIELD_LIMIT:
        _refuse(node, f"has {size} bytes; a cpio member has less than 4 GiB")
    mode = _TYPES[node.kind] | node.mode
    nlink = 2 if node.kind is Kind.DIRECTORY else 1
    header = _header(
        name, inode=inode, mode=mode, uid=node.uid, gid=node.gid, nlink=nlink, size=size, device=node.device
    )
    stream.write(header)
    written = 0
    for piece in (content,) if isinstance(content, bytes) else content.chunks():
        stream.write(piece)
        written += len(piece)
    if written != size:
        _refuse(node, f"gave {written} bytes, not its {size}")
    padding = bytes(-size % 4)
    stream.write(padding)
    return len(header) + size + len(padding)


def _content(node: Node) -> bytes | Content:
    if node.kind is Kind.SYMLINK:
        return raw_name(node.target)
    return node.content if node.content is not None else b""


def _header(
    name: bytes, *, inode: int, mode: int, uid: int, gid: int, nlink: int, size: int, device: tuple[int, int]
) -> bytes:
    fields = (inode, mode, uid, gid, nlink, 0, size, 0, 0, *device, len(name) + 1, 0)
    head = MAGIC + b"".join(b"%08x" % field for field in fields) + name + b"\0"
    return head + bytes(-len(head) % 4)


def _read_member(view: memoryview, at: int, subject: str) -> CpioEntry:
    header = bytes(view[at : at + HEADER_SIZE])
    if len(header) < HEADER_SIZE or header[:6] != MAGIC:
        _refuse_format(subject, f"has no member header at byte {at}")
    fields = [_field(header[start : start + 8], at, subject) for start in range(6, HEADER_SIZE, 8)]
    inode, mode, uid, gid, nlink, mtime, size, _, _, major, minor, name_size, _ = fields
    name_at = at + HEADER_SIZE
    name = bytes(view[name_at : name_at + name_size])
    complete = len(name) == name_size and name.find(b"\0") == name_size - 1
    if not complete or not 1 < name_size <= NAME_LIMIT + 1:
        _refuse_format(subject, f"has a bad member name at byte {name_at}")
    offset = _aligned(name_at + name_size)
    _check_zeros(view, name_at + name_size, offset, subject)
    return CpioEntry(
        name=name[:-1],
        inode=inode,
        mode=mode,
        uid=uid,
        gid=gid,
        nlink=nlink,
        mtime=mtime,
        device=(major, minor),
        offset=offset,
        size=size,
    )


def _field(digits: bytes, at: int, subject: str) -> int:
    if not all(digit in b"0123456789abcdefABCDEF" for digit in digits):
        _refuse_format(subject, f"has a member header at byte {at} with a field that is not hexadecimal")
    return int(digits, 16)


def _aligned(offset: int) -> int:
    return -(-offset // 4) * 4


def _check_zeros(view: memoryview, start: int, end: int, subject: str) -> None:
    if end > len(view):
        _refuse_format(subject, "ends inside a member")
    if any(view[start:end]):
        _refuse_format(subject, f"has bytes that are not zero in the padding at byte {start}")


def _refuse_format(subject: str, reason: str) -> NoReturn:
    raise FormatError(reason, subject=subject, advice="give an uncompressed cpio archive in newc form")


def _refuse(node: Node, reason: str) -> NoReturn:
    raise CpioError(reason, subject=f"initrd entry {node.path}", advice="change or leave out this entry")
