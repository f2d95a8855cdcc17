"""OVMF's platform information block, which early releases keep inside the PEI volume that they measure.

Layout of ``EFI_HOB_PLATFORM_INFO`` in edk2-stable202211 (OvmfPkg/Include/Library/PlatformInitLib.h; packed,
little endian): 24 bytes GUID HOB header (left zero), u16 host bridge device id, u64 confidential computing
attribute, u8 SEV-ES, u32 boot mode, u8 S3 supported, u8 SMRAM required, u8 SMRAM at default SMBASE, u16
TSEG MiB, u64 first address beyond everything, u8 address width, u32 start of uncached memory, u32 its size,
u8 stack without execution, u64 TDX shared bit, u64 64-bit PCI window start, u64 its size, u32 32-bit PCI
window start, u32 its size, u64 I/O window start, u64 its size, u64 emulated variable store, u32 processors
started, u32 at most, u32 built-in maximum, u32 S3 reserved memory, u32 its size. Two flags follow it in the
module's data: fw_cfg found, fw_cfg has DMA.

The values are those that ``PlatformInitLib`` computes on QEMU's q35 machine; S3 is off in keyturn's machines.
"""

from __future__ import annotations

import struct

from measurements.shape import CpuVendor, MachineShape, ShapeError

GIB = 1 << 30
LOW_MEMORY_LIMIT = 0xB0000000
"""From this much memory on, QEMU's q35 puts only 2 GiB below 4 GiB."""

HOST_BRIDGE_AT = 24
S3_SUPPORTED_AT = 39
FLAGS_SIZE = 2

_BLOCK = struct.Struct("<24xHQBIBBBHQBIIBQQQIIQQQIIIII")
_Q35_HOST_BRIDGE = 0x29C0
_UNCACHED_START = 0x80000000
_TSEG_MIB = 16
_PCI32_START, _PCI32_END = 0xC0000000, 0xFC000000
_IO_START, _IO_SIZE = 0x6000, 0xA000
_PCI64_SIZE = 32 * GIB
_BUILT_IN_PROCESSORS = 64
USUAL_BITS = 40
"""Width of addresses that every QEMU accelerator offers."""

MAX_USED_BITS = 46
"""Width of addresses that OVMF uses at most, from edk2 2023.08 on (commit "limit phys-bits to 46")."""


def platform_info(shape: MachineShape) -> bytes:
    """The block and the two flags after it, for ``shape``; raises ``ShapeError`` where it is not known."""
    if shape.phys_bits != USUAL_BITS:
        raise ShapeError(
            f"the early memory of this firmware is not known with {shape.phys_bits}-bit addresses",
            subject="phys-bits",
            advice="use firmware from edk2 2023.02 on, or 40 bits",
        )
    window_start, window_size, beyond, width = address_space(shape)
    if shape.sleep:
        raise ShapeError(
            "the early memory of this firmware is not known with sleep states",
            subject="sleep",
            advice="use firmware from edk2 2023.02 on, or sleep = false",
        )
    block = _BLOCK.pack(
        _Q35_HOST_BRIDGE,
        0,
        0,
        0,
        0,
        shape.smm,
        shape.smm,
        _TSEG_MIB if shape.smm else 0,
        beyond,
        width,
        _UNCACHED_START,
        0,
        0,
        0,
        window_start,
        window_size,
        _PCI32_START,
        _PCI32_END - _PCI32_START,
        _IO_START,
        _IO_SIZE,
        0,
        shape.cpus,
        shape.cpus,
        _BUILT_IN_PROCESSORS,
        0,
        0,
    )
    return block + b"\1" * FLAGS_SIZE


def address_space(shape: MachineShape) -> tuple[int, int, int, int]:
    """Start and size of the 64-bit PCI window, first address beyond it, and address width in bits."""
    size = _PCI64_SIZE
    start = _align(memory_end(shape), size)
    beyond = start + size
    if shape.cpu_vendor is not CpuVendor.AMD and shape.phys_bits <= USUAL_BITS:
        # The firmware trusts 40 bits only from AMD's processors: QEMU once gave every guest 40 bits.
        return start, size, beyond, max(36, (beyond - 1).bit_length())
    width = min(shape.phys_bits, MAX_USED_BITS)
    space = 1 << width
    dynamic = space >> 3
    if size < dynamic and start + dynamic < space:
        start, size = space - dynamic, dynamic
    return start, size, beyond, width


def memory_end(shape: MachineShape) -> int:
    """First address after the memory, at least 4 GiB."""
    memory = shape.memory_mib << 20
    low = memory if memory < LOW_MEMORY_LIMIT else 2 * GIB
    return 4 * GIB + memory - low


def _align(value: int, unit: int) -> int:
    return -(-value // unit) * unit
