"""Firmware volumes made by hand, whole and damaged."""

from __future__ import annotations

import lzma
import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.firmware_volume import (
    FILE_PEIM,
    LZMA_METHOD,
    MAX_UNPACKED,
    SECTION_GUIDED,
    SECTION_PE32,
    SECTION_UI_NAME,
    FirmwareError,
    Section,
    find_volumes,
    is_lzma,
    parse_volume,
    sections_of,
    unpack_lzma,
)
from tests.support.firmware import make_file, make_section, make_volume

NAME = UUID("6938079b-b503-4e3d-9d24-b28337a25806")
FILE = UUID("00000000-1111-2222-3333-444444444444")


def test_files_and_sections_are_read() -> None:
    image = make_file(
        FILE,
        FILE_PEIM,
        make_section(SECTION_PE32, b"program"),
        make_section(SECTION_UI_NAME, "Name\0".encode("utf-16-le")),
    )
    volume = parse_volume(make_volume(NAME, image, image) + b"rest")
    files = list(volume.files())
    assert volume.name == NAME
    assert [file.name for file in files] == ["Name", "Name"]
    section = files[1].section(SECTION_PE32)
    assert section is not None
    assert section.payload == b"program"
    assert volume.data[section.start : section.start + 7] == b"program"


def test_padding_files_are_not_shown() -> None:
    padding = make_file(UUID(int=(1 << 128) - 1), 0xF0, b"\xff" * 16)
    volume = parse_volume(make_volume(NAME, padding, make_file(FILE, FILE_PEIM)))
    assert [file.guid for file in volume.files()] == [FILE]


def test_volumes_are_found_between_other_bytes() -> None:
    first, second = make_volume(NAME), make_volume(FILE)
    found = find_volumes(b"_FVH" + bytes(100) + first + b"\0_FVH" * 3 + bytes(5) + second)
    assert [volume.name for volume in found] == [NAME, FILE]


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (40, b"_FVX", "damaged"),
        (32, struct.pack("<Q", 1 << 40), "damaged"),
        (50, b"\x01\x02", "checksum"),
    ],
)
def test_damaged_headers_are_refused(offset: int, value: bytes, reason: str) -> None:
    data = bytearray(make_volume(NAME, make_file(FILE, FILE_PEIM)))
    data[offset : offset + len(value)] = value
    with pytest.raises(FirmwareError, match=reason):
        parse_volume(bytes(data))


def test_file_that_passes_the_end_is_refused() -> None:
    data = bytearray(make_volume(NAME, make_file(FILE, FILE_PEIM, b"")))
    position = bytes(data).index(FILE.bytes_le)
    data[position + 20 : position + 23] = b"\xff\xff\x7f"
    with pytest.raises(FirmwareError, match="impossible size"):
        list(parse_volume(bytes(data)).files())


def test_section_that_passes_the_end_is_refused() -> None:
    with pytest.raises(FirmwareError, match="impossible size"):
        list(sections_of(b"\x20\0\0\x10abc"))


def _compressed(content: bytes, *, claimed: int | None = None) -> bytes:
    stream = bytearray(lzma.compress(content, format=lzma.FORMAT_ALONE))
    stream[5:13] = struct.pack("<Q", len(content) if claimed is None else claimed)
    return bytes(stream)


def _guided(stream: bytes) -> Section:
    payload = LZMA_METHOD.bytes_le + struct.pack("<HH", 24, 1) + stream
    return Section(kind=SECTION_GUIDED, start=4, payload=payload)


def test_lzma_section_is_unpacked() -> None:
    content = b"volume" * 1000
    assert unpack_lzma(_guided(_compressed(content))) == content


def test_other_methods_are_left_alone() -> None:
    assert not is_lzma(Section(kind=SECTION_GUIDED, start=4, payload=bytes(40)))
    assert is_lzma(_guided(_compressed(b"content")))


def test_bomb_and_damage_are_refused() -> None:
    with pytest.raises(FirmwareError, match="impossible size"):
        unpack_lzma(_guided(_compressed(b"x" * 100, claimed=MAX_UNPACKED + 1)))
    cut = _compressed(bytes(range(256)) * 40)
    with pytest.raises(FirmwareError, match="size that it claims"):
        unpack_lzma(_guided(cut[: len(cut) // 2]))
    with pytest.raises(FirmwareError, match="damaged"):
        unpack_lzma(_guided(b"\xee" * 5 + bytes(35)))


@given(data=st.binary(max_size=200))
def test_any_bytes_give_volumes_or_nothing(data: bytes) -> None:
    for volume in find_volumes(data + make_volume(NAME)[: len(data)]):
        assert volume.data
