"""Enclave image files (EIF) of version 4: what AWS Nitro Enclaves boot.

The layout is that of ``measurements.nitro.eif``, whose reader takes these files. Written are one kernel (a
bzImage), the command line, the metadata (JSON) and one or more RAM disks, in this order and never signed.

The metadata has fixed content apart from what describes the image: no register covers it, but the build time
that other tools put there makes each of their files different.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

import rfc8785

from image_builder.tree import BytesContent, Content
from measurements.errors import KeyturnError
from measurements.nitro.eif import (
    CRC,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    MAX_SECTIONS,
    SECTION_HEADER,
    Eif,
    EifSection,
    EifSectionType,
)

_BZIMAGE_MAGIC = (0x202, b"HdrS")
_COMMAND_LINE_LIMIT = 2047
_VERSION = 4


class EifError(KeyturnError):
    """Parts that do not make an enclave image file."""

    code = "eif"


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
    stream.write(header + bytes(CRC.size))
    crc = zlib.crc32(header)
    sections = []
    at = HEADER_SIZE
    for kind, content in parts:
        section, crc = _write_section(stream, kind, content, at=at, crc=crc)
        sections.append(section)
        at = section.offset + section.size
    stream.seek(len(header))
    stream.write(CRC.pack(crc))
    stream.seek(at)
    return Eif(
        version=_VERSION, size=at, crc32=crc, arm64=False, memory=memory, cpus=cpus, sections=tuple(sections)
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
        at += SECTION_HEADER.size + size
    unused = [0] * (MAX_SECTIONS - len(sizes))
    return HEADER.pack(MAGIC, _VERSION, 0, memory, cpus, 0, len(sizes), *offsets, *unused, *sizes, *unused, 0)


def _write_section(
    stream: BinaryIO, kind: EifSectionType, content: Content, *, at: int, crc: int
) -> tuple[EifSection, int]:
    """Write one section; the section and the CRC32 of the file so far."""
    header = SECTION_HEADER.pack(kind, 0, content.size)
    stream.write(header)
    crc = zlib.crc32(header, crc)
    written = 0
    for piece in content.chunks():
        stream.write(piece)
        crc = zlib.crc32(piece, crc)
        written += len(piece)
    if written != content.size:
        reason = f"gave {written} bytes, not its {content.size}"
        _refuse(kind.name.lower(), reason, "do not change inputs during a build")
    section = EifSection(kind=kind, offset=at + len(header), size=written)
    return section, crc


def _refuse(part: str, reason: str, advice: str) -> NoReturn:
    raise EifError(reason, subject=f"enclave image file, {part}", advice=advice)
