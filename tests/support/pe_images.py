"""PE images for tests: synthetic ones of any shape, and the systemd-stub of the machine."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

FILE_ALIGNMENT = 512
SECTION_ALIGNMENT = 4096
MAGIC_TEXT = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0"
_PE_AT = 0x40
_DIRECTORIES = 16


def synthetic_pe(
    sections: Sequence[tuple[str, bytes]],
    *,
    pe32: bool = False,
    directories: int = _DIRECTORIES,
    header_size: int = 1024,
    reverse_table: bool = False,
    certificates: bytes = b"",
    trailing: bytes = b"",
    machine: int = 0x8664,
) -> bytes:
    """A PE image whose ``sections`` are in the file in this order; ``reverse_table`` lists them the other way
    round.
    """
    body = bytearray()
    headers = []
    address = SECTION_ALIGNMENT
    for name, data in sections:
        raw = data + bytes(-len(data) % FILE_ALIGNMENT)
        place = (len(data), address, len(raw), header_size + len(body))
        headers.append(struct.pack("<8sIIII12xI", name.encode(), *place, 0x40000040))
        body += raw
        address += -(-len(data) // SECTION_ALIGNMENT) * SECTION_ALIGNMENT
    body += trailing
    size = 96 if pe32 else 112
    optional = bytearray(size + directories * 8)
    struct.pack_into("<H", optional, 0, 0x10B if pe32 else 0x20B)
    struct.pack_into("<II", optional, 32, SECTION_ALIGNMENT, FILE_ALIGNMENT)
    struct.pack_into("<III", optional, 56, address, header_size, 0x12345678)
    struct.pack_into("<I", optional, size - 4, directories)
    if certificates:
        struct.pack_into("<II", optional, size + 32, header_size + len(body), len(certificates))
    coff = struct.pack("<HHIIIHH", machine, len(sections), 0x5F5E0FF, 0, 0, len(optional), 0x22)
    dos = (b"MZ" + bytes(0x3A) + struct.pack("<I", _PE_AT)).ljust(_PE_AT, b"\0")
    table = b"".join(reversed(headers) if reverse_table else headers)
    head = dos + b"PE\0\0" + coff + bytes(optional) + table
    assert len(head) <= header_size
    return head.ljust(header_size, b"\0") + bytes(body) + certificates


def synthetic_stub(*, header_size: int = 1024) -> bytes:
    """A PE image that says that it is a systemd-stub."""
    sections = [(".text", b"\xc3" * 700), (".sbat", b"sbat,1\n"), (".sdmagic", MAGIC_TEXT)]
    return synthetic_pe(sections, header_size=header_size)


def installed_stub() -> bytes:
    """The systemd-stub of the distribution; absent, the test skips, or fails in CI."""
    path = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
    if path.exists():
        return path.read_bytes()
    message = "no systemd-stub is installed (package systemd-boot-efi)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
