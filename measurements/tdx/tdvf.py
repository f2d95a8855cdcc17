"""TDVF metadata: which parts of a firmware file the VMM puts where in a trust domain's memory.

Source: Intel TDX Virtual Firmware Design Guide 1.01, section 11; edk2 ``OvmfPkg/ResetVector``. All numbers
are little endian, and GUIDs have their first three groups in that order.

The last 32 bytes of a firmware file are the reset vector. Before them ends a table that is read backwards: an
entry is data, then u16 length of the entry with this field and the GUID, then 16 bytes GUID. Its last entry
has the GUID 96b582de-1fb2-45f7-baea-a366c55a082d, and its length is that of the whole table. The entry
e47a6535-984a-4798-865e-4685a7bf8ec2 holds u32 distance of the descriptor from the end of the file::

    "TDVF" | u32 length of descriptor and sections | u32 version 1 | u32 number of sections

and then per section::

    u32 offset in the file | u32 size in the file | u64 guest physical address | u64 size in memory
    | u32 type | u32 attributes (bit 0: extend MRTD, bit 1: add pages later)

Firmware comes from whoever runs the machine, so everything is bounded, and what is not known is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from itertools import pairwise
from uuid import UUID

from measurements.errors import FormatError

PAGE = 0x1000
MAX_FIRMWARE = 64 << 20
MAX_SECTIONS = 32
MAX_ADDED_MEMORY = 256 << 20
"""Largest sum of the sections that the VMM adds page by page; real firmware has at most some 40 MiB."""
ADDRESS_LIMIT = 1 << 52

TABLE_GUID = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
METADATA_GUID = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")

_RESET_VECTOR = 32
_ENTRY_TAIL = struct.Struct("<H16s")
_DESCRIPTOR = struct.Struct("<4sIII")
_SECTION = struct.Struct("<IIQQII")
_SIGNATURE, _VERSION = b"TDVF", 1


class TdvfError(FormatError):
    """A file that is no firmware for trust domains, or whose metadata are not wholly understood."""

    code = "tdvf"


class SectionType(IntEnum):
    """What a section is."""

    BFV = 0
    CFV = 1
    TD_HOB = 2
    TEMPORARY_MEMORY = 3
    PERMANENT_MEMORY = 4
    PAYLOAD = 5
    PAYLOAD_PARAMETER = 6

    @property
    def words(self) -> str:
        """The type in words."""
        return _WORDS[self]


_WORDS = {
    SectionType.BFV: "boot firmware volume",
    SectionType.CFV: "configuration firmware volume",
    SectionType.TD_HOB: "TD HOB",
    SectionType.TEMPORARY_MEMORY: "temporary memory",
    SectionType.PERMANENT_MEMORY: "permanent memory",
    SectionType.PAYLOAD: "payload",
    SectionType.PAYLOAD_PARAMETER: "payload parameter",
}
_FROM_FILE = (SectionType.BFV, SectionType.CFV)
_WITHOUT_DATA = (
    SectionType.TD_HOB,
    SectionType.TEMPORARY_MEMORY,
    SectionType.PERMANENT_MEMORY,
    SectionType.PAYLOAD_PARAMETER,
)


class SectionAttribute(IntFlag):
    """How the VMM adds a section."""

    MR_EXTEND = 1
    PAGE_AUG = 2


_KNOWN_ATTRIBUTES = int(SectionAttribute.MR_EXTEND | SectionAttribute.PAGE_AUG)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section: ``offset`` and ``raw_size`` in the file, ``address`` and ``size`` in guest memory."""

    offset: int
    raw_size: int
    address: int
    size: int
    kind: SectionType
    attributes: SectionAttribute

    @property
    def end(self) -> int:
        """First guest physical address behind the section."""
        return self.address + self.size

    @property
    def added(self) -> bool:
        """Whether its pages are there at launch, and so in MRTD."""
        return SectionAttribute.PAGE_AUG not in self.attributes

    @property
    def extended(self) -> bool:
        """Whether MRTD covers its contents."""
        return SectionAttribute.MR_EXTEND in self.attributes

    def words(self) -> str:
        """Type and place, for messages and descriptions."""
        return f"{self.kind.words} at {self.address:#x}, {self.size:#x} bytes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tdvf:
    """A firmware file with its sections in the order of the metadata, which is the order of launch."""

    name: str
    data: bytes
    sections: tuple[Section, ...]

    def contents(self, section: Section) -> memoryview:
        """The section's bytes in the file; guest memory behind them is zero."""
        return memoryview(self.data)[section.offset : section.offset + section.raw_size]

    @property
    def td_hob(self) -> Section:
        """The section that the VMM fills with the list of memory ranges."""
        return next(section for section in self.sections if section.kind is SectionType.TD_HOB)

    @property
    def configuration(self) -> Section | None:
        """The variable store's section, if the firmware has one."""
        return next((section for section in self.sections if section.kind is SectionType.CFV), None)

    @property
    def accepted(self) -> tuple[Section, ...]:
        """TD HOB and temporary memory, which the guest need not accept, by address."""
        kinds = (SectionType.TD_HOB, SectionType.TEMPORARY_MEMORY)
        return tuple(sorted((s for s in self.sections if s.kind in kinds), key=lambda s: s.address))


