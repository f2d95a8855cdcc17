"""Option ROM images made by hand."""

from __future__ import annotations

import struct

import pytest

from measurements.firmware_volume import FirmwareError
from measurements.option_roms import efi_programs


def _image(kind: int, body: bytes, *, last: bool, compression: int = 0, signature: int = 0x0EF1) -> bytes:
    header = bytearray(0x40)
    header[:2] = b"\x55\xaa"
    struct.pack_into("<IHHH", header, 4, signature, 11, 0x8664, compression)
    struct.pack_into("<HH", header, 0x16, 0x40, 0x1C)
    header[0x1C:0x20] = b"PCIR"
    size = -(-(len(header) + len(body)) // 512)
    struct.pack_into("<HxxBB", header, 0x1C + 0x10, size, kind, 0x80 if last else 0)
    return (bytes(header) + body).ljust(size * 512, b"\0")


def test_programs_of_a_chain() -> None:
    rom = (
        _image(0, b"bios", last=False) + _image(3, b"MZ first", last=False) + _image(3, b"MZ two", last=True)
    )
    first, second = efi_programs(rom + b"\xff" * 100, subject="rom")
    assert first.rstrip(b"\0") == b"MZ first"
    assert second.rstrip(b"\0") == b"MZ two"
    assert len(first) == 512 - 0x40


@pytest.mark.parametrize(
    ("rom", "reason"),
    [
        (b"", "not a chain"),
        (b"\0" * 512, "not a chain"),
        (_image(0, b"", last=False), "not a chain"),
        (_image(3, b"", last=True, compression=2), "unknown compression"),
        (_image(3, b"", last=True, signature=0), "without its signature"),
        (_image(3, b"x" * 600, last=True)[:512], "impossible size"),
        (_image(3, b"", last=True).replace(b"PCIR", b"PCIX"), "without PCI data"),
    ],
)
def test_damaged_roms_are_refused(rom: bytes, reason: str) -> None:
    with pytest.raises(FirmwareError, match=reason) as caught:
        list(efi_programs(rom, subject="rom"))
    assert "rom = false" in caught.value.advice
