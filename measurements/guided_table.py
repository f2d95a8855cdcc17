"""The table of GUIDs that OVMF keeps at its end: where firmware tells a VMM about itself.

Layout (edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm; read backwards, little endian, packed)::

    ... | entry | ... | entry | footer | 32 bytes reset vector | end of the image
    entry:   data | u16 length of the entry, header included | 16 bytes GUID
    footer:  an entry without data: its length is that of the whole table, its GUID is FOOTER_GUID
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from uuid import UUID

from measurements.errors import FormatError

FOOTER_GUID = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
RESET_VECTOR = 32

_HEADER = struct.Struct("<H16s")

_ADVICE = "give an OVMF image (OVMF.fd), not its variables"


def parse_guided_table(image: bytes, *, name: str) -> Mapping[UUID, bytes]:
    """The data of every entry by GUID, in the order in which a VMM reads them (from the end).

    Raises FormatError, naming the offset, unless the image ends in a table that its lengths fill exactly and
    in which each GUID is there once.
    """
    end = len(image) - RESET_VECTOR - _HEADER.size
    if end < 0:
        raise _error(name, f"has {len(image)} bytes, too few for a table of GUIDs")
    length, guid = _HEADER.unpack_from(image, end)
    if UUID(bytes_le=guid) != FOOTER_GUID:
        raise _error(name, f"has no table of GUIDs: no {FOOTER_GUID} at byte {end + 2:#x}")
    start = end + _HEADER.size - length
    if not 0 <= start <= end:
        raise _error(name, f"has a table of GUIDs of {length} bytes at byte {end:#x}, which cannot be")
    entries: dict[UUID, bytes] = {}
    while end > start:
        end = _read_entry(image, start, end, entries, name=name)
    return entries


def _read_entry(image: bytes, start: int, end: int, entries: dict[UUID, bytes], *, name: str) -> int:
    """Add the entry that ends at ``end``; its start."""
    header = end - _HEADER.size
    if header < start:
        raise _error(name, f"has {end - start} bytes that are no entry in its table of GUIDs at {start:#x}")
    length, raw = _HEADER.unpack_from(image, header)
    begin: int = end - length
    if length < _HEADER.size or begin < start:
        raise _error(name, f"has an entry of {length} bytes in its table of GUIDs at byte {header:#x}")
    guid = UUID(bytes_le=raw)
    if guid in entries:
        raise _error(name, f"has {guid} twice in its table of GUIDs, again at byte {header:#x}")
    entries[guid] = image[begin:header]
    return begin


def _error(name: str, reason: str) -> FormatError:
    return FormatError(reason, subject=name, advice=_ADVICE)