def parse_tdvf(data: bytes, *, name: str) -> Tdvf:
    """The firmware in the bytes of the file ``name``; raises ``TdvfError`` unless it is wholly understood."""
    if len(data) > MAX_FIRMWARE:
        raise _error(name, f"is larger than {MAX_FIRMWARE} bytes")
    sections = tuple(_sections(data, name))
    _check_split(sections, len(data), name)
    for section in sections:
        _check_section(section, len(data), name)
    _check_kinds(sections, name)
    _check_memory(sections, name)
    return Tdvf(name=name, data=data, sections=sections)


def guided_table(data: bytes, *, name: str) -> dict[UUID, bytes]:
    """The entries of the table at the end of a firmware file, without the table's own."""
    end = len(data) - _RESET_VECTOR
    start = end - _ENTRY_TAIL.size
    if start < 0:
        raise _error(name, f"has {len(data)} bytes, too few for the table before the reset vector")
    length, guid = _ENTRY_TAIL.unpack_from(data, start)
    if guid != TABLE_GUID.bytes_le:
        raise _error(name, f"has no GUIDed table at byte {start:#x}, so it is no x86 firmware of edk2")
    if not _ENTRY_TAIL.size <= length <= end:
        raise _error(name, f"has a GUIDed table of {length} bytes at byte {start:#x}, which do not fit")
    first = end - length
    entries: dict[UUID, bytes] = {}
    while start > first:
        tail = start - _ENTRY_TAIL.size
        if tail < first:
            raise _error(name, f"has an entry of the GUIDed table that is cut off at byte {first:#x}")
        length, raw = _ENTRY_TAIL.unpack_from(data, tail)
        if not _ENTRY_TAIL.size <= length <= start - first:
            raise _error(name, f"has an entry of {length} bytes in the GUIDed table before byte {start:#x}")
        guid = UUID(bytes_le=raw)
        if guid in entries:
            raise _error(name, f"has the entry {guid} twice in its GUIDed table")
        entries[guid] = data[start - length : tail]
        start -= length
    return entries


def _sections(data: bytes, name: str) -> Iterator[Section]:
    entry = guided_table(data, name=name).get(METADATA_GUID)
    if entry is None:
        raise _error(name, f"has no TDX metadata (entry {METADATA_GUID} of the GUIDed table)")
    if len(entry) != 4:
        raise _error(name, f"has a TDX metadata entry of {len(entry)} bytes, 4 expected")
    start = len(data) - int.from_bytes(entry, "little")
    if not 0 <= start <= len(data) - _DESCRIPTOR.size:
        raise _error(name, f"has its TDX metadata at byte {start}, outside of the file")
    signature, length, version, count = _DESCRIPTOR.unpack_from(data, start)
    if signature != _SIGNATURE:
        raise _error(name, f"has {signature!r} instead of {_SIGNATURE!r} at byte {start:#x}")
    if version != _VERSION:
        raise _error(name, f"has TDX metadata of version {version} at byte {start + 8:#x}, 1 expected")
    if not 1 <= count <= MAX_SECTIONS:
        raise _error(name, f"has {count} sections (byte {start + 12:#x}), 1 to {MAX_SECTIONS} expected")
    if length != _DESCRIPTOR.size + count * _SECTION.size or start + length > len(data):
        raise _error(name, f"has a metadata length of {length} at byte {start + 4:#x} for {count} sections")
    for index in range(count):
        yield _section(data, start + _DESCRIPTOR.size + index * _SECTION.size, name)


