"""IGVM files: what a loader puts into a guest before it starts, as a list of directives.

Layout (microsoft/igvm, igvm_defs; little endian)::

    u32 "IGVM" | u32 version | u32 offset and u32 size of the variable headers | u32 size of the file
    | u32 CRC-32 of this header, with zero here, and the variable headers
    | version 2: u32 architecture 0 (x86-64) | u32 page size 4096
    variable header:  u32 type | u32 length | contents | zeros up to a multiple of 8

First come the platforms, then what prepares each of them, then the directives. Most name the platforms that
they are for by a mask, of which each platform has one bit. Data of pages and processors lies anywhere in the
file; a page at file offset 0 is one of zeros. The bodies of the headers are the classes below, their fields
in order.

Types, fields and flags that are not known are refused, even where a loader may ignore them: whether it does
would decide what is measured.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from measurements.errors import FormatError

MAX_FILE = 1 << 30
MAX_HEADERS = 1 << 20

_MAGIC = b"IGVM"
_FIXED = struct.Struct("<4sIIIII")
_FIXED_2 = struct.Struct("<II")
_CHECKSUM = 20
_HEADER = struct.Struct("<II")


class IgvmError(FormatError):
    """Bytes that are no IGVM file, or one that is not understood."""

    code = "igvm"


class HeaderType(IntEnum):
    """Types of variable headers."""

    SUPPORTED_PLATFORM = 0x1
    GUEST_POLICY = 0x101
    RELOCATABLE_REGION = 0x102
    PAGE_TABLE_RELOCATION = 0x103
    PARAMETER_AREA = 0x301
    PAGE_DATA = 0x302
    PARAMETER_INSERT = 0x303
    VP_CONTEXT = 0x304
    REQUIRED_MEMORY = 0x305
    VP_COUNT = 0x307
    SRAT = 0x308
    MADT = 0x309
    MMIO_RANGES = 0x30A
    SNP_ID_BLOCK = 0x30B
    MEMORY_MAP = 0x30C
    ERROR_RANGE = 0x30D
    COMMAND_LINE = 0x30E
    SLIT = 0x30F
    PPTT = 0x310
    VBS_MEASUREMENT = 0x311
    DEVICE_TREE = 0x312
    ENVIRONMENT_INFO = 0x313

    @property
    def stage(self) -> int:
        """0 for platforms, 1 for preparations, 2 for directives."""
        return 0 if self.value <= 0x100 else 1 if self.value <= 0x200 else 2


class PlatformType(IntEnum):
    """Platforms of IGVM files."""

    NATIVE = 0
    VSM = 1
    SEV_SNP = 2
    TDX = 3
    SEV = 4
    SEV_ES = 5


class PageFlag(IntFlag):
    """Flags of pages."""

    LARGE = 1 << 0
    UNMEASURED = 1 << 1
    SHARED = 1 << 2


class DataType(IntEnum):
    """What a page holds."""

    NORMAL = 0
    SECRETS = 1
    CPUID = 2
    CPUID_EXTENDED = 3


class SupportedPlatform(NamedTuple):
    """A platform that the file is for; ``mask`` has one bit."""

    mask: int
    highest_vtl: int
    platform: int
    version: int
    shared_boundary: int


class Policy(NamedTuple):
    """The policy that guests of some platforms start with."""

    policy: int
    mask: int
    reserved: int


class Relocation(NamedTuple):
    """Memory or page tables that a loader may move; only that some platform has them matters here."""

    mask: int
    rest: bytes


class ParameterArea(NamedTuple):
    """Memory that the loader fills with what it knows of the machine."""

    size: int
    area: int
    file_offset: int


class PageData(NamedTuple):
    """One page of the guest."""

    gpa: int
    mask: int
    file_offset: int
    flags: int
    data_type: int
    reserved: int


class ParameterInsert(NamedTuple):
    """Where a parameter area goes."""

    gpa: int
    mask: int
    area: int


class VpContext(NamedTuple):
    """The state in which a processor starts; for SNP its save area."""

    gpa: int
    mask: int
    file_offset: int
    vp_index: int
    reserved: int


class RequiredMemory(NamedTuple):
    """Memory that has to be there; it is not measured."""

    gpa: int
    mask: int
    size: int
    flags: int
    reserved: int


class Parameter(NamedTuple):
    """What the loader writes into a parameter area, told by the type of the header."""

    area: int
    byte_offset: int


class ErrorRange(NamedTuple):
    """Memory shared with the host for errors; it is not measured."""

    gpa: int
    mask: int
    size: int


class SnpIdBlock(NamedTuple):
    """An ID block with its keys and signatures, each key as curve, zero, x, y, each signature as r and s."""

    mask: int
    author_key_enabled: int
    reserved: bytes
    launch_digest: bytes
    family_id: bytes
    image_id: bytes
    version: int
    guest_svn: int
    id_algorithm: int
    author_algorithm: int
    block_signature: bytes
    id_key: bytes
    id_key_signature: bytes
    author_key: bytes


class VbsMeasurement(NamedTuple):
    """A measurement for another platform."""

    mask: int
    rest: bytes


Body = (
    SupportedPlatform
    | Policy
    | Relocation
    | ParameterArea
    | PageData
    | ParameterInsert
    | VpContext
    | RequiredMemory
    | Parameter
    | ErrorRange
    | SnpIdBlock
    | VbsMeasurement
)

_PARAMETER = ("<II", Parameter)
_BODIES: Mapping[HeaderType, tuple[str, Callable[..., Body]]] = {
    HeaderType.SUPPORTED_PLATFORM: ("<IBBHQ", SupportedPlatform),
    HeaderType.GUEST_POLICY: ("<QII", Policy),
    HeaderType.RELOCATABLE_REGION: ("<I44s", Relocation),
    HeaderType.PAGE_TABLE_RELOCATION: ("<I28s", Relocation),
    HeaderType.PARAMETER_AREA: ("<QII", ParameterArea),
    HeaderType.PAGE_DATA: ("<QIIIHH", PageData),
    HeaderType.PARAMETER_INSERT: ("<QII", ParameterInsert),
    HeaderType.VP_CONTEXT: ("<QIIHH", VpContext),
    HeaderType.REQUIRED_MEMORY: ("<QIIII", RequiredMemory),
    HeaderType.SNP_ID_BLOCK: ("<IB3s48s16s16sIIII144s152s144s152s", SnpIdBlock),
    HeaderType.ERROR_RANGE: ("<QII", ErrorRange),
    HeaderType.VBS_MEASUREMENT: ("<I860s", VbsMeasurement),
    HeaderType.VP_COUNT: _PARAMETER,
    HeaderType.SRAT: _PARAMETER,
    HeaderType.MADT: _PARAMETER,
    HeaderType.MMIO_RANGES: _PARAMETER,
    HeaderType.MEMORY_MAP: _PARAMETER,
    HeaderType.COMMAND_LINE: _PARAMETER,
    HeaderType.SLIT: _PARAMETER,
    HeaderType.PPTT: _PARAMETER,
    HeaderType.DEVICE_TREE: _PARAMETER,
    HeaderType.ENVIRONMENT_INFO: _PARAMETER,
}
_STRUCTS = {kind: (struct.Struct(layout), make) for kind, (layout, make) in _BODIES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """One variable header; ``offset`` is its place in the file."""

    kind: HeaderType
    offset: int
    body: Body


@dataclass(frozen=True, kw_only=True, slots=True)
class IgvmFile:
    """A file: its bytes and its headers in their order."""

    name: str
    data: bytes
    version: int
    headers: tuple[Header, ...]

    @property
    def platforms(self) -> tuple[SupportedPlatform, ...]:
        """The platforms that the file is for."""
        return tuple(header.body for header in self.headers if isinstance(header.body, SupportedPlatform))


def parse_igvm(data: bytes, *, name: str) -> IgvmFile:
    """The headers of a file; raises IgvmError, naming the offset, for anything that is not as laid out.

    File offsets in the headers are checked where the data is used.
    """
    if len(data) < _FIXED.size or data[:4] != _MAGIC:
        raise igvm_error(name, 'does not begin with "IGVM"')
    _magic, version, start, size, total, checksum = _FIXED.unpack_from(data)
    fixed = _fixed_size(data, version, name)
    if total != len(data) or total > MAX_FILE:
        raise igvm_error(name, f"has {len(data)} bytes, but says {total} at byte 16")
    if start < fixed or start % 8 or size % 8 or start + size > len(data):
        raise igvm_error(
            name, f"has variable headers of {size} bytes at byte {start}, outside or out of line"
        )
    clean = data[:_CHECKSUM] + bytes(4) + data[_CHECKSUM + 4 : fixed]
    found = zlib.crc32(data[start : start + size], zlib.crc32(clean))
    if found != checksum:
        raise igvm_error(name, f"has checksum {found:#010x}, but says {checksum:#010x} at byte {_CHECKSUM}")
    headers = _headers(data, start, start + size, name)
    _check_platforms(headers, name)
    return IgvmFile(name=name, data=data, version=version, headers=headers)


def _fixed_size(data: bytes, version: int, name: str) -> int:
    """Size of the fixed header."""
    if version == 1:
        return _FIXED.size
    if version != 2 or len(data) < _FIXED.size + _FIXED_2.size:
        raise igvm_error(name, f"is of version {version} at byte 4; known are 1 and 2")
    machine = _FIXED_2.unpack_from(data, _FIXED.size)
    if machine != (0, 4096):
        raise igvm_error(
            name, f"has architecture and page size {machine} at byte {_FIXED.size}, not (0, 4096)"
        )
    return _FIXED.size + _FIXED_2.size


def _headers(data: bytes, start: int, end: int, name: str) -> tuple[Header, ...]:
    headers: list[Header] = []
    stage = 0
    while start < end:
        header, start = _header(data, start, end, name)
        if header.kind.stage < stage:
            raise igvm_error(name, f"has {header.kind.name} at byte {header.offset} after a later stage")
        stage = header.kind.stage
        headers.append(header)
        if len(headers) > MAX_HEADERS:
            raise igvm_error(name, f"has more than {MAX_HEADERS} variable headers")
    return tuple(headers)


def _header(data: bytes, offset: int, end: int, name: str) -> tuple[Header, int]:
    """The header at ``offset`` and where the next one begins."""
    number, length = _HEADER.unpack_from(data, offset)
    try:
        kind = HeaderType(number)
    except ValueError:
        raise igvm_error(name, f"has a header of unknown type {number:#x} at byte {offset}") from None
    layout, make = _STRUCTS[kind]
    body = offset + _HEADER.size
    after = body + (length + 7) // 8 * 8
    if length != layout.size or after > end:
        raise igvm_error(name, f"has {kind.name} of {length} bytes at byte {offset}, not {layout.size}")
    if any(data[body + length : after]):
        raise igvm_error(name, f"has padding that is not zero after {kind.name} at byte {offset}")
    fields: tuple[Any, ...] = layout.unpack_from(data, body)
    header = Header(kind=kind, offset=offset, body=make(*fields))
    if getattr(header.body, "reserved", 0) not in (0, bytes(3)):
        raise igvm_error(name, f"has reserved bytes that are not zero in {kind.name} at byte {offset}")
    return header, after


def _check_platforms(headers: tuple[Header, ...], name: str) -> None:
    used = 0
    for header in headers:
        if isinstance(header.body, SupportedPlatform):
            mask = header.body.mask
            if mask.bit_count() != 1 or mask & used:
                raise igvm_error(name, f"has a platform with mask {mask:#x} at byte {header.offset}")
            used |= mask
    for header in headers:
        if getattr(header.body, "mask", 0) & ~used:
            raise igvm_error(
                name, f"has {header.kind.name} at byte {header.offset} for no platform of the file"
            )


def igvm_error(name: str, reason: str) -> IgvmError:
    """The error for a file."""
    return IgvmError(reason, subject=name, advice="give the IGVM file as its build made it")
