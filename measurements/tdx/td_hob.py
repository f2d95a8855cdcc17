"""TD HOB: the list of memory ranges that the VMM hands to the firmware, which measures it first of all.

Layout (UEFI PI 1.8, volume 3, section 5; little endian). Handoff block, 56 bytes::

    u16 type 1 | u16 length 56 | u32 | u32 version 9 | u32 boot mode 0 | 4 x u64 zero | u64 end of the list

then one resource descriptor of 48 bytes per range::

    u16 type 3 | u16 length 48 | u32 | 16 bytes owner, zero | u32 resource type | u32 attributes 7
    | u64 start | u64 length

and an end marker of 8 bytes, which is counted in the end of the list but not measured. QEMU
(``hw/i386/tdvf-hob.c``, ``target/i386/kvm/tdx.c``) lists its memory in ascending order, split at the sections
that the guest need not accept (TD HOB and temporary memory, type 0); all else is unaccepted (type 7).

Google Compute Engine (google/gce-tcb-verifier, ``ovmf/tdx_data.go``) lists all sections in the order of the
metadata, then what is left of its memory in ascending order, with one more attribute (to be accepted early).
Its memory is 3 GiB from 0, 2 MiB below 4 GiB for the firmware, and the rest from 4 GiB. It does not count the
end marker.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from measurements.tdx.tdvf import Tdvf, TdvfError

FOUR_GIB = 1 << 32
LOW_MEMORY_LIMIT = 0xB0000000
LOW_MEMORY_SPLIT = 0x80000000
"""q35 keeps all memory below 4 GiB up to the limit; with more, only what is below the split."""

SYSTEM_MEMORY, UNACCEPTED_MEMORY = 0x00, 0x07
END_MARKER = bytes.fromhex("ffff080000000000")

_HANDOFF = struct.Struct("<HHIII4QQ")
_RESOURCE = struct.Struct("<HHI16sIIQQ")
_ATTRIBUTES, _ACCEPT_EARLY = 0x7, 0x10000000
_GCE_LOW_MEMORY, _GCE_FIRMWARE_MEMORY = 3 << 30, 2 << 20
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
    return _list(firmware, ranges, attributes=_ATTRIBUTES, end_size=len(END_MARKER))


def gce_td_hob(firmware: Tdvf, memory: int) -> bytes:
    """The measured bytes of Google Compute Engine's list; raises ``TdvfError`` if the firmware does not
    fit."""
    if memory <= _GCE_LOW_MEMORY:
        raise _error(firmware, f"runs on machines of more than {_GCE_LOW_MEMORY >> 30} GiB there")
    taken = [MemoryRange(start=s.address, end=s.end, accepted=True) for s in firmware.sections if s.added]
    banks = [
        (0, _GCE_LOW_MEMORY),
        (FOUR_GIB - _GCE_FIRMWARE_MEMORY, FOUR_GIB),
        (FOUR_GIB, FOUR_GIB + memory - _GCE_LOW_MEMORY),
    ]
    for part in taken:
        if not any(start <= part.start and part.end <= end for start, end in banks):
            raise _error(firmware, f"has a section at {part.start:#x}, where that machine has no memory")
    ranges = [*taken, *(part for start, end in banks for part in _left(taken, start, end))]
    return _list(firmware, ranges, attributes=_ATTRIBUTES | _ACCEPT_EARLY, end_size=0)


def _left(taken: Sequence[MemoryRange], start: int, end: int) -> Iterator[MemoryRange]:
    """What of a bank no section takes."""
    for part in sorted(taken, key=lambda part: part.start):
        if start <= part.start < end:
            if part.start > start:
                yield MemoryRange(start=start, end=part.start, accepted=False)
            start = part.end
    if start < end:
        yield MemoryRange(start=start, end=end, accepted=False)


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


def _list(firmware: Tdvf, ranges: Sequence[MemoryRange], *, attributes: int, end_size: int) -> bytes:
    """The list without its end marker; ``attributes`` are those of unaccepted memory."""
    # Even with all sections that the metadata may have, the list is smaller than a page, so it always fits.
    end = firmware.td_hob.address + _HANDOFF.size + len(ranges) * _RESOURCE.size + end_size
    handoff = _HANDOFF.pack(1, _HANDOFF.size, 0, _VERSION, 0, 0, 0, 0, 0, end)
    return handoff + b"".join(_resource(part, attributes) for part in ranges)


def _resource(part: MemoryRange, unaccepted: int) -> bytes:
    kind, attributes = (SYSTEM_MEMORY, _ATTRIBUTES) if part.accepted else (UNACCEPTED_MEMORY, unaccepted)
    length = part.end - part.start
    return _RESOURCE.pack(3, _RESOURCE.size, 0, bytes(16), kind, attributes, part.start, length)


def _error(firmware: Tdvf, reason: str) -> TdvfError:
    return TdvfError(
        reason, subject=firmware.name, advice="use a machine with more memory, or other firmware"
    )