def _section(data: bytes, place: int, name: str) -> Section:
    offset, raw_size, address, size, kind, attributes = _SECTION.unpack_from(data, place)
    if kind not in SectionType.__members__.values():
        raise _error(name, f"has a section of unknown type {kind} at byte {place:#x}")
    if attributes & ~_KNOWN_ATTRIBUTES:
        raise _error(name, f"has a section of unknown attributes {attributes:#x} at byte {place:#x}")
    return Section(
        offset=offset,
        raw_size=raw_size,
        address=address,
        size=size,
        kind=SectionType(kind),
        attributes=SectionAttribute(attributes),
    )


def _check_split(sections: Sequence[Section], file_size: int, name: str) -> None:
    """A file without the variable store carries metadata that speak of the whole."""
    store = sum(section.raw_size for section in sections if section.kind is SectionType.CFV)
    end = max(section.offset + section.raw_size for section in sections)
    if store and end == file_size + store:
        raise TdvfError(
            f"is the code half of a split firmware: it has {file_size} bytes, its metadata speak of {end}",
            subject=name,
            advice="give the whole file, OVMF.fd; a trust domain cannot start from OVMF_CODE and OVMF_VARS",
        )


def _check_section(section: Section, file_size: int, name: str) -> None:
    words = section.words()
    if section.offset + section.raw_size > file_size:
        raise _error(
            name,
            f"has {words} from byte {section.offset:#x} to {section.offset + section.raw_size:#x}, "
            f"but ends at byte {file_size:#x}",
        )
    if section.address % PAGE or section.size % PAGE or not section.size:
        raise _error(name, f"has {words}, which are not whole pages")
    if section.end > ADDRESS_LIMIT:
        raise _error(name, f"has {words}, beyond physical addresses")
    if section.raw_size > section.size:
        raise _error(name, f"has {words}, into which {section.raw_size:#x} bytes of the file do not fit")
    if section.kind in _FROM_FILE and not section.raw_size:
        raise _error(name, f"has {words}, without bytes of the file")
    if section.kind in _WITHOUT_DATA and section.raw_size:
        raise _error(name, f"has {words}, with bytes of the file where none belong")
    if section.extended and not section.added:
        raise _error(name, f"has {words}, which is to be both measured and added later")


def _check_kinds(sections: Sequence[Section], name: str) -> None:
    kinds = [section.kind for section in sections]
    for kind in (SectionType.BFV, SectionType.TD_HOB, SectionType.TEMPORARY_MEMORY):
        if kind not in kinds:
            raise _error(name, f"has no section for {kind.words}")
    for kind in (SectionType.TD_HOB, SectionType.CFV):
        if kinds.count(kind) > 1:
            raise _error(name, f"has {kinds.count(kind)} sections for {kind.words}")
    if not any(section.extended for section in sections if section.kind is SectionType.BFV):
        raise _error(name, "has no measured boot firmware volume, so MRTD would say nothing about its code")


def _check_memory(sections: Sequence[Section], name: str) -> None:
    for one, other in pairwise(sorted(sections, key=lambda section: section.address)):
        if one.end > other.address:
            raise _error(name, f"has {one.words()}, which overlaps {other.words()}")
    stored = sorted((section for section in sections if section.raw_size), key=lambda section: section.offset)
    for one, other in pairwise(stored):
        if one.offset + one.raw_size > other.offset:
            raise _error(name, f"uses the same bytes for {one.words()} and {other.words()}")
    if sum(section.size for section in sections if section.added) > MAX_ADDED_MEMORY:
        raise _error(name, f"asks for more than {MAX_ADDED_MEMORY >> 20} MiB at launch")


def _error(name: str, reason: str) -> TdvfError:
    return TdvfError(
        reason, subject=name, advice="give a firmware file for Intel TDX, such as OVMF.fd of the package ovmf"
    )
