"""The hashes of kernel, initrd and command line of a direct boot, which a VMM puts into measured memory.

Layout (QEMU, target/i386/sev.c, ``SevHashTable``; edk2, OvmfPkg/AmdSev/BlobVerifierLibSevHashes), 168 bytes::

    16 bytes GUID TABLE | u16 168 | entry command line | entry initrd | entry kernel
    entry:  16 bytes GUID | u16 50 | 32 bytes SHA-256

GUIDs and numbers are little endian. The table is padded with zeros to 176 bytes, a multiple of 16. The
command line is hashed with its final NUL; a boot without initrd has the hash of no bytes.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from uuid import UUID

from measurements.sev.ovmf_metadata import PAGE, SevFirmwareError

TABLE = UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
CMDLINE = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
INITRD = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
KERNEL = UUID("4de79437-abd2-427f-b835-d5b172d2045b")

_HEADER = struct.Struct("<16sH")
_ENTRY = struct.Struct("<16sH32s")
_LENGTH = _HEADER.size + 3 * _ENTRY.size
PADDED_LENGTH = (_LENGTH + 15) // 16 * 16


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelHashes:
    """SHA-256 (32 bytes each) of what a direct boot starts; ``cmdline`` is that of the text with its NUL."""

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    def __post_init__(self) -> None:
        for digest in (self.kernel, self.initrd, self.cmdline):
            if len(digest) != hashlib.sha256().digest_size:
                raise ValueError("a kernel hash is a SHA-256 of 32 bytes")

    def table(self) -> bytes:
        """The table with its padding, ``PADDED_LENGTH`` bytes: what SEV and SEV-ES measure."""
        entries = ((CMDLINE, self.cmdline), (INITRD, self.initrd), (KERNEL, self.kernel))
        table = _HEADER.pack(TABLE.bytes_le, _LENGTH) + b"".join(
            _ENTRY.pack(guid.bytes_le, _ENTRY.size, digest) for guid, digest in entries
        )
        return table.ljust(PADDED_LENGTH, b"\0")

    def page(self, offset: int) -> bytes:
        """The page with the table at ``offset``, the rest zero: what SNP measures."""
        if not 0 <= offset <= PAGE - PADDED_LENGTH:
            raise SevFirmwareError(
                f"has its table of kernel hashes at {offset:#x} of a page, where it does not fit",
                subject="firmware",
                advice="give an OVMF image whose table of hashes fits into a page",
            )
        return (bytes(offset) + self.table()).ljust(PAGE, b"\0")


def hash_kernel(*, kernel: bytes, initrd: bytes | None, cmdline: str) -> KernelHashes:
    """The hashes of a direct boot, of the bytes given to QEMU's ``-kernel``, ``-initrd`` and ``-append``."""
    return KernelHashes(
        kernel=hashlib.sha256(kernel).digest(),
        initrd=hashlib.sha256(initrd or b"").digest(),
        cmdline=hashlib.sha256(cmdline.encode() + b"\0").digest(),
    )
