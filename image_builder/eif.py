"""Enclave image files (EIF) of version 4: what AWS Nitro Enclaves boot.

Layout (aws-nitro-enclaves-image-format, ``src/defs/mod.rs``; big endian):

- header of 548 bytes: ``.eif``, u16 version 4, u16 flags (bit 0: arm64), u64 default memory in bytes, u64
default number of CPUs, u16 0, u16 number
  of sections, 32 u64 offsets of the section headers, 32 u64 sizes of the data, u32 0, u32 CRC32 of the whole
  file without this field;
- per section a header of 12 bytes (u16 type, u16 flags 0, u64 size), then the data. In this order: kernel (1,
a bzImage), command line (2), metadata
  (5, JSON), one or more RAM disks (3), and possibly a signature (4, which this writer never makes).

The metadata has fixed content apart from what describes the image: no register covers it, but the build time
that other tools put there makes each of their files different.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO, NoReturn

import rfc8785

from image_builder.tree import BytesContent, Content
from measurements.errors import FormatError, KeyturnError

MAGIC = b".eif"
VERSION = 4
ARM64 = 0x1
MAX_SECTIONS = 32
_HEADER = struct.Struct(">4sHHQQHH32Q32QI")
_CRC = struct.Struct(">I")
HEADER_SIZE = _HEADER.size + _CRC.size
_SECTION = struct.Struct(">HHQ")
_BZIMAGE_MAGIC = (0x202, b"HdrS")
_COMMAND_LINE_LIMIT = 2047


class EifError(KeyturnError):
    """Parts that do not make an enclave image file."""

    code = "eif"


class EifSectionType(IntEnum):
    """Types of sections."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class EifSection:
    """One section: where its ``size`` bytes of data start in the file, and their SHA-384."""

    kind: EifSectionType
    offset: int
    size: int
    sha384: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Eif:
    """What an enclave image file holds; ``memory`` in bytes and ``cpus`` are the defaults that its header
    names.
    """

    size: int
    crc32: int
    arm64: bool
    memory: int
    cpus: int
    sections: tuple[EifSection, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EifDescription:
    """Who the image is, for the metadata section."""

    name: str
    version: str
    operating_system: str
    kernel_release: str


def write_eif(
    stream: BinaryIO,
    *,
    kernel: Content,
    command_line: str,
    ramdisks: Sequence[Content],
    description: EifDescription,
    memory: int = 1 << 30,
    cpus: int = 2,
) -> Eif:
    """Write an x86-64 enclave image to ``stream`` (seekable, at its start), reading every part once.

    Raises ``EifError`` for a kernel that is no bzImage, a command line that is not printable ASCII or longer
    than a kernel takes, and no RAM disk or more than fit.
    """
    _check_parts(kernel, command_line, ramdisks)
    parts = [
        (EifSectionType.KERNEL, kernel),
        (EifSectionType.CMDLINE, BytesContent(command_line.encode("ascii"))),
        (EifSectionType.METADATA, BytesContent(_metadata(description))),
        *((EifSectionType.RAMDISK, ramdisk) for ramdisk in ramdisks),
    ]
    header = _pack_header([content.size for _, content in parts], memory, cpus)
    stream.write(header + bytes(_CRC.size))
    crc = zlib.crc32(header)
    sections = []
    at = HEADER_SIZE
    for kind, content in parts:
        section, crc = _write_section(stream, kind, content, at=at, crc=crc)
        sections.append(section)
        at = section.offset + section.size
    stream.seek(len(header))
    stream.write(_CRC.pack(crc))
    stream.seek(at)
    return Eif(size=at, crc32=crc, arm64=False, memory=memory, cpus=cpus, sections=tuple(sections))


def read_eif(data: bytes | memoryview, *, subject: str = "enclave image file") -> Eif:
    """Read and check an enclave image file.

    Raises ``FormatError`` for a wrong checksum, sections in another order or with gaps, and every field that
    the format keeps zero and is not.
    """
    view = memoryview(data)
    if len(view) < HEADER_SIZE:
        _refuse_format(subject, "is shorter than its header")
    magic, version, flags, memory, cpus, reserved, count, *table, unused = _HEADER.unpack_from(view)
    (crc,) = _CRC.unpack_from(view, _HEADER.size)
    if (magic, version) != (MAGIC, VERSION):
        _refuse_format(subject, "is not an enclave image file of version 4")
    if reserved or unused or flags & ~ARM64 or count > MAX_SECTIONS:
        _refuse_format(subject, "has a header field that the format does not allow")
    if zlib.crc32(view[HEADER_SIZE:], zlib.crc32(view[: _HEADER.size])) != crc:
        _refuse_format(subject, "has a wrong checksum")
    offsets, sizes = table[:MAX_SECTIONS], table[MAX_SECTIONS:]
    if any(offsets[count:]) or any(sizes[count:]):
        _refuse_format(subject, "names places of sections that it does not have")
    sections = []
    at = HEADER_SIZE
    for offset, size in zip(offsets[:count], sizes[:count], strict=True):
        if offset != at:
            _refuse_format(subject, f"has a section at byte {offset}, not {at}")
        sections.append(_read_section(view, offset, size, subject))
        at += _SECTION.size + size
    if at != len(view):
        _refuse_format(subject, "has bytes after its last section")
    _check_order([section.kind for section in sections], subject)
    return Eif(
        size=len(view),
        crc32=crc,
        arm64=bool(flags & ARM64),
        memory=memory,
        cpus=cpus,
        sections=tuple(sections),
    )


def _check_parts(kernel: Content, command_line: str, ramdisks: Sequence[Content]) -> None:
    at, magic = _BZIMAGE_MAGIC
    start = next(iter(kernel.chunks()), b"")
    if start[at : at + len(magic)] != magic:
        _refuse("kernel", "is not a bzImage", "give the vmlinuz of an x86-64 kernel package")
    if not command_line.isascii() or not command_line.isprintable():
        _refuse("command line", "is not printable ASCII", "keep to printable ASCII characters")
    if not 0 < len(command_line) <= _COMMAND_LINE_LIMIT:
        _refuse("command line", f"has {len(command_line)} bytes", f"give 1 to {_COMMAND_LINE_LIMIT} bytes")
    most = MAX_SECTIONS - 3
    if not 0 < len(ramdisks) <= most:
        _refuse("RAM disks", f"there are {len(ramdisks)} of them", f"give 1 to {most}")


def _metadata(description: EifDescription) -> bytes:
    """The JSON that Nitro's tools expect; every field is required by them."""
    return rfc8785.dumps(
        {
            "ImageName": description.name,
            "ImageVersion": description.version,
            "BuildMetadata": {
                "BuildTime": "1970-01-01T00:00:00+00:00",
                "BuildTool": "keyturn",
                "BuildToolVersion": "1",
                "OperatingSystem": description.operating_system,
                "KernelVersion": description.kernel_release,
            },
            "DockerInfo": {},
            "CustomMetadata": {},
        }
    )


def _pack_header(sizes: list[int], memory: int, cpus: int) -> bytes:
    """The header without its CRC."""
    offsets = []
    at = HEADER_SIZE
    for size in sizes:
        offsets.append(at)
        at += _SECTION.size + size
    unused = [0] * (MAX_SECTIONS - len(sizes))
    return _HEADER.pack(MAGIC, VERSION, 0, memory, cpus, 0, len(sizes), *offsets, *unused, *sizes, *unused, 0)


def _write_section(
    stream: BinaryIO, kind: EifSectionType, content: Content, *, at: int, crc: int
) -> tuple[EifSection, int]:
    """Write one section; the section and the CRC32 of the file so far."""
    header = _SECTION.pack(kind, 0, content.size)
    stream.write(header)
    crc = zlib.crc32(header, crc)
    digest = hashlib.sha384()
    written = 0
    for piece in content.chunks():
        stream.write(piece)
        crc = zlib.crc32(piece, crc)
        digest.update(piece)
        written += len(piece)
    if written != content.size:
        reason = f"gave {written} bytes, not its {content.size}"
        _refuse(kind.name.lower(), reason, "do not change inputs during a build")
    section = EifSection(kind=kind, offset=at + len(header), size=written, sha384=digest.digest())
    return section, crc


def _read_section(view: memoryview, offset: int, size: int, subject: str) -> EifSection:
    start = offset + _SECTION.size
    if start + size > len(view):
        _refuse_format(subject, f"ends inside the section at byte {offset}")
    kind, flags, own_size = _SECTION.unpack_from(view, offset)
    if kind not in set(EifSectionType) or flags or own_size != size:
        _refuse_format(subject, f"has a bad section header at byte {offset}")
    digest = hashlib.sha384(view[start : start + size]).digest()
    return EifSection(kind=EifSectionType(kind), offset=start, size=size, sha384=digest)


def _check_order(kinds: list[EifSectionType], subject: str) -> None:
    first = [EifSectionType.KERNEL, EifSectionType.CMDLINE, EifSectionType.METADATA]
    rest = kinds[len(first) :]
    if rest[-1:] == [EifSectionType.SIGNATURE]:
        rest = rest[:-1]
    if kinds[: len(first)] != first or not rest or set(rest) != {EifSectionType.RAMDISK}:
        reason = "its sections are not kernel, command line, metadata, RAM disks and at most one signature"
        _refuse_format(subject, reason)


def _refuse_format(subject: str, reason: str) -> NoReturn:
    raise FormatError(reason, subject=subject, advice="give an intact enclave image file of version 4")


def _refuse(part: str, reason: str, advice: str) -> NoReturn:
    raise EifError(reason, subject=f"enclave image file, {part}", advice=advice)
