"""Small ELF files: programs with a loader and libraries, and kernel modules with a ``.modinfo``."""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<QQ")
_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
_LOAD, _DYNAMIC_TYPE, _INTERP = 1, 2, 3
_NEEDED, _STRTAB, _RPATH, _STRSZ, _RUNPATH = 1, 5, 15, 10, 29


def program(*needed: str, interpreter: str = "", runpath: str = "", rpath: str = "") -> bytes:
    """A shared object or program of x86-64 that the loader could read; its file and memory offsets agree."""
    strings = b"\0"
    entries: list[tuple[int, int]] = []
    tags = [(_NEEDED, name) for name in needed] + [(_RUNPATH, runpath), (_RPATH, rpath)]
    for tag, text in tags:
        if text:
            entries.append((tag, len(strings)))
            strings += text.encode() + b"\0"
    interp = interpreter.encode() + b"\0" if interpreter else b""
    count = 3 if interpreter else 2
    start = _HEADER.size + count * _PROGRAM.size
    strings_at = start + len(interp)
    dynamic_at = strings_at + len(strings)
    entries += [(_STRTAB, strings_at), (_STRSZ, len(strings)), (0, 0)]
    dynamic = b"".join(_DYNAMIC.pack(*entry) for entry in entries)
    size = dynamic_at + len(dynamic)
    headers = [_segment(_LOAD, 0, size), _segment(_DYNAMIC_TYPE, dynamic_at, len(dynamic))]
    headers += [_segment(_INTERP, start, len(interp))] if interpreter else []
    header = _HEADER.pack(_IDENT, 3, 62, 1, 0, _HEADER.size, 0, 0, 64, 56, count, 64, 0, 0)
    return header + b"".join(headers) + interp + strings + dynamic


def module(**info: str) -> bytes:
    """A relocatable object with ``info`` in its ``.modinfo``."""
    data = b"".join(f"{key}={value}\0".encode() for key, value in info.items())
    names = b"\0.modinfo\0.shstrtab\0"
    data_at = _HEADER.size
    names_at = data_at + len(data)
    table_at = names_at + len(names)
    sections = [
        bytes(_SECTION.size),
        _SECTION.pack(1, 1, 0, 0, data_at, len(data), 0, 0, 1, 0),
        _SECTION.pack(10, 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
    ]
    header = _HEADER.pack(_IDENT, 1, 62, 1, 0, 0, table_at, 0, 64, 0, 0, 64, len(sections), 2)
    return header + data + names + b"".join(sections)


def _segment(kind: int, offset: int, size: int) -> bytes:
    return _PROGRAM.pack(kind, 4, offset, offset, offset, size, size, 8)
