"""TDVF metadata: what is understood, and that everything else is refused with one clear error."""

from __future__ import annotations

import contextlib
import lzma
import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.tdx.tdvf import (
    MAX_FIRMWARE,
    METADATA_GUID,
    TABLE_GUID,
    SectionType,
    TdvfError,
    guided_table,
    parse_tdvf,
)
from tests.measurements.tdx.tdvf_builder import (
    BFV,
    CFV,
    HEAP,
    HOB,
    MAILBOX,
    SECTIONS,
    RawSection,
    build,
    changed,
)
from tests.support.tools import unavailable
from tests.support.vectors import vector

UBUNTU = "firmware/OVMF-2025.02-3ubuntu2.fd.xz"
SPLIT_CODE = Path("/usr/share/OVMF/OVMF_CODE.fd")


def test_sections_of_a_distributions_firmware() -> None:
    firmware = parse_tdvf(lzma.decompress(vector(UBUNTU).read_bytes()), name="OVMF.fd")
    assert [(s.address, s.size, s.kind, s.extended) for s in firmware.sections] == [
        (0xFFC84000, 0x37C000, SectionType.BFV, True),
        (0xFFC00000, 0x84000, SectionType.CFV, False),
        (0x811000, 0xF000, SectionType.TEMPORARY_MEMORY, False),
        (0x80B000, 0x2000, SectionType.TEMPORARY_MEMORY, False),
        (0x809000, 0x2000, SectionType.TD_HOB, False),
        (0x800000, 0x6000, SectionType.TEMPORARY_MEMORY, False),
    ]
    assert firmware.configuration is not None
    assert bytes(firmware.contents(firmware.configuration)[40:44]) == b"_FVH"
    assert [section.address for section in firmware.accepted] == [0x800000, 0x809000, 0x80B000, 0x811000]


def test_a_split_code_file_is_named_as_such() -> None:
    if not SPLIT_CODE.exists():
        unavailable(f"{SPLIT_CODE} is absent (package ovmf)")
    with pytest.raises(TdvfError, match="code half of a split firmware") as caught:
        parse_tdvf(SPLIT_CODE.read_bytes(), name="OVMF_CODE.fd")
    assert caught.value.subject == "OVMF_CODE.fd"
    assert "OVMF.fd" in caught.value.advice


def test_the_builders_file_is_understood() -> None:
    firmware = parse_tdvf(build(), name="x")
    assert [section.kind for section in firmware.sections] == [section.kind for section in SECTIONS]
    assert firmware.td_hob.address == HOB.address


