"""Firmware for tests: volumes made by hand, and the OVMF files that are installed."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from uuid import UUID

import pytest

OVMF = Path("/usr/share/OVMF")


def installed_firmware(name: str = "OVMF_CODE_4M.fd") -> Path:
    """Path of an installed OVMF file; the test skips without it, except in CI, where it fails."""
    path = OVMF / name
    if not path.is_file():
        message = f"firmware {path} is not installed (package ovmf)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def make_section(kind: int, payload: bytes) -> bytes:
    """A section, padded to 4."""
    section = (len(payload) + 4).to_bytes(3, "little") + bytes((kind,)) + payload
    return section + bytes(-len(section) % 4)


def make_file(guid: UUID, kind: int, *sections: bytes) -> bytes:
    """A file, padded to 8."""
    body = b"".join(sections)
    header = (
        guid.bytes_le + struct.pack("<HBB", 0, kind, 0) + (24 + len(body)).to_bytes(3, "little") + b"\xf8"
    )
    file = header + body
    return file + b"\xff" * (-len(file) % 8)


def make_volume(name: UUID, *files: bytes) -> bytes:
    """A volume with an extended header, 64 free bytes at its end."""
    extended = name.bytes_le + struct.pack("<I", 20)
    body = (extended + bytes(4)) + b"".join(files) + b"\xff" * 64
    length = 72 + len(body)
    header = bytearray(
        struct.pack("<16s16sQ4sIHHHBB", bytes(16), bytes(16), length, b"_FVH", 0, 72, 0, 72, 0, 2) + bytes(16)
    )
    total = sum(struct.unpack("<36H", header))
    struct.pack_into("<H", header, 50, -total & 0xFFFF)
    return bytes(header) + body
