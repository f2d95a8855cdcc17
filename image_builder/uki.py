"""Unified kernel images: the locked systemd-stub with the kernel, its initrd and its command line as further
PE sections.

Layout (UAPI.5 Unified Kernel Image; PE headers as in ``measurements.pe``): the stub's bytes, then per added
section its data, zero-padded to the file alignment. Each takes a free slot of 40 bytes at the end of the
stub's section table: name, u32 virtual size (the exact length, which is what systemd-stub measures), u32
virtual address (next multiple of the section alignment), u32 raw size, u32 raw offset, 12 zero bytes, u32
characteristics 0x40000040 (initialised data, readable). Changed in the stub's headers: number of sections,
size of initialised data, size of image, and

- TimeDateStamp = 0, since the stub's own says when its package was built;
- CheckSum = 0, which means "none": firmware does not read it, the Authenticode digest leaves it out, and
signing tools write their own;
- no COFF symbol table, which stubs before systemd 253 carry behind their sections.

The result has a multiple of 512 bytes, so that a signing tool has nothing to pad and the digest of the signed
and the unsigned file is the same.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from measurements.errors import FormatError, KeyturnError
from measurements.pe import SECTION_HEADER_SIZE, PeFile, parse_pe, stub_version

FILE_ALIGNMENT = 512
ALIGNMENT_LIMIT = 1 << 16
IMAGE_LIMIT = (1 << 32) - ALIGNMENT_LIMIT
"""Bytes that an image may take in the file and in memory, so that each of its 32-bit fields holds."""
COMMAND_LINE_LIMIT = 2047
"""Bytes of a command line that an x86 kernel takes (COMMAND_LINE_SIZE less the NUL); it cuts off what is
longer.
"""
_READABLE_DATA = 0x40000040
_PRINTABLE = bytes(range(0x20, 0x7F))


class SectionName(StrEnum):
    """Sections that may be added, in the order in which they are written."""

    OSREL = ".osrel"
    CMDLINE = ".cmdline"
    UNAME = ".uname"
    UCODE = ".ucode"
    INITRD = ".initrd"
    LINUX = ".linux"


@dataclass(frozen=True, kw_only=True, slots=True)
class UkiSection:
    """One section to add, with its exact bytes."""

    name: SectionName
    data: bytes


class UkiError(KeyturnError):
    """The sections asked for do not make a UKI."""

    code = "uki"


class StubRoomError(UkiError):
    """The stub's headers have too few free slots for the sections."""

    code = "stub-room"


def build_uki(stub: bytes, sections: Sequence[UkiSection]) -> bytes:
    """Append ``sections`` (in any order) to the systemd-stub ``stub``; ``.cmdline`` and ``.linux`` must be
    among them.

    Raises ``FormatError`` if ``stub`` is not an unsigned systemd-stub or ``.linux`` is no PE image,
    ``UkiError`` for bad or repeated sections and ``StubRoomError`` where the stub has no room for them.
    """
    ordered = sorted(sections, key=lambda section: list(SectionName).index(section.name))
    pe = _checked_stub(stub)
    _check_sections(pe, ordered)
    address = max(section.virtual_address + section.virtual_size for section in pe.sections)
    _check_total(pe, ordered, address)
    head = bytearray(memoryview(stub)[: _end_of_sections(pe)])
    head += _padding(len(head), pe.file_alignment)
    pieces: list[bytes | bytearray] = [head]
    size = stub_size = len(head)
    slot = pe.section_table_offset + len(pe.sections) * SECTION_HEADER_SIZE
    for section in ordered:
        address = _round_up(address, pe.section_alignment)
        raw_size = _round_up(len(section.data), pe.file_alignment)
        header = (section.name.encode(), len(section.data), address, raw_size, size, _READABLE_DATA)
        struct.pack_into("<8sIIII12xI", head, slot, *header)
        pieces += (section.data, _padding(len(section.data), pe.file_alignment))
        slot += SECTION_HEADER_SIZE
        address += len(section.data)
        size += raw_size
    _patch_headers(head, pe, added=len(ordered), added_size=size - stub_size, end_address=address)
    return b"".join(pieces)


