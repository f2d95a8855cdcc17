"""TD HOB: the list of memory ranges that the VMM hands to the firmware, which measures it first of all.

Layout (UEFI PI 1.8, volume 3, section 5; little endian). Handoff block, 56 bytes::

    u16 type 1 | u16 length 56 | u32 | u32 version 9 | u32 boot mode 0 | 4 x u64 zero | u64 end of the list

then one resource descriptor of 48 bytes per range::

    u16 type 3 | u16 length 48 | u32 | 16 bytes owner, zero | u32 resource type | u32 attributes 7
    | u64 start | u64 length

and an end marker of 8 bytes, which is counted in the end of the list but not measured. QEMU
(``hw/i386/tdvf-hob.c``, ``target/i386/kvm/tdx.c``) lists its memory in ascending order, split at the sections
that the guest need not accept (TD HOB and temporary memory, type 0); all else is unaccepted (type 7).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from measurements.tdx.tdvf import Tdvf, TdvfError

FOUR_GIB = 1 << 32
LOW_MEMORY_LIMIT = 0xB0000000
LOW_MEMORY_SPLIT = 0x80000000
"""q35 keeps all memory below 4 GiB up to the limit; with more, only what is below the split."""

SYSTEM_MEMORY, UNACCEPTED_MEMORY = 0x00, 0x07

_HANDOFF = struct.Struct("<HHIII4QQ")
_RESOURCE = struct.Struct("<HHI16sIIQQ")
_END_SIZE = 8
_ATTRIBUTES = 0x7
_VERSION = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRange:
    """Bytes ``start`` to ``end`` of guest memory; ``accepted`` if the guest finds them ready for use."""

    start: int
    end: int
    accepted: bool


def td_hob(firmware: Tdvf, memory: int) -> bytes:
    """The measured bytes of QEMU's list for ``firmware`` on a machine of ``memory`` bytes.

    Raises ``TdvfError`` if the firmware does not fit into the memory.
    """
    ranges = list(memory_ranges(firmware, memory))
    # Even with all sections that the metadata may have, the list is smaller than a page, so it always fits.
    end = firmware.td_hob.address + _HANDOFF.size + len(ranges) * _RESOURCE.size + _END_SIZE
    handoff = _HANDOFF.pack(1, _HANDOFF.size, 0, _VERSION, 0, 0, 0, 0, 0, end)
    return handoff + b"".join(_resource(part) for part in ranges)


def memory_ranges(firmware: Tdvf, memory: int) -> Iterator[MemoryRange]:
    """The ranges of the list, in ascending order."""
    low = low_memory(memory)
    position = 0
    for section in firmware.accepted:
        if section.end > low:
            raise _error(firmware, f"needs {section.words()}, but the machine's low memory ends at {low:#x}")
        if section.address > position:
            yield MemoryRange(start=position, end=section.address, accepted=False)
        yield MemoryRange(start=section.address, end=section.end, accepted=True)
        position = section.end
    if low > position:
        yield MemoryRange(start=position, end=low, accepted=False)
    if memory > low:
        yield MemoryRange(start=FOUR_GIB, end=FOUR_GIB + memory - low, accepted=False)


def low_memory(memory: int) -> int:
    """How many of ``memory`` bytes a q35 machine has below 4 GiB."""
    return memory if memory < LOW_MEMORY_LIMIT else LOW_MEMORY_SPLIT


def _resource(part: MemoryRange) -> bytes:
    kind = SYSTEM_MEMORY if part.accepted else UNACCEPTED_MEMORY
    length = part.end - part.start
    return _RESOURCE.pack(3, _RESOURCE.size, 0, bytes(16), kind, _ATTRIBUTES, part.start, length)


def _error(firmware: Tdvf, reason: str) -> TdvfError:
    return TdvfError(
        reason, subject=firmware.name, advice="use a machine with more memory, or other firmware"
    )
