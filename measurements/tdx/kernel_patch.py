"""What QEMU writes into a kernel's header before it hands the kernel to firmware, on direct boot.

Source: QEMU ``hw/i386/x86-common.c`` (``x86_load_linux``), Linux ``Documentation/arch/x86/boot.rst``. Fields
of the setup header, little endian, by offset in the file: u16 0x206 protocol, u8 0x210 loader type, u8 0x211
load flags, u32 0x218 and 0x21C address and size of the initrd, u16 0x224 end of the heap, u32 0x228 command
line, u32 0x22C highest address of the initrd, u16 0x236 flags of the kernel.

QEMU up to 10.1 patches the kernel of a trust domain, so its hash depends on the size of the initrd and, below
2.75 GiB, on the memory. From 10.2 on it does not; from 10.0 on it offers the untouched file as well
(``etc/boot/kernel``), which OVMF from 2025.02 on prefers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from measurements.errors import FormatError
from measurements.firmware_catalogue import ByVersion, Edk2Release, Hypervisor
from measurements.tdx.td_hob import low_memory

PATCHED_BEFORE = (10, 2)
UNTOUCHED_FROM = (10, 0)
ACPI_DATA_SIZE = 0x28000
"""Memory that q35 keeps for ACPI data at the end of low memory."""

_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_HEADER_SIZE = 0x238
_OLDEST_PROTOCOL, _HIGH_INITRD_PROTOCOL, _LIMIT_PROTOCOL = 0x202, 0x20C, 0x203
_LOADED_HIGH, _CAN_USE_HEAP, _ABOVE_4G = 0x01, 0x80, 0x02
_QEMU = 0xB0
_SETUP_ADDRESS, _COMMAND_LINE_ADDRESS = 0x10000, 0x20000
_DEFAULT_LIMIT = 0x37FFFFFF
_PAGE = 0x1000


def measured_kernel(
    kernel: bytes,
    *,
    hypervisor: Hypervisor,
    release: Edk2Release,
    qemu_version: tuple[int, int] | None,
    memory: int,
    initrd_size: int,
    command_line: str,
) -> bytes:
    """The kernel as firmware hashes it.

    ``qemu_version`` is major and minor; it is needed where the hypervisor's behaviour depends on it.
    """
    offered = _does(hypervisor.untouched_kernel, qemu_version, lambda version: version >= UNTOUCHED_FROM)
    if release.named_kernel and offered:
        return kernel
    if not _does(hypervisor.header_patch, qemu_version, lambda version: version < PATCHED_BEFORE):
        return kernel
    return patched_kernel(kernel, memory=memory, initrd_size=initrd_size, command_line=command_line)


def patched_kernel(kernel: bytes, *, memory: int, initrd_size: int, command_line: str) -> bytes:
    """The kernel with QEMU's changes for a q35 machine of ``memory`` bytes; raises ``FormatError``."""
    protocol = _protocol(kernel)
    if any(word.startswith("vga=") for word in command_line.split()):
        raise _error("the host's command line has vga=, for which QEMU writes a video mode into the kernel")
    patched = bytearray(kernel)
    patched[0x210] = _QEMU
    patched[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<H", patched, 0x224, _COMMAND_LINE_ADDRESS - _SETUP_ADDRESS - 0x200)
    struct.pack_into("<I", patched, 0x228, _COMMAND_LINE_ADDRESS)
    if initrd_size:
        limit = min(_initrd_limit(kernel, protocol), low_memory(memory) - ACPI_DATA_SIZE - 1)
        if initrd_size >= limit:
            raise _error(f"an initrd of {initrd_size} bytes does not fit below {limit:#x}")
        struct.pack_into("<II", patched, 0x218, (limit - initrd_size) & ~(_PAGE - 1), initrd_size)
    return bytes(patched)


def kernel_release(kernel: bytes) -> str:
    """The release that a bzImage tells, ``6.12.107+deb13-amd64``; raises ``FormatError``."""
    _protocol(kernel)
    start = int.from_bytes(kernel[0x20E:0x210], "little") + 0x200
    words = kernel[start : start + 256].split(b"\0")[0].split()
    if start == 0x200 or not words:
        raise _error("it does not tell its release")
    return words[0].decode("ascii", errors="replace")


def _protocol(kernel: bytes) -> int:
    if len(kernel) < _HEADER_SIZE or kernel[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise _error(f"it has no setup header ({_MAGIC!r} at byte {_MAGIC_AT:#x})")
    protocol = int.from_bytes(kernel[0x206:0x208], "little")
    if protocol < _OLDEST_PROTOCOL or not kernel[0x211] & _LOADED_HIGH:
        raise _error(
            f"its boot protocol {protocol:#x} or load flags {kernel[0x211]:#x} are those of old kernels"
        )
    return protocol


def _initrd_limit(kernel: bytes, protocol: int) -> int:
    """Highest address of the initrd that the kernel allows."""
    if protocol >= _HIGH_INITRD_PROTOCOL and int.from_bytes(kernel[0x236:0x238], "little") & _ABOVE_4G:
        return 0xFFFFFFFF
    if protocol >= _LIMIT_PROTOCOL:
        return int.from_bytes(kernel[0x22C:0x230], "little")
    return _DEFAULT_LIMIT


def _does(
    rule: ByVersion, version: tuple[int, int] | None, by_version: Callable[[tuple[int, int]], bool]
) -> bool:
    if rule is not ByVersion.BY_VERSION:
        return rule is ByVersion.ALWAYS
    if version is None:
        raise FormatError(
            "is not given, but decides whether the kernel is measured as the file is",
            subject="version of QEMU",
            advice="give it as major and minor, such as 10.1",
        )
    return by_version(version)


def _error(reason: str) -> FormatError:
    return FormatError(reason, subject="kernel", advice="give the bzImage that QEMU gets with -kernel")