def _checked_stub(stub: bytes) -> PeFile:
    subject = "UKI stub"
    stub_version(stub, subject=subject)
    pe = parse_pe(stub, subject=subject)
    if pe.certificate_entry is not None and pe.certificate_entry.table_size:
        _refuse_stub("is signed; sections cannot be added without breaking the signature")
    for alignment in (pe.file_alignment, pe.section_alignment):
        if not FILE_ALIGNMENT <= alignment <= ALIGNMENT_LIMIT or alignment & (alignment - 1):
            limits = f"{FILE_ALIGNMENT} to {ALIGNMENT_LIMIT}"
            _refuse_stub(f"has alignment {alignment}, which is not a power of two from {limits}")
    if any(section.raw_size and section.raw_offset < pe.size_of_headers for section in pe.sections):
        _refuse_stub("has a section inside its headers")
    end = _end_of_sections(pe)
    if len(stub) > _round_up(end, pe.file_alignment) and pe.symbol_table_offset < end:
        _refuse_stub("has bytes after its last section that are not a symbol table")
    return pe


def _check_sections(pe: PeFile, sections: Sequence[UkiSection]) -> None:
    counts = Counter(str(section.name) for section in sections)
    counts.update(section.name for section in pe.sections if section.name in set(SectionName))
    for name, count in counts.items():
        if count > 1:
            _refuse(name, f"occurs {count} times", "give every section once, and a stub without it")
    for name in (SectionName.CMDLINE, SectionName.LINUX):
        if name not in counts:
            _refuse(name, "is missing", "a UKI needs a kernel and a command line")
    for section in sections:
        _check_section(section, machine=pe.machine)
    table_end = pe.section_table_offset + (len(pe.sections) + len(sections)) * SECTION_HEADER_SIZE
    if table_end > pe.size_of_headers:
        free = (pe.size_of_headers - pe.section_table_offset) // SECTION_HEADER_SIZE - len(pe.sections)
        raise StubRoomError(
            f"stub without room for sections: {len(sections)} wanted, {free} free",
            subject="UKI stub",
            advice="lock a systemd-stub of 253 or later, whose headers have room for about 24 sections",
        )


def _check_total(pe: PeFile, sections: Sequence[UkiSection], address: int) -> None:
    largest = max(address, _end_of_sections(pe), pe.size_of_initialised_data)
    total = largest + sum(len(section.data) + ALIGNMENT_LIMIT for section in sections)
    if total > IMAGE_LIMIT:
        _refuse(
            "table", f"would end at {total} bytes", "a PE image has less than 4 GiB: make the initrd smaller"
        )


def _check_section(section: UkiSection, *, machine: int) -> None:
    if not section.data:
        _refuse(section.name, "is empty", "leave the section out, or give its content")
    if section.name is SectionName.LINUX:
        if parse_pe(section.data, subject=section.name).machine != machine:
            advice = "lock both for one machine"
            _refuse(section.name, "is a kernel for another machine than the stub", advice)
    elif section.name in (SectionName.CMDLINE, SectionName.UNAME):
        _check_text(section)


def _check_text(section: UkiSection) -> None:
    """Text that stub and kernel take as it is: nothing that would be trimmed, cut off or end it early."""
    bad = section.data.translate(None, delete=_PRINTABLE)
    if bad:
        advice = "keep to printable ASCII characters"
        _refuse(section.name, f"has the byte 0x{bad[0]:02x}, which is not printable", advice)
    if section.data != section.data.strip():
        advice = "remove them: the stub would trim them"
        _refuse(section.name, "starts or ends with blanks", advice)
    if len(section.data) > COMMAND_LINE_LIMIT:
        advice = f"shorten it to {COMMAND_LINE_LIMIT} bytes: the kernel cuts off the rest"
        _refuse(section.name, f"has {len(section.data)} bytes", advice)


def _patch_headers(body: bytearray, pe: PeFile, *, added: int, added_size: int, end_address: int) -> None:
    struct.pack_into("<HIII", body, pe.coff_offset + 2, len(pe.sections) + added, 0, 0, 0)
    optional = pe.optional_header_offset
    struct.pack_into("<I", body, optional + 8, pe.size_of_initialised_data + added_size)
    struct.pack_into("<I", body, optional + 56, _round_up(end_address, pe.section_alignment))
    struct.pack_into("<I", body, pe.checksum_offset, 0)


def _end_of_sections(pe: PeFile) -> int:
    return max(section.raw_offset + section.raw_size for section in pe.sections if section.raw_size)


def _padding(size: int, alignment: int) -> bytes:
    return bytes(-size % alignment)


def _round_up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def _refuse_stub(reason: str) -> NoReturn:
    advice = "lock the package systemd-boot-efi and use its linuxx64.efi.stub"
    raise FormatError(reason, subject="UKI stub", advice=advice)


def _refuse(name: str, reason: str, advice: str) -> NoReturn:
    raise UkiError(reason, subject=f"UKI section {name}", advice=advice)
