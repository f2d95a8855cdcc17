"""Small kernels with a setup header that a test can choose: EFI programs that QEMU takes for bzImages."""

from __future__ import annotations

import struct

from tests.support.pe_images import synthetic_pe


def bzimage(
    *, xload_flags: int = 0x7F, protocol: int = 0x20F, limit: int = 0x7FFFFFFF, release: str = "6.12.1-test"
) -> bytes:
    """A kernel of 9 KiB; ``release`` stands at 0x300."""
    kernel = bytearray(synthetic_pe([(".text", bytes(number * 7 & 0xFF for number in range(0x2000)))]))
    kernel[0x1F1] = 1
    kernel[0x1FE:0x200] = b"\x55\xaa"
    kernel[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", kernel, 0x206, protocol)
    struct.pack_into("<H", kernel, 0x20E, 0x100)
    kernel[0x211] = 1
    struct.pack_into("<I", kernel, 0x214, 0x100000)
    struct.pack_into("<I", kernel, 0x22C, limit)
    struct.pack_into("<H", kernel, 0x236, xload_flags)
    text = release.encode() + b" (build)\0"
    kernel[0x300 : 0x300 + len(text)] = text
    return bytes(kernel)