REFUSED = {
    "has b'TDVX' instead of b'TDVF' at byte 0x5c00": build(signature=b"TDVX"),
    "version 2 at byte 0x5c08, 1 expected": build(version=2),
    r"has 0 sections \(byte 0x5c0c\)": build(count=0, length=16),
    r"has 33 sections \(byte 0x5c0c\)": build(count=33, length=16 + 33 * 32),
    "metadata length of 207 at byte 0x5c04 for 6 sections": build(length=207),
    "at byte -1, outside": build(distance=0x6001),
    "at byte 24572, outside": build(distance=4),
    "section of unknown type 7 at byte 0x5c10": build(changed(0, kind=7)),
    "section of unknown type 4294967295": build(changed(3, kind=0xFFFFFFFF)),
    "unknown attributes 0x4 at byte 0x5c30": build(changed(1, attributes=4)),
    "from byte 0x2000 to 0x7000, but ends at byte 0x6000": build(
        changed(0, raw_size=0x5000, size=0x5000, address=BFV.address - 0x3000)
    ),
    "from byte 0xffffffff to": build(changed(1, offset=0xFFFFFFFF)),
    "0x810800, 0x10000 bytes, which are not whole pages": build(changed(2, address=0x810800)),
    "0x810000, 0x10001 bytes, which are not whole pages": build(changed(2, size=0x10001)),
    "0x810000, 0x0 bytes, which are not whole pages": build(changed(2, size=0)),
    "beyond physical addresses": build(changed(2, address=1 << 63)),
    "into which 0x4000 bytes of the file do not fit": build(changed(0, size=0x3000)),
    "configuration firmware volume at .*, without bytes of the file": build(changed(1, raw_size=0)),
    "TD HOB at .*, with bytes of the file where none belong": build(changed(4, raw_size=0x100)),
    "both measured and added later": build(changed(0, attributes=3)),
    "has no section for boot firmware volume": build((CFV, HEAP, HOB)),
    "has no section for TD HOB": build((BFV, CFV, HEAP)),
    "has no section for temporary memory": build((BFV, CFV, HOB)),
    "has 2 sections for TD HOB": build((*SECTIONS, RawSection(address=0x900000, size=0x1000, kind=2))),
    "has 2 sections for configuration": build(
        (*SECTIONS, RawSection(raw_size=0x1000, address=0x900000, size=0x1000, kind=1))
    ),
    "no measured boot firmware volume": build(changed(0, attributes=0)),
    "temporary memory at 0x800000, 0xa000 bytes, which overlaps TD HOB": build(changed(5, size=0xA000)),
    "uses the same bytes for": build(changed(0, offset=0x1000)),
    "asks for more than 256 MiB": build((*SECTIONS, RawSection(address=1 << 33, size=1 << 40, kind=3))),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_metadata_that_are_not_understood_are_refused(reason: str) -> None:
    with pytest.raises(TdvfError, match=reason):
        parse_tdvf(REFUSED[reason], name="x")


def test_pages_that_are_added_later_may_be_many() -> None:
    large = RawSection(address=1 << 33, size=1 << 40, kind=4, attributes=2)
    assert parse_tdvf(build((*SECTIONS, large)), name="x").sections[-1].added is False


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes, too few"),
        (bytes(0x1000), "no GUIDed table at byte 0xfce"),
        (bytes(MAX_FIRMWARE + 1), "larger than"),
    ],
    ids=["empty", "zeros", "huge"],
)
def test_files_that_are_no_firmware_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(TdvfError, match=reason):
        parse_tdvf(data, name="x")


def test_the_table_lists_other_entries_and_refuses_duplicates() -> None:
    other = UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
    assert guided_table(build(entries=[(other, b"abcd")]), name="x")[UUID(bytes_le=other)] == b"abcd"
    with pytest.raises(TdvfError, match="twice"):
        guided_table(build(entries=[(METADATA_GUID.bytes_le, b"abcd")]), name="x")


@pytest.mark.parametrize("length", [0, 17, 0x5FD0, 0xFFFF])
def test_length_bomb_in_the_table(length: int) -> None:
    data = bytearray(build())
    data[-50:-48] = struct.pack("<H", length)
    with pytest.raises(TdvfError, match="GUIDed table"):
        parse_tdvf(bytes(data), name="x")


@pytest.mark.parametrize("length", [0, 17, 23, 0x200])
def test_length_bomb_in_an_entry(length: int) -> None:
    data = bytearray(build())
    data[-68:-66] = struct.pack("<H", length)
    with pytest.raises(TdvfError, match=r"GUIDed table|TDX metadata"):
        parse_tdvf(bytes(data), name="x")


@given(st.integers(0, 0x5FFF))
def test_truncated_files_raise_one_error(size: int) -> None:
    with pytest.raises(TdvfError):
        parse_tdvf(build()[:size], name="x")


@given(st.binary(max_size=200), st.integers(0, 0x400))
def test_foreign_bytes_over_the_metadata_raise_one_error_or_are_understood(junk: bytes, place: int) -> None:
    data = bytearray(build())
    start = len(data) - 0x400 + place
    data[start : start + len(junk)] = junk[: len(data) - start]
    with contextlib.suppress(TdvfError):
        firmware = parse_tdvf(bytes(data), name="x")
        assert firmware.td_hob.size
        assert sum(section.size for section in firmware.sections if section.added) <= 256 << 20


def test_the_guids_are_those_of_the_specification() -> None:
    assert build().find(TABLE_GUID.bytes_le) == 0x6000 - 48
    assert MAILBOX.kind == SectionType.TEMPORARY_MEMORY
