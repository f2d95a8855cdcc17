"""PE images: their headers, their sections, and the Authenticode digest that firmware measures and checks.

Layout (Microsoft PE Format, revision of 2024; little endian): ``MZ``, u32 offset of the PE header at 0x3c,
there ``PE\\0\\0``, then the COFF header (20 bytes: u16 machine, u16 number of sections, u32 time stamp, u32
symbol table offset, u32 number of symbols, u16 size of the optional header, u16 characteristics), then the
optional header (PE32: magic 0x10b, data directories from 96; PE32+: magic 0x20b, data directories from 112;
in both u32 size of initialised data at 8, section alignment at 32, file alignment at 36, size of image at 56,
size of headers at 60, checksum at 64; directory 4 is the certificate table, as file offset and size), then
one header of 40 bytes per section.

The digest follows edk2 (``MeasurePeImageAndExtend`` in DxeTpm2MeasureBootLib, "Windows Authenticode Portable
Executable Signature Format" section "Calculating the PE Image Hash"): all headers without the checksum and
the certificate directory entry, the sections by file offset, then the bytes after the *summed* sizes less the
size of the certificate table. edk2 does not pad the last bytes to 8, while signing tools do.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from measurements.errors import FormatError
from measurements.events import Bank

PE_SIGNATURE = b"PE\0\0"
COFF_SIZE = 20
SECTION_HEADER_SIZE = 40
_COFF = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_DIRECTORY = struct.Struct("<II")
_CERTIFICATE_DIRECTORY = 4
_DIRECTORIES_AT = {0x10B: 96, 0x20B: 112}
_CHECKSUM_AT = 64
_LOADER_INFO = re.compile(rb"#### LoaderInfo: systemd-stub (([0-9]{1,9})(?![0-9])[!-~]*) ####\0*")

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, kw_only=True, slots=True)
class PeSection:
    """One section header; ``name`` without its NUL padding, sizes and offsets in bytes."""

    name: str
    virtual_size: int
    virtual_address: int
    raw_size: int
    raw_offset: int
    characteristics: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateEntry:
    """The certificate table's data directory: where the entry is in the headers, and the file range it names
    (size 0: no signature).
    """

    entry_offset: int
    table_offset: int
    table_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PeFile:
    """The headers of a PE image.

    Offsets are file offsets. ``certificate_entry`` is ``None`` if there is no such directory at all.
    """

    machine: int
    time_stamp: int
    symbol_table_offset: int
    coff_offset: int
    optional_header_offset: int
    size_of_initialised_data: int
    section_alignment: int
    file_alignment: int
    size_of_image: int
    size_of_headers: int
    checksum_offset: int
    certificate_entry: CertificateEntry | None
    section_table_offset: int
    sections: tuple[PeSection, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StubVersion:
    """Version of a systemd-stub: the packaged text (``257.13-1~deb13u1``) and its first number."""

    text: str
    major: int


def parse_pe(data: Bytes, *, subject: str = "PE image") -> PeFile:
    """Read the headers of ``data``; ``subject`` names it in errors.

    Raises ``FormatError`` unless every header, section and the certificate table lie inside ``data``.
    """
    view = memoryview(data)
    if bytes(view[:2]) != b"MZ":
        _refuse(subject, "does not start with MZ")
    (pe_offset,) = struct.unpack("<I", _slice(view, 0x3C, 4, subject, "the DOS header"))
    if bytes(_slice(view, pe_offset, 4, subject, "the PE signature")) != PE_SIGNATURE:
        _refuse(subject, "has no PE signature")
    coff_offset = pe_offset + 4
    machine, count, time_stamp, symbols, _, optional_size, _ = _COFF.unpack(
        _slice(view, coff_offset, COFF_SIZE, subject, "the COFF header")
    )
    optional_offset = coff_offset + COFF_SIZE
    optional = _slice(view, optional_offset, optional_size, subject, "the optional header")
    directories_at = _directories_at(optional, subject)
    section_alignment, file_alignment = struct.unpack_from("<II", optional, 32)
    (initialised,) = struct.unpack_from("<I", optional, 8)
    size_of_image, size_of_headers = struct.unpack_from("<II", optional, 56)
    table_offset = optional_offset + optional_size
    if not table_offset + count * SECTION_HEADER_SIZE <= size_of_headers <= len(view):
        _refuse(
            subject, "its section table passes SizeOfHeaders, or SizeOfHeaders passes the end of the file"
        )
    return PeFile(
        machine=machine,
        time_stamp=time_stamp,
        symbol_table_offset=symbols,
        coff_offset=coff_offset,
        optional_header_offset=optional_offset,
        size_of_initialised_data=initialised,
        section_alignment=section_alignment,
        file_alignment=file_alignment,
        size_of_image=size_of_image,
        size_of_headers=size_of_headers,
        checksum_offset=optional_offset + _CHECKSUM_AT,
        certificate_entry=_certificate_entry(view, optional, optional_offset, directories_at, subject),
        section_table_offset=table_offset,
        sections=tuple(_sections(view, table_offset, count, subject)),
    )


def authenticode_digest(data: Bytes, bank: Bank, *, subject: str = "PE image") -> bytes:
    """Digest of the PE image ``data`` as edk2 measures it into PCR 4 and compares it with a signature.

    Raises ``FormatError`` for bytes that ``parse_pe`` refuses, and where the sections and the certificate
    table together exceed the file.
    """
    pe = parse_pe(data, subject=subject)
    view = memoryview(data)
    digest = hashlib.new(bank.value)
    for start, end in _hashed_ranges(pe, len(view), subject):
        digest.update(view[start:end])
    return digest.digest()


def section_data(pe: PeFile, data: Bytes, name: str, *, subject: str = "PE image") -> bytes:
    """The first ``VirtualSize`` bytes of the section ``name``: its bytes without file padding, as
    systemd-stub measures them.

    Raises ``FormatError`` if there is not exactly one such section, or if the file has fewer bytes than its
    virtual size (none of the sections that a UKI carries is like that; memory beyond the file would be
    zeros).
    """
    found = [section for section in pe.sections if section.name == name]
    if len(found) != 1:
        _refuse(subject, f"has {len(found)} sections {name}, not 1")
    return section_content(found[0], data, subject=subject)


def section_content(section: PeSection, data: Bytes, *, subject: str = "PE image") -> bytes:
    """The same of one section of ``data``."""
    if section.virtual_size > section.raw_size:
        _refuse(subject, f"section {section.name} is larger in memory than in the file")
    return bytes(memoryview(data)[section.raw_offset : section.raw_offset + section.virtual_size])


def stub_version(data: Bytes, *, subject: str = "PE image") -> StubVersion:
    """Version of the systemd-stub that ``data`` is or was built on, from its ``.sdmagic`` section.

    Raises ``FormatError`` for any other image.
    """
    pe = parse_pe(data, subject=subject)
    magic = _LOADER_INFO.fullmatch(section_data(pe, data, ".sdmagic", subject=subject))
    if magic is None:
        _refuse(subject, "its .sdmagic section does not name a systemd-stub version")
    return StubVersion(text=magic[1].decode("ascii"), major=int(magic[2]))


def _directories_at(optional: memoryview, subject: str) -> int:
    """Offset of the first data directory in the optional header."""
    magic = struct.unpack_from("<H", optional)[0] if len(optional) >= 2 else None
    directories_at = _DIRECTORIES_AT.get(magic) if magic is not None else None
    if directories_at is None or len(optional) < directories_at:
        _refuse(subject, "its optional header is neither PE32 nor PE32+, or is cut short")
    return directories_at


def _certificate_entry(
    view: memoryview, optional: memoryview, optional_offset: int, directories_at: int, subject: str
) -> CertificateEntry | None:
    (count,) = struct.unpack_from("<I", optional, directories_at - 4)
    if directories_at + count * _DIRECTORY.size > len(optional):
        _refuse(subject, "its data directories pass the end of the optional header")
    if count <= _CERTIFICATE_DIRECTORY:
        return None
    entry_at = directories_at + _CERTIFICATE_DIRECTORY * _DIRECTORY.size
    table_offset, table_size = _DIRECTORY.unpack_from(optional, entry_at)
    if table_size and table_offset + table_size > len(view):
        _refuse(subject, "its certificate table passes the end of the file")
    return CertificateEntry(
        entry_offset=optional_offset + entry_at, table_offset=table_offset, table_size=table_size
    )


def _sections(view: memoryview, table_offset: int, count: int, subject: str) -> Iterator[PeSection]:
    for index in range(count):
        header = view[table_offset + index * SECTION_HEADER_SIZE :][:SECTION_HEADER_SIZE]
        name, virtual_size, virtual_address, raw_size, raw_offset, *_, characteristics = _SECTION.unpack(
            header
        )
        if raw_size and raw_offset + raw_size > len(view):
            _refuse(subject, f"section {index} passes the end of the file")
        yield PeSection(
            name=name.rstrip(b"\0").decode("latin-1"),
            virtual_size=virtual_size,
            virtual_address=virtual_address,
            raw_size=raw_size,
            raw_offset=raw_offset,
            characteristics=characteristics,
        )


def _hashed_ranges(pe: PeFile, size: int, subject: str) -> Iterator[tuple[int, int]]:
    """File ranges (start, end) in the order in which edk2 hashes them."""
    yield 0, pe.checksum_offset
    certificate = pe.certificate_entry
    if certificate is None:
        yield pe.checksum_offset + 4, pe.size_of_headers
    else:
        yield pe.checksum_offset + 4, certificate.entry_offset
        yield certificate.entry_offset + _DIRECTORY.size, pe.size_of_headers
    hashed = pe.size_of_headers
    for section in sorted(pe.sections, key=lambda section: section.raw_offset):
        if section.raw_size:
            yield section.raw_offset, section.raw_offset + section.raw_size
            hashed += section.raw_size
    end = size - (certificate.table_size if certificate else 0)
    if hashed > size:
        return
    if hashed > end:
        _refuse(subject, "its sections and its certificate table overlap")
    yield hashed, end


def _slice(view: memoryview, start: int, length: int, subject: str, what: str) -> memoryview:
    piece = view[start : start + length]
    if len(piece) != length:
        _refuse(subject, f"ends inside {what}")
    return piece


def _refuse(subject: str, reason: str) -> NoReturn:
    raise FormatError(
        reason,
        subject=subject,
        advice="give an intact PE image: an EFI program, a UKI or a kernel with EFI stub",
    )
