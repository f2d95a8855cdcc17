"""Reads what a build needs of ELF files: what a program asks the dynamic loader for, and a section by name.

Format (System V ABI, "Object Files"; 64 bits, little-endian, which is what amd64 has):

- header: magic and class; at 32 u64 offsets of the program headers and of the section headers; at 54 u16 size
  and number of the former, size and number of the latter, index of the section that holds their names
- program header: u32 type, u32 flags, u64 offset, address, physical address, size in the file, ...
- section header: u32 name, u32 type, u64 flags, address, offset, size, u32 link, ...; where the numbers do
  not fit the header, the first section's size and link hold the number and the index
- dynamic entries: i64 tag, u64 value; tag 0 ends the list
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_IDENT: Final = b"\x7fELF\x02\x01"
_OFFSETS: Final = struct.Struct("<32xQQ")
_TABLES: Final = struct.Struct("<54xHHHHH")
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_SECTION: Final = struct.Struct("<IIQQQQII")
_ENTRY: Final = struct.Struct("<qQ")
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NO_BITS = 8
_END, _NEEDED, _STRINGS, _RPATH, _STRINGS_SIZE, _RUNPATH = 0, 1, 5, 15, 10, 29
_EXTENDED_INDEX = 0xFFFF


class ElfFormatError(ValueError):
    """Bytes that are not an ELF file of this kind, or a damaged one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dynamic:
    """What a program asks the loader for; ``run_path`` is in the order of searching."""

    interpreter: str
    needed: tuple[str, ...]
    run_path: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read_dynamic_section(data: bytes) -> Dynamic:
    """The loader's instructions in ``data``; all are empty in a static program."""
    segments = list(_segments(data))
    interpreter = next((each for each in segments if each.kind == _INTERPRETER), None)
    dynamic = next((each for each in segments if each.kind == _DYNAMIC), None)
    entries = [] if dynamic is None else list(_entries(_part(data, dynamic.offset, dynamic.size)))
    values = {tag: value for tag, value in entries if tag in (_STRINGS, _STRINGS_SIZE)}
    strings = b""
    if _STRINGS in values:
        strings = _part(data, _file_offset(segments, values[_STRINGS]), values.get(_STRINGS_SIZE, 0))
    texts = {
        wanted: [_text(strings, value) for tag, value in entries if tag == wanted]
        for wanted in (_NEEDED, _RUNPATH, _RPATH)
    }
    paths = [folder for entry in texts[_RUNPATH] + texts[_RPATH] for folder in entry.split(":") if folder]
    return Dynamic(
        interpreter=""
        if interpreter is None
        else _text(_part(data, interpreter.offset, interpreter.size), 0),
        needed=tuple(texts[_NEEDED]),
        run_path=tuple(paths),
    )


def read_section(data: bytes, name: str) -> bytes | None:
    """The bytes of the first section called ``name``; ``None`` if there is none."""
    _check_ident(data)
    _, table = _unpack(_OFFSETS, data, 0)
    _, _, entry_size, count, names_index = _unpack(_TABLES, data, 0)
    if not table:
        return None
    first = _section(data, table)
    count = count or first.size
    names_index = first.link if names_index == _EXTENDED_INDEX else names_index
    if entry_size < _SECTION.size or names_index >= count or table + count * entry_size > len(data):
        raise ElfFormatError("its section headers are damaged")
    names = _section(data, table + names_index * entry_size).bytes_of(data)
    for index in range(count):
        section = _section(data, table + index * entry_size)
        if section.kind not in (0, _NO_BITS) and _text(names, section.name) == name:
            return section.bytes_of(data)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    name: int
    kind: int
    offset: int
    size: int
    link: int

    def bytes_of(self, data: bytes) -> bytes:
        return _part(data, self.offset, self.size)


def _section(data: bytes, at: int) -> _Section:
    name, kind, _, _, offset, size, link, _ = _unpack(_SECTION, data, at)
    return _Section(name=name, kind=kind, offset=offset, size=size, link=link)


def _segments(data: bytes) -> Iterator[_Segment]:
    _check_ident(data)
    table, _ = _unpack(_OFFSETS, data, 0)
    entry_size, count, *_ = _unpack(_TABLES, data, 0)
    if count and entry_size < _PROGRAM.size:
        raise ElfFormatError("its program headers are damaged")
    for index in range(count):
        kind, _, offset, address, _, size, _, _ = _unpack(_PROGRAM, data, table + index * entry_size)
        yield _Segment(kind=kind, offset=offset, address=address, size=size)


def _entries(section: bytes) -> Iterator[tuple[int, int]]:
    for tag, value in _ENTRY.iter_unpack(section[: len(section) // _ENTRY.size * _ENTRY.size]):
        if tag == _END:
            return
        yield tag, value


def _file_offset(segments: list[_Segment], address: int) -> int:
    for segment in segments:
        if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    raise ElfFormatError("its dynamic section points outside of the file")


def _check_ident(data: bytes) -> None:
    if not data.startswith(_IDENT):
        raise ElfFormatError("is not an ELF file of 64 bits")


def _unpack(form: struct.Struct, data: bytes, offset: int) -> tuple[Any, ...]:
    if offset + form.size > len(data):
        raise ElfFormatError("ends in the middle of a header")
    return form.unpack_from(data, offset)


def _part(data: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise ElfFormatError("ends early")
    return data[offset : offset + size]


def _text(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset)
    if end < 0:
        raise ElfFormatError("has a text without an end")
    return strings[offset:end].decode("utf-8", "surrogateescape")
