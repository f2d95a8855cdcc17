"""What OVMF tells a VMM about SEV: the regions to prepare, where hashes go, where processors start.

Entries of the table of GUIDs (edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm), little endian:

=====================================  ==========================================================
dc886566-984a-4798-a75e-5585a7bf67cc   u32 distance of the SNP metadata from the end of the image
7255371f-3a3b-4b04-927b-1da6efa8d454   u32 address, u32 size: the table of hashes of a direct boot
4c2eb361-7d9b-4cc3-8081-127c90d3d294   u32 address, u32 size: secrets of SEV and SEV-ES
00f771de-1a7e-4fcb-890e-68c77e2fb44e   u32 address at which further processors start
a789a612-0597-4c4b-a49f-cbb1fe9d1ddd   u32 distance of an SVSM's first instruction from its start
=====================================  ==========================================================

SNP metadata (edk2, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm)::

    "ASEV" | u32 length | u32 version 1 | u32 count | count x (u32 address, u32 size, u32 kind)

Kinds: SectionKind. Addresses are guest physical, in whole pages of 4096 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from uuid import UUID

from measurements.errors import FormatError
from measurements.guided_table import parse_guided_table

PAGE = 4096
FOUR_GIB = 1 << 32
MAX_IMAGE = 64 << 20
MAX_SECTIONS = 64
MAX_SECTION_SIZE = 1 << 30

SNP_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
SECRET = UUID("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SVSM_INFO = UUID("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")

_METADATA_HEADER = struct.Struct("<4sIII")
_SECTION = struct.Struct("<III")
_SIGNATURE = b"ASEV"
_VERSION = 1

_ADVICE = "give a complete OVMF image for SEV, such as OVMF.amdsev.fd (package ovmf-amdsev)"


class SevFirmwareError(FormatError):
    """An image that is no firmware for SEV, or one that is not understood."""

    code = "sev-firmware"


class SectionKind(IntEnum):
    """What a VMM puts into a section of the SNP metadata."""

    SEC_MEM = 0x1
    SECRETS = 0x2
    CPUID = 0x3
    SVSM_CAA = 0x4
    KERNEL_HASHES = 0x10


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section: ``size`` bytes at guest physical address ``gpa``, both whole pages."""

    kind: SectionKind
    gpa: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """A range of guest physical addresses in bytes."""

    gpa: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SevImage:
    """An image that ends at ``gpa + len(image)`` in the guest.

    ``sections`` are in the order of the metadata, none where the image has none; ``hash_table`` is where the
    hashes of a direct boot go, ``reset_eip`` where further processors start, ``svsm_entry`` the distance of
    an SVSM's first instruction from ``gpa``; None where the image does not say.
    """

    name: str
    image: bytes
    gpa: int
    sections: tuple[Section, ...]
    hash_table: Area | None
    secret: Area | None
    reset_eip: int | None
    svsm_entry: int | None

    def section(self, kind: SectionKind) -> Section | None:
        """The first section of a kind."""
        return next((section for section in self.sections if section.kind is kind), None)


def parse_sev_image(image: bytes, *, name: str, end: int = FOUR_GIB) -> SevImage:
    """The image that lies right below guest physical address ``end``.

    Raises SevFirmwareError (or FormatError for the table of GUIDs) for anything that is not as the layout
    says or that is not known: what is not understood cannot be measured.
    """
    if not image or len(image) % PAGE or len(image) > min(MAX_IMAGE, end):
        raise _error(name, f"has {len(image)} bytes, not whole pages of {PAGE} bytes up to {MAX_IMAGE}")
    table = parse_guided_table(image, name=name)
    return SevImage(
        name=name,
        image=image,
        gpa=end - len(image),
        sections=_sections(image, _word(table, SNP_METADATA, name=name), name=name),
        hash_table=_area(table, HASH_TABLE, name=name),
        secret=_area(table, SECRET, name=name),
        reset_eip=_word(table, RESET_BLOCK, name=name),
        svsm_entry=_word(table, SVSM_INFO, name=name),
    )


