"""The bytes of an uncompressed EROFS file system: constants, superblock, inodes, directory entries.

Source: Linux ``fs/erofs/erofs_fs.h`` and ``Documentation/filesystems/erofs.rst``. All integers are
little-endian; a block has 4096 bytes.

Superblock
    128 bytes at byte 1024: magic u32 ``0xE0F5E1E2``, checksum u32, compatible features u32, block bits u8,
    extension slots u8, root nid u16, inodes u64, build time u64, nanoseconds u32, blocks u32, metadata block
    u32, shared xattr block u32, uuid 16, volume name 16, incompatible features u32, then 44 bytes for
    features we never set
Inode
    at byte ``metadata block * 4096 + nid * 32``. Extended form, 64 bytes: format u16 (bit 0: extended; bits
    1-3: data layout), xattr count u16, mode u16, reserved u16, size u64, first data block or device u32,
    inode number u32, uid u32, gid u32, mtime u64, nanoseconds u32, links u32, reserved 16. Compact form, 32
    bytes: format u16, xattr count u16, mode u16, links u16, size u32, reserved u32, first data block or
    device u32, inode number u32, uid u16, gid u16, reserved u32. Inline xattrs follow the inode.
Data
    layout 0 (plain): whole blocks from the first data block, the last padded with zeros. Layout 2 (inline):
    as before, but the last, partial block follows inode and xattrs and does not cross a block.
Directory
    file of self-contained blocks: entries of 12 bytes (nid u64, name offset in the block u16, file type u8,
    reserved u8), then the names without terminators; sorted by raw bytes, ``.`` and ``..`` among the rest;
    the first name offset tells the number of entries; a name ends at the next one, the last at the end of the
    block or a zero byte

Two optional parts are left out on purpose. The superblock checksum (a compatible feature) would only repeat
what dm-verity proves about every block. Shared xattrs save space only where thousands of files carry labels.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from image_builder.tree import Kind

BLOCK_BITS: Final = 12
BLOCK_SIZE: Final = 1 << BLOCK_BITS
SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_MAGIC: Final = 0xE0F5E1E2
SUPERBLOCK: Final = struct.Struct("<IIIBBHQQIIII16s16sI44s")
INODE: Final = struct.Struct("<HHHHQIIIIQII16s")
COMPACT_INODE: Final = struct.Struct("<HHHHIIIIHHI")
ENTRY: Final = struct.Struct("<QHBB")
SLOT_SIZE: Final = 32
EXTENDED: Final = 1
LAYOUT_SHIFT: Final = 1
MAX_NAME: Final = 255
MAX_TARGET: Final = 4095
MAX_BLOCKS: Final = (1 << 32) - 1
MAX_MAJOR: Final = (1 << 12) - 1
MAX_MINOR: Final = (1 << 20) - 1


class Layout(IntEnum):
    """Where the data of an inode are."""

    PLAIN = 0
    INLINE = 2


FILE_TYPES: Final = {
    Kind.FILE: 1,
    Kind.DIRECTORY: 2,
    Kind.CHARACTER_DEVICE: 3,
    Kind.BLOCK_DEVICE: 4,
    Kind.FIFO: 5,
    Kind.SYMLINK: 7,
}
"""File type of a directory entry (Linux ``fs_types.h``)."""

MODE_TYPES: Final = {
    Kind.FIFO: 0o010000,
    Kind.CHARACTER_DEVICE: 0o020000,
    Kind.DIRECTORY: 0o040000,
    Kind.BLOCK_DEVICE: 0o060000,
    Kind.FILE: 0o100000,
    Kind.SYMLINK: 0o120000,
}
"""Type bits of an inode's mode (POSIX ``S_IFMT``)."""


def blocks_for(size: int) -> int:
    """Number of blocks that ``size`` bytes take."""
    return -(-size // BLOCK_SIZE)


def encode_device(major: int, minor: int) -> int:
    """Linux ``new_encode_dev``: minor bits 0-7, major bits 8-19, then the rest of minor."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def decode_device(number: int) -> tuple[int, int]:
    """(major, minor) of a device number from ``encode_device``."""
    return number >> 8 & MAX_MAJOR, (number & 0xFF) | (number >> 12 & 0xFFF00)


class Superblock(NamedTuple):
    """Every field in the order of ``SUPERBLOCK``; what has a default here is always so in our images."""

    magic: int = SUPERBLOCK_MAGIC
    checksum: int = 0
    compatible: int = 0
    block_bits: int = BLOCK_BITS
    extension_slots: int = 0
    root_nid: int = 0
    inodes: int = 0
    build_time: int = 0
    build_time_nanoseconds: int = 0
    blocks: int = 0
    metadata_block: int = 0
    shared_xattr_block: int = 0
    uuid: bytes = bytes(16)
    volume_name: bytes = bytes(16)
    incompatible: int = 0
    rest: bytes = bytes(44)
