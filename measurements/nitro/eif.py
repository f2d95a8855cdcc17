"""Enclave image files (EIF) of versions 2, 3 and 4: what AWS Nitro Enclaves boot.

Layout (aws-nitro-enclaves-image-format, README.md "Enclave Image File Specification" of 2024-06-21; big
endian):

- header of 548 bytes: ``.eif``, u16 version, u16 flags (bit 0: arm64), u64 default memory in bytes, u64
  default number of CPUs, u16 0, u16 number of sections, 32 u64 offsets of the section headers, 32 u64 sizes
  of the data, u32 0, u32 CRC32 (ISO-HDLC) of the whole file without this field;
- per section a header of 12 bytes (u16 type, u16 flags 0, u64 size), then the data, in the order of the table
  and without gaps. One kernel (1), one command line (2), one or more RAM disks (3), which are all after the
  kernel; at most one signature (4, from version 3 on, up to 32768 bytes) and one metadata section (5, JSON,
  version 4 only, which must have it). The place of all but the RAM disks is free.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from measurements.errors import FormatError

MAGIC = b".eif"
VERSIONS = (2, 3, 4)
ARM64 = 0x1
MAX_SECTIONS = 32
MAX_SIGNATURE = 32768
HEADER = struct.Struct(">4sHHQQHH32Q32QI")
"""The header without its CRC."""
CRC = struct.Struct(">I")
HEADER_SIZE = HEADER.size + CRC.size
SECTION_HEADER = struct.Struct(">HHQ")


class EifSectionType(IntEnum):
    """Types of sections."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


MEASURED = frozenset({EifSectionType.KERNEL, EifSectionType.CMDLINE, EifSectionType.RAMDISK})
"""The sections whose data enters PCR 0."""

_FIRST_VERSION = {EifSectionType.SIGNATURE: 3, EifSectionType.METADATA: 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class EifSection:
    """One section: where its ``size`` bytes of data start in the file."""

    kind: EifSectionType
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Eif:
    """What an enclave image file holds; ``memory`` in bytes and ``cpus`` are the defaults that its header
    names.
    """

    version: int
    size: int
    crc32: int
    arm64: bool
    memory: int
    cpus: int
    sections: tuple[EifSection, ...]

    def only(self, kind: EifSectionType) -> EifSection | None:
        """The section of a kind that occurs at most once."""
        return next((section for section in self.sections if section.kind is kind), None)


def read_eif(data: bytes | memoryview, *, subject: str = "enclave image file") -> Eif:
    """Read and check an enclave image file.

    Raises ``FormatError`` for a wrong checksum, sections that overlap, leave gaps or are not those of the
    version, and every field that the format keeps zero and is not.
    """
    view = memoryview(data)
    if len(view) < HEADER_SIZE:
        _refuse(subject, f"has {len(view)} bytes, and its header alone takes {HEADER_SIZE}")
    magic, version, flags, memory, cpus, reserved, count, *table, unused = HEADER.unpack_from(view)
    (crc,) = CRC.unpack_from(view, HEADER.size)
    if magic != MAGIC or version not in VERSIONS:
        _refuse(subject, "is not an enclave image file of version 2, 3 or 4")
    if reserved or unused or flags & ~ARM64 or count > MAX_SECTIONS:
        _refuse(subject, "has a header field that the format does not allow")
    if zlib.crc32(view[HEADER_SIZE:], zlib.crc32(view[: HEADER.size])) != crc:
        _refuse(subject, "has a wrong checksum (bytes 544 to 547)")
    offsets, sizes = table[:MAX_SECTIONS], table[MAX_SECTIONS:]
    if any(offsets[count:]) or any(sizes[count:]):
        _refuse(subject, "names places of sections that it does not have")
    sections = _read_sections(view, offsets[:count], sizes[:count], subject)
    _check_sections(sections, version, subject)
    return Eif(
        version=version,
        size=len(view),
        crc32=crc,
        arm64=bool(flags & ARM64),
        memory=memory,
        cpus=cpus,
        sections=sections,
    )


def _read_sections(
    view: memoryview, offsets: Sequence[int], sizes: Sequence[int], subject: str
) -> tuple[EifSection, ...]:
    """The sections, which must fill the file."""
    sections = []
    at = HEADER_SIZE
    for offset, size in zip(offsets, sizes, strict=True):
        if offset != at:
            _refuse(subject, f"has a section at byte {offset}, not {at}")
        sections.append(_read_section(view, offset, size, subject))
        at += SECTION_HEADER.size + size
    if at != len(view):
        _refuse(subject, f"has bytes after its last section, which ends at byte {at}")
    return tuple(sections)


def _read_section(view: memoryview, offset: int, size: int, subject: str) -> EifSection:
    start = offset + SECTION_HEADER.size
    if start + size > len(view):
        _refuse(subject, f"ends inside the section at byte {offset}")
    kind, flags, own_size = SECTION_HEADER.unpack_from(view, offset)
    if kind not in set(EifSectionType) or flags or own_size != size:
        _refuse(subject, f"has a bad section header at byte {offset}")
    return EifSection(kind=EifSectionType(kind), offset=start, size=size)


def _check_sections(sections: Sequence[EifSection], version: int, subject: str) -> None:
    kinds = [section.kind for section in sections]
    for kind in (EifSectionType.KERNEL, EifSectionType.CMDLINE):
        if kinds.count(kind) != 1:
            _refuse(subject, f"has {kinds.count(kind)} {kind.name} sections, not one")
    if EifSectionType.RAMDISK not in kinds:
        _refuse(subject, "has no RAMDISK section")
    if kinds.index(EifSectionType.RAMDISK) < kinds.index(EifSectionType.KERNEL):
        _refuse(subject, "has a RAMDISK section in front of its KERNEL section")
    for kind, first in _FIRST_VERSION.items():
        if kinds.count(kind) > (version >= first):
            _refuse(subject, f"of version {version} has {kinds.count(kind)} {kind.name} sections")
    if version >= _FIRST_VERSION[EifSectionType.METADATA] and EifSectionType.METADATA not in kinds:
        _refuse(subject, f"of version {version} has no METADATA section")
    for section in sections:
        if section.kind is EifSectionType.SIGNATURE and section.size > MAX_SIGNATURE:
            _refuse(subject, f"has a signature of {section.size} bytes, more than {MAX_SIGNATURE}")


def _refuse(subject: str, reason: str) -> NoReturn:
    raise FormatError(
        reason, subject=subject, advice="give an intact enclave image file, as nitro-cli or keyturn writes it"
    )
