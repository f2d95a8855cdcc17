"""The dm-verity hash tree over an image, its on-disk form, and the device-mapper table that opens it.

Source: Linux ``Documentation/admin-guide/device-mapper/verity.rst``; cryptsetup wiki "DMVerity", superblock
version 1. Hash type 1: a digest is ``SHA-256(salt ‖ block)``; a hash block holds 128 digests of 32 bytes,
padded with zeros; the root hash is the digest of the single top block. With one data block there is no hash
block and the root hash is that block's digest.

Hash area, appended to the data and aligned to 4096 bytes: superblock padded to one block, then the levels,
top first.

Superblock
    512 bytes, little-endian: ``verity`` and two zero bytes, version u32 (1), hash type u32 (1), UUID 16,
    algorithm name 32, data block size u32, hash block size u32, data blocks u64, salt size u16, reserved 6,
    salt 256, reserved 168

The guest opens the root with an explicit table from its measured initrd and never reads the superblock; it is
written, with UUID zero, so that ``veritysetup verify`` can check an image.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from measurements.errors import KeyturnError

BLOCK_SIZE: Final = 4096
SECTOR_SIZE: Final = 512
DIGEST_SIZE: Final = hashlib.sha256().digest_size
MAX_SALT: Final = 256
SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6s256s168s")


class VerityError(KeyturnError):
    """Data that no hash tree can be made over."""

    code = "verity"


class ByteSink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerityTree:
    """A finished hash tree.

    ``root_hash`` and ``salt`` are raw bytes, ``levels`` the hash blocks in the order on disk (top first).
    """

    root_hash: bytes
    salt: bytes
    data_blocks: int
    levels: bytes

    @property
    def data_bytes(self) -> int:
        """Length of the data; the hash area begins here when it is appended."""
        return self.data_blocks * BLOCK_SIZE

    @property
    def hash_bytes(self) -> int:
        """Length of the hash area with its superblock."""
        return BLOCK_SIZE + len(self.levels)

    @property
    def hash_start_block(self) -> int:
        """Block in which the levels begin when the hash area is appended to the data."""
        return self.data_blocks + 1

    def superblock(self) -> bytes:
        """The 512-byte superblock, with UUID zero."""
        return SUPERBLOCK.pack(
            b"verity",
            1,
            1,
            bytes(16),
            b"sha256",
            BLOCK_SIZE,
            BLOCK_SIZE,
            self.data_blocks,
            len(self.salt),
            bytes(6),
            self.salt,
            bytes(168),
        )


class VerityHasher:
    """Builds the hash tree from data fed in order, in pieces of any length.

    Memory: 32 bytes for each block.
    """

    def __init__(self, *, salt: bytes = b"") -> None:
        if len(salt) > MAX_SALT:
            raise VerityError(
                f"the salt has {len(salt)} bytes",
                subject="dm-verity salt",
                advice=f"give at most {MAX_SALT} bytes",
            )
        self._salt = salt
        self._digest = _block_digest(salt)
        self._digests = bytearray()
        self._pending = bytearray()

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        if self._pending:
            missing = BLOCK_SIZE - len(self._pending)
            self._pending += view[:missing]
            view = view[missing:]
            if len(self._pending) < BLOCK_SIZE:
                return
            self._digests += self._digest(self._pending)
            self._pending.clear()
        whole = len(view) // BLOCK_SIZE * BLOCK_SIZE
        digest = self._digest
        self._digests += b"".join([digest(view[at : at + BLOCK_SIZE]) for at in range(0, whole, BLOCK_SIZE)])
        self._pending += view[whole:]

    def finish(self) -> VerityTree:
        """The tree over everything taken.

        Raises ``VerityError`` unless that is a positive number of whole blocks.
        """
        if self._pending or not self._digests:
            length = len(self._digests) // DIGEST_SIZE * BLOCK_SIZE + len(self._pending)
            raise VerityError(
                f"{length} bytes are not a positive number of blocks",
                subject="dm-verity data",
                advice=f"pad the data to a multiple of {BLOCK_SIZE} bytes",
            )
        digests = bytes(self._digests)
        levels: list[bytes] = []
        while len(digests) > DIGEST_SIZE:
            level = digests + bytes(-len(digests) % BLOCK_SIZE)
            levels.append(level)
            view = memoryview(level)
            digests = b"".join(
                self._digest(view[at : at + BLOCK_SIZE]) for at in range(0, len(level), BLOCK_SIZE)
            )
        return VerityTree(
            root_hash=digests,
            salt=self._salt,
            data_blocks=len(self._digests) // DIGEST_SIZE,
            levels=b"".join(reversed(levels)),
        )


class VerityStream:
    """Passes bytes on to ``sink`` and hashes them on the way."""

    def __init__(self, sink: ByteSink, hasher: VerityHasher) -> None:
        self._sink = sink
        self._hasher = hasher

    def write(self, data: bytes | memoryview, /) -> int:
        """Write and hash the next bytes."""
        self._sink.write(data)
        self._hasher.update(data)
        return len(data)


def write_verity(tree: VerityTree, stream: ByteSink) -> None:
    """Write the hash area of ``tree``: to be appended right after the data."""
    stream.write(tree.superblock().ljust(BLOCK_SIZE, b"\0"))
    stream.write(tree.levels)


def dm_table(tree: VerityTree, *, data_device: str, hash_device: str) -> str:
    """The device-mapper table (one line) that opens ``tree`` when its hash area is appended to the data.

    ``data_device`` and ``hash_device`` are paths or ``major:minor``. A corrupt block panics the kernel.
    """
    fields = (
        0,
        tree.data_bytes // SECTOR_SIZE,
        "verity",
        1,
        data_device,
        hash_device,
        BLOCK_SIZE,
        BLOCK_SIZE,
        tree.data_blocks,
        tree.hash_start_block,
        "sha256",
        tree.root_hash.hex(),
        tree.salt.hex() or "-",
        1,
        "panic_on_corruption",
    )
    return " ".join(str(value) for value in fields)


def _block_digest(salt: bytes) -> Callable[[bytes | bytearray | memoryview], bytes]:
    if not salt:
        return lambda block: hashlib.sha256(block).digest()
    salted = hashlib.sha256(salt)

    def digest(block: bytes | bytearray | memoryview) -> bytes:
        state = salted.copy()
        state.update(block)
        return state.digest()

    return digest