def described_image(
    *, name: str, sections: Sequence[tuple[int, int, int]], hash_table_gpa: int, reset_eip: int
) -> SevImage:
    """An image of which only a description is at hand: ``sections`` are (address, size, kind) in their order.

    Its pages are missing, so it can be predicted with a firmware digest only. Raises SevFirmwareError.
    """
    if not 0 < len(sections) <= MAX_SECTIONS or not 0 < hash_table_gpa < FOUR_GIB:
        raise _error(name, f"describes {len(sections)} sections and a table of hashes at {hash_table_gpa:#x}")
    if not 0 <= reset_eip < FOUR_GIB:
        raise _error(name, f"describes a start address {reset_eip:#x} of further processors")
    found = tuple(
        _checked(*section, where=f"in place {number}", name=name) for number, section in enumerate(sections)
    )
    _refuse_overlaps(found, name=name)
    return SevImage(
        name=name,
        image=b"",
        gpa=FOUR_GIB,
        sections=found,
        hash_table=Area(gpa=hash_table_gpa, size=PAGE - hash_table_gpa % PAGE),
        secret=None,
        reset_eip=reset_eip,
        svsm_entry=None,
    )


def _word(table: Mapping[UUID, bytes], guid: UUID, *, name: str) -> int | None:
    data = table.get(guid)
    if data is None:
        return None
    if len(data) != 4:
        raise _error(name, f"has {len(data)} bytes in entry {guid} of its table of GUIDs, not 4")
    return int.from_bytes(data, "little")


def _area(table: Mapping[UUID, bytes], guid: UUID, *, name: str) -> Area | None:
    """The area that an entry names; builds without the feature give it no size."""
    data = table.get(guid)
    if data is None:
        return None
    if len(data) != 8:
        raise _error(name, f"has {len(data)} bytes in entry {guid} of its table of GUIDs, not 8")
    gpa, size = struct.unpack("<II", data)
    if size == 0:
        return None
    if gpa == 0 or gpa + size > FOUR_GIB:
        raise _error(name, f"names {size:#x} bytes at {gpa:#x} in entry {guid}, which cannot be")
    return Area(gpa=gpa, size=size)


def _sections(image: bytes, distance: int | None, *, name: str) -> tuple[Section, ...]:
    if distance is None:
        return ()
    start = len(image) - distance
    if not 0 <= start <= len(image) - _METADATA_HEADER.size:
        raise _error(name, f"has its SNP metadata {distance:#x} bytes before its end, which is outside")
    signature, length, version, count = _METADATA_HEADER.unpack_from(image, start)
    if signature != _SIGNATURE:
        raise _error(
            name, f"has no {_SIGNATURE.decode()} at byte {start:#x}, where its SNP metadata should be"
        )
    if version != _VERSION:
        raise _error(name, f"has SNP metadata of version {version} at byte {start:#x}; known is {_VERSION}")
    if not 0 < count <= MAX_SECTIONS or length != _METADATA_HEADER.size + count * _SECTION.size:
        raise _error(name, f"has {count} sections in {length} bytes of SNP metadata at byte {start:#x}")
    if start + length > len(image):
        raise _error(name, f"has SNP metadata of {length} bytes at byte {start:#x}, past its end")
    first = start + _METADATA_HEADER.size
    offsets = range(first, first + count * _SECTION.size, _SECTION.size)
    sections = tuple(_section(image, offset, name=name) for offset in offsets)
    _refuse_overlaps(sections, name=name)
    return sections


def _section(image: bytes, offset: int, *, name: str) -> Section:
    gpa, size, number = _SECTION.unpack_from(image, offset)
    return _checked(gpa, size, number, where=f"at byte {offset:#x}", name=name)


def _checked(gpa: int, size: int, number: int, *, where: str, name: str) -> Section:
    try:
        kind = SectionKind(number)
    except ValueError:
        raise _error(name, f"has an SNP section of unknown kind {number:#x} {where}") from None
    if gpa % PAGE or size % PAGE or not 0 < size <= MAX_SECTION_SIZE or not 0 <= gpa <= FOUR_GIB - size:
        what = f"{size:#x} bytes at {gpa:#x}"
        raise _error(name, f"has an SNP section of {what}, not whole pages below 4 GiB, {where}")
    if kind in (SectionKind.SECRETS, SectionKind.CPUID, SectionKind.KERNEL_HASHES) and size != PAGE:
        raise _error(name, f"has an SNP section of kind {kind.name} with {size:#x} bytes, not one page")
    return Section(kind=kind, gpa=gpa, size=size)


def _refuse_overlaps(sections: tuple[Section, ...], *, name: str) -> None:
    ordered = sorted(sections, key=lambda section: section.gpa)
    for before, after in pairwise(ordered):
        if before.gpa + before.size > after.gpa:
            raise _error(name, f"has SNP sections that overlap at {after.gpa:#x}")


def _error(name: str, reason: str) -> SevFirmwareError:
    return SevFirmwareError(reason, subject=name, advice=_ADVICE)
