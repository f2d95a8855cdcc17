"""The variable store of OVMF: ``OVMF_VARS*.fd``, or the first volume of a whole ``OVMF.fd``.

Layout (UEFI PI 1.8 volume 3, section 3.2.1, and edk2 ``MdeModulePkg/Include/Guid/VariableFormat.h``; little
endian). A firmware volume header::

    16 zero bytes | 16 bytes GUID fff12b8d-7696-4c8b-a985-2747075b4f50 | u64 volume length | "_FVH"
    | u32 attributes | u16 header length | u16 checksum | u16 | u8 | u8 revision | block map

then the store's header::

    16 bytes GUID aaf32c78-947b-439a-a180-2e144ec37792 | u32 size, with this header | u8 0x5a formatted
    | u8 0xfe healthy | u16 | u32

then variables, each at a multiple of 4, until erased flash (0xFF)::

    u16 0x55aa | u8 state | u8 | u32 attributes | u64 monotonic count | 16 bytes time stamp | u32 key index
    | u32 name size | u32 data size | 16 bytes vendor GUID | name, UTF-16 with NUL | data

A state bit is *cleared* when it comes true: 0x3f is a valid variable, 0x3e one that is being replaced and
counts only if no valid one of the same name exists; everything else is gone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from measurements.efi_variable import EfiVariable
from measurements.errors import FormatError

VOLUME_GUID = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
STORE_GUID = UUID("aaf32c78-947b-439a-a180-2e144ec37792")

_VOLUME = struct.Struct("<16s16sQ4sIHHHBB")
_STORE = struct.Struct("<16sIBBHI")
_VARIABLE = struct.Struct("<HBBIQ16sIII16s")
_VARIABLE_START = 0x55AA
_ADDED = 0x3F
_ADDED_IN_TRANSITION = 0x3E


@dataclass(frozen=True, kw_only=True, slots=True)
class VariableStore:
    """The variables that firmware finds in a store."""

    variables: tuple[EfiVariable, ...]

    def get(self, name: str, vendor: UUID) -> bytes | None:
        """Data of a variable, ``None`` if there is none."""
        found = (v.data for v in self.variables if v.name == name and v.vendor == vendor)
        return next(found, None)


def parse_variable_store(data: bytes, *, subject: str = "variable store") -> VariableStore:
    """Read the store at the start of ``data``; raises ``FormatError`` if it is not an OVMF variable store."""
    area = _store_area(data, subject)
    valid: dict[tuple[str, UUID], EfiVariable] = {}
    replaced: dict[tuple[str, UUID], EfiVariable] = {}
    for state, variable in _walk(area, subject):
        key = (variable.name, variable.vendor)
        if state == _ADDED:
            valid.setdefault(key, variable)
        elif state == _ADDED_IN_TRANSITION:
            replaced.setdefault(key, variable)
    return VariableStore(variables=tuple({**replaced, **valid}.values()))


def _store_area(data: bytes, subject: str) -> bytes:
    """The bytes of the store that hold variables."""
    if len(data) < _VOLUME.size:
        raise _error("is too short for a firmware volume", subject)
    _, guid, length, magic, _, header_size, _, _, _, _ = _VOLUME.unpack_from(data)
    if magic != b"_FVH" or guid != VOLUME_GUID.bytes_le:
        raise _error("does not start with the firmware volume of an OVMF variable store", subject)
    if length > len(data) or header_size % 2 or not _VOLUME.size <= header_size <= length:
        raise _error("has a volume header whose sizes do not fit the file", subject)
    words = struct.unpack_from(f"<{header_size // 2}H", data)
    if sum(words) & 0xFFFF:
        raise _error("has a volume header with a wrong checksum", subject)
    if header_size + _STORE.size > length:
        raise _error("has no room for a store", subject)
    store_guid, size, formatted, healthy, _, _ = _STORE.unpack_from(data, header_size)
    if store_guid != STORE_GUID.bytes_le or (formatted, healthy) != (0x5A, 0xFE):
        raise _error("holds no formatted store of authenticated variables", subject)
    if not _STORE.size <= size <= length - header_size:
        raise _error("has a store that is larger than its volume", subject)
    return data[header_size + _STORE.size : header_size + size]


def _walk(area: bytes, subject: str) -> Iterator[tuple[int, EfiVariable]]:
    position = 0
    while position + _VARIABLE.size <= len(area):
        header = _VARIABLE.unpack_from(area, position)
        start, state, name_size, data_size, vendor = header[0], header[1], *header[7:10]
        if start != _VARIABLE_START:
            if area[position : position + 2] != b"\xff\xff":
                raise _error(f"has no variable and no erased flash at byte {position} of the store", subject)
            return
        name_at = position + _VARIABLE.size
        data_at = name_at + name_size
        end = data_at + data_size
        if end > len(area):
            raise _error(f"has a variable at byte {position} that passes the end of the store", subject)
        position = (end + 3) & ~3
        if state not in (_ADDED, _ADDED_IN_TRANSITION):
            continue
        name = _name(area[name_at:data_at], subject)
        yield state, EfiVariable(name=name, vendor=UUID(bytes_le=vendor), data=area[data_at:end])


def _name(raw: bytes, subject: str) -> str:
    try:
        name = raw.decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise _error("has a variable whose name is not UTF-16", subject) from error
    if not name.endswith("\0"):
        raise _error("has a variable whose name has no end", subject)
    return name[:-1]


def _error(reason: str, subject: str) -> FormatError:
    return FormatError(
        reason,
        subject=subject,
        advice="give the OVMF_VARS file that belongs to the firmware, e.g. /usr/share/OVMF/OVMF_VARS_4M.fd",
    )
