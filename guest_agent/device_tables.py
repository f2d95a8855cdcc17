"""Device-mapper tables of the guest: verity volumes of the app disk, and the encrypted data disk. Pure.

Source: Linux ``Documentation/admin-guide/device-mapper/{linear,verity,dm-integrity,dm-crypt}.rst``. A table
is one line per segment, ``start length target arguments``, in sectors of 512 bytes. Tables hold keys as hex,
so they go to ``dmsetup`` on its standard input and never into an argument.

App disk: per volume a ``linear`` slice, above it ``verity`` with everything in the table; no superblock is
read. A corrupt block panics the kernel, which ends the boot.

Data disk, from below::

    linear     sectors 0-7 from memory of the guest (the superblock), the rest is the host's disk
    integrity  journal and one tag of 32 bytes per block of 4096 bytes (module storage_layout)
    crypt      authenc(hmac(sha256),xts(aes)): the tag covers the sector number and the ciphertext

Keys, all HKDF-SHA-512 from the 32-byte storage key: salt ``"keyturn-storage/1"``, info = label, zero byte,
u64 big-endian size of the disk in sectors. A disk of another size therefore has other keys.
"""

from __future__ import annotations

from typing import NamedTuple

from measurements.app_manifest import Volume
from measurements.errors import RefusedError

SECTOR = 512
BLOCK = 4096
BLOCK_SECTORS = BLOCK // SECTOR
TAG_BYTES = 32
_DIGESTS_PER_BLOCK = BLOCK // 32
_MAX_SALT = 256


class TableError(RefusedError):
    """Parameters that no device-mapper table can be made of."""

    code = "device-table"


class StorageKeys(NamedTuple):
    """Keys of the data disk: AES-256-XTS (64 bytes), HMAC-SHA-256 (32), the journal's HMAC-SHA-256 (32) and
    AES-256-CBC (32), and the salt (16) of the journal's HMAC.
    """

    cipher: bytes
    authentication: bytes
    journal_mac: bytes
    journal_cipher: bytes
    journal_salt: bytes


def storage_keys(storage_key: bytes, *, disk_sectors: int) -> StorageKeys:
    """The keys for a disk of ``disk_sectors`` sectors. Raises ``TableError`` unless the key is 32 bytes that
    are not all zero.
    """
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if len(storage_key) != 32 or not any(storage_key):
        raise _error("storage key", "is not 32 bytes of key")

    def derive(label: str, length: int) -> bytes:
        info = label.encode("ascii") + b"\0" + disk_sectors.to_bytes(8, "big")
        return HKDF(algorithm=SHA512(), length=length, salt=b"keyturn-storage/1", info=info).derive(
            storage_key
        )

    return StorageKeys(
        cipher=derive("aes-256-xts", 64),
        authentication=derive("hmac-sha-256", 32),
        journal_mac=derive("journal-hmac-sha-256", 32),
        journal_cipher=derive("journal-aes-256-cbc", 32),
        journal_salt=derive("journal-salt", 16),
    )


def tree_blocks(data_blocks: int) -> int:
    """Blocks of the dm-verity tree over ``data_blocks`` blocks."""
    total = 0
    while data_blocks > 1:
        data_blocks = -(-data_blocks // _DIGESTS_PER_BLOCK)
        total += data_blocks
    return total


def check_volumes(volumes: tuple[Volume, ...], *, disk_bytes: int) -> None:
    """Raise ``TableError`` unless every volume is well formed, lies on the disk, and overlaps no other one
    (the same volume may be listed more than once).
    """
    end = 0
    for volume in sorted(set(volumes)):
        subject = f"volume at byte {volume.offset}"
        if problem := _volume_problem(volume):
            raise _error(subject, problem)
        if volume.offset < end:
            raise _error(subject, "overlaps the volume before it")
        end = volume.offset + _volume_bytes(volume)
        if end > disk_bytes:
            raise _error(subject, f"ends at byte {end}, but the disk has {disk_bytes} bytes")


def slice_table(volume: Volume, *, device: str) -> str:
    """The ``linear`` slice of the app disk ``device`` that holds the volume's data and tree."""
    length = _volume_bytes(volume) // SECTOR
    return f"0 {length} linear {device} {volume.offset // SECTOR}\n"


def verity_table(volume: Volume, *, device: str) -> str:
    """The ``verity`` device above the slice ``device``."""
    fields = (
        0,
        volume.data_blocks * BLOCK_SECTORS,
        "verity",
        1,
        device,
        device,
        BLOCK,
        BLOCK,
        volume.data_blocks,
        volume.hash_offset // BLOCK,
        "sha256",
        volume.root_hash.hex(),
        volume.salt.hex() or "-",
        1,
        "panic_on_corruption",
    )
    return " ".join(map(str, fields)) + "\n"


def front_table(*, memory: str, disk: str, disk_sectors: int) -> str:
    """The superblock from ``memory`` in front of the whole ``disk``."""
    return f"0 {BLOCK_SECTORS} linear {memory} 0\n{BLOCK_SECTORS} {disk_sectors} linear {disk} 0\n"


def integrity_table(
    keys: StorageKeys, *, device: str, data_sectors: int, mode: str, journal_sectors: int
) -> str:
    """The ``integrity`` device above the front; ``mode`` is ``"J"`` (journal) or ``"D"`` (direct, only while
    the disk is formatted).
    """
    options = (
        f"block_size:{BLOCK}",
        f"journal_sectors:{journal_sectors}",
        "interleave_sectors:32768",
        "buffer_sectors:128",
        f"journal_crypt:cbc(aes):{keys.journal_cipher.hex()}",
        f"journal_mac:hmac(sha256):{keys.journal_mac.hex()}",
        "fix_padding",
        "fix_hmac",
    )
    if mode not in ("J", "D"):
        raise _error("integrity mode", f"{mode!r} is neither J nor D")
    return f"0 {data_sectors} integrity {device} 0 {TAG_BYTES} {mode} {len(options)} {' '.join(options)}\n"


def crypt_table(keys: StorageKeys, *, device: str, data_sectors: int) -> str:
    """The ``crypt`` device above the integrity device."""
    key = (keys.cipher + keys.authentication).hex()
    return (
        f"0 {data_sectors} crypt capi:authenc(hmac(sha256),xts(aes))-plain64 {key} 0 {device} 0 "
        f"2 integrity:{TAG_BYTES}:aead sector_size:{BLOCK}\n"
    )


def _volume_problem(volume: Volume) -> str | None:
    if volume.offset < 0 or volume.offset % BLOCK or volume.hash_offset % BLOCK:
        return f"its places are not multiples of {BLOCK}"
    if volume.data_blocks < 1 or volume.hash_offset < volume.data_blocks * BLOCK:
        return "its tree overlaps its data"
    if len(volume.root_hash) != 32 or not any(volume.root_hash):
        return "its root hash is not 32 bytes of hash"
    if len(volume.salt) > _MAX_SALT:
        return f"its salt is longer than {_MAX_SALT} bytes"
    return None


def _volume_bytes(volume: Volume) -> int:
    return volume.hash_offset + tree_blocks(volume.data_blocks) * BLOCK


def _error(subject: str, reason: str) -> TableError:
    return TableError(
        reason, subject=subject, advice="build the app again, or give the machine its own disks"
    )
