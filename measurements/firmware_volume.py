"""UEFI firmware volumes, the files in them, and the sections of those files.

Layout (UEFI PI 1.8, volume 3, chapters 2 and 3; little endian):

* volume header: 16 zero bytes, 16 file system GUID, u64 length, ``_FVH``, u32 attributes, u16 header length,
  u16 checksum (the u16 of the header add up to 0), u16 offset of the extended header (or 0), u8, u8 revision;
  the extended header holds the volume's name GUID and its own u32 size. Files follow, each aligned to 8;
* file header (24 bytes): GUID, u16 checks, u8 type, u8 attributes (bit 0: a u64 size follows), u24 size with
  header, u8 state; the free space after the last file is all ones;
* section header (4 bytes): u24 size with header (all ones: a u32 size follows), u8 type; aligned to 4;
  type 0x02 is compressed or signed data: GUID of the method, u16 offset of the data, u16 attributes.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn
from uuid import UUID

from measurements.errors import KeyturnError

LZMA_METHOD = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
MAX_UNPACKED = 256 << 20

SECTION_GUIDED = 0x02
SECTION_PE32 = 0x10
SECTION_UI_NAME = 0x15
SECTION_VOLUME = 0x17
FILE_PEI_CORE = 0x04
FILE_PEIM = 0x06
FILE_VOLUME_IMAGE = 0x0B
FILE_PADDING = 0xF0

_VOLUME = struct.Struct("<16s16sQ4sIHHHBB")
_FILE = struct.Struct("<16sHBB3sB")
_GUIDED = struct.Struct("<16sHH")
_EXTENDED = struct.Struct("<16sI")
_FREE = b"\xff" * _FILE.size


class FirmwareError(KeyturnError):
    """A file that is not a firmware whose measurements are known."""

    code = "firmware"


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section: ``start`` is the offset of its payload in the volume (or other bytes) it was read from."""

    kind: int
    start: int
    payload: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareFile:
    """One file of a volume; ``name`` is its user interface name, empty if it has none."""

    guid: UUID
    kind: int
    sections: tuple[Section, ...]

    @property
    def name(self) -> str:
        """Name in the UI section."""
        for section in self.sections:
            if section.kind == SECTION_UI_NAME:
                return section.payload.decode("utf-16-le", errors="replace").rstrip("\0")
        return ""

    def section(self, kind: int) -> Section | None:
        """The first section of a kind."""
        return next((section for section in self.sections if section.kind == kind), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareVolume:
    """One volume: its bytes, its name GUID (None without extended header) and where its files begin."""

    data: bytes
    name: UUID | None
    files_at: int

    def files(self) -> Iterator[FirmwareFile]:
        """Its files, without padding; raises FirmwareError where sizes do not fit."""
        position = _align(self.files_at, 8)
        while (raw := self.data[position : position + _FILE.size]) != _FREE and len(raw) == _FILE.size:
            guid, _, kind, attributes, size24, _ = _FILE.unpack(raw)
            size, header = int.from_bytes(size24, "little"), _FILE.size
            if attributes & 1:
                size, header = _u64(self.data, position + _FILE.size), _FILE.size + 8
            end = position + size
            if size < header or end > len(self.data):
                _refuse("a file in a volume has an impossible size")
            if kind != FILE_PADDING:
                sections = tuple(_sections_if_any(self.data, position + header, end, kind))
                yield FirmwareFile(guid=UUID(bytes_le=guid), kind=kind, sections=sections)
            position = _align(end, 8)


def parse_volume(data: bytes) -> FirmwareVolume:
    """The volume that starts ``data``; raises FirmwareError if there is none or it does not fit."""
    if len(data) < _VOLUME.size:
        _refuse("a volume is cut short")
    _, _, length, magic, _, header, _, extended, _, _ = _VOLUME.unpack_from(data)
    if magic != b"_FVH" or not _VOLUME.size <= header <= length <= len(data):
        _refuse("a volume header is damaged")
    if sum(struct.unpack_from(f"<{header // 2}H", data)) & 0xFFFF:
        _refuse("a volume header has a wrong checksum")
    body = data[:length]
    if not extended:
        return FirmwareVolume(data=body, name=None, files_at=header)
    if extended + _EXTENDED.size > length:
        _refuse("an extended volume header passes the end")
    name, size = _EXTENDED.unpack_from(body, extended)
    return FirmwareVolume(data=body, name=UUID(bytes_le=name), files_at=extended + size)


def find_volumes(data: bytes) -> Iterator[FirmwareVolume]:
    """Every intact volume in a flash image, in order; volumes inside compressed sections are not seen."""
    position = 0
    while (found := data.find(b"_FVH", position)) >= 0:
        start = found - 40
        position = found + 4
        if start < 0:
            continue
        try:
            volume = parse_volume(data[start:])
        except FirmwareError:
            continue
        yield volume
        position = start + len(volume.data)


def sections_of(data: bytes, *, start: int = 0, end: int | None = None) -> Iterator[Section]:
    """The sections in ``data[start:end]``; raises FirmwareError where sizes do not fit."""
    limit = len(data) if end is None else end
    position = start
    while position + 4 <= limit:
        size, header = int.from_bytes(data[position : position + 3], "little"), 4
        if size == 0xFFFFFF and position + 8 <= limit:
            size, header = int.from_bytes(data[position + 4 : position + 8], "little"), 8
        if size < header or position + size > limit:
            _refuse("a section has an impossible size")
        payload_at = position + header
        yield Section(kind=data[position + 3], start=payload_at, payload=data[payload_at : position + size])
        position = start + _align(position + size - start, 4)
    return None


def is_lzma(section: Section) -> bool:
    """Whether a section is compressed with LZMA."""
    if section.kind != SECTION_GUIDED or len(section.payload) < _GUIDED.size:
        return False
    return UUID(bytes_le=section.payload[:16]) == LZMA_METHOD


def unpack_lzma(section: Section) -> bytes:
    """The content of an LZMA section; raises FirmwareError for damaged data."""
    _, offset, _ = _GUIDED.unpack_from(section.payload)
    # The offset counts from the section's header, which is 4 bytes or, for large sections, 8.
    stream = section.payload[offset - (8 if len(section.payload) + 4 >= 0xFFFFFF else 4) :]
    size = int.from_bytes(stream[5:13], "little")
    if size > MAX_UNPACKED:
        _refuse("a compressed section claims an impossible size")
    try:
        content = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(stream, size + 1)
    except lzma.LZMAError as problem:
        raise FirmwareError(
            f"a compressed section is damaged ({problem})",
            subject="firmware",
            advice="reinstall the firmware",
        ) from problem
    if len(content) != size:
        _refuse("a compressed section is not of the size that it claims")
    return content


def _sections_if_any(data: bytes, start: int, end: int, kind: int) -> Iterator[Section]:
    # Raw files (types 0x01 and below, and free-form application data) need not consist of sections.
    if kind in (FILE_PEI_CORE, FILE_PEIM, FILE_VOLUME_IMAGE) or 0x05 <= kind <= 0x0F:
        yield from sections_of(data, start=start, end=end)


def _u64(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 8], "little")


def _align(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _refuse(reason: str) -> NoReturn:
    raise FirmwareError(
        reason, subject="firmware", advice="give an intact OVMF file, such as OVMF_CODE_4M.fd"
    )
