"""OVMF's description of itself: what real images say, and what is refused."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import FormatError, KeyturnError
from measurements.guided_table import parse_guided_table
from measurements.sev.ovmf_metadata import (
    HASH_TABLE,
    RESET_BLOCK,
    SNP_METADATA,
    Area,
    Section,
    SectionKind,
    parse_sev_image,
)
from tests.support.debian_packages import debian_package
from tests.support.sev_images import (
    HASHES_GPA,
    RESET_EIP,
    SECTIONS,
    guided_table,
    sev_image,
    snp_metadata,
    vector_image,
)

AMDSEV = "usr/share/ovmf/OVMF.amdsev.fd"


def test_what_an_image_says() -> None:
    image = parse_sev_image(sev_image(), name="ovmf")
    assert image.gpa == (1 << 32) - 8192
    assert [(s.gpa, s.size, s.kind.value) for s in image.sections] == list(SECTIONS)
    assert (image.hash_table, image.reset_eip, image.svsm_entry) == (
        Area(gpa=HASHES_GPA, size=0x400),
        RESET_EIP,
        None,
    )
    assert image.section(SectionKind.CPUID) == Section(kind=SectionKind.CPUID, gpa=0x80E000, size=0x1000)


def test_firmware_of_ubuntu() -> None:
    """ovmf 2025.02-3ubuntu2: no hashes of a direct boot, as OvmfPkgX64 has none."""
    image = parse_sev_image(vector_image("firmware/OVMF-2025.02-3ubuntu2.fd.xz"), name="OVMF.fd")
    assert image.gpa == 0xFFC00000
    assert (image.hash_table, image.reset_eip) == (None, 0x80B004)
    assert image.section(SectionKind.KERNEL_HASHES) is None
    assert len(image.sections) == 6


@pytest.mark.network
def test_firmware_for_sev_of_debian() -> None:
    """ovmf-amdsev: kernel hashes are the last section since edk2-stable202411."""
    path = debian_package("ovmf-amdsev", suite="sid") / AMDSEV
    image = parse_sev_image(path.read_bytes(), name=path.name)
    assert image.sections[-1].kind is SectionKind.KERNEL_HASHES
    assert image.hash_table is not None
    assert image.section(SectionKind.SVSM_CAA) is not None


def test_image_without_anything_for_sev() -> None:
    image = parse_sev_image(sev_image(sections=(), hash_table=None, reset_eip=None), name="ovmf")
    assert (image.sections, image.hash_table, image.reset_eip, image.secret) == ((), None, None, None)


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, (64 << 20) + 4096])
def test_images_that_are_no_pages(size: int) -> None:
    with pytest.raises(FormatError, match="not whole pages"):
        parse_sev_image(bytes(size), name="ovmf")


def test_bytes_without_a_table() -> None:
    with pytest.raises(FormatError, match=r"has no table of GUIDs: no 96b582de.* at byte 0xfd0") as caught:
        parse_sev_image(bytes(4096), name="ovmf")
    assert "OVMF.fd" in caught.value.advice


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ((0x800000, 0x1000, 5), "unknown kind 0x5"),
        ((0x800000, 0x1000, 0), "unknown kind 0x0"),
        ((0x800001, 0x1000, 1), "not whole pages"),
        ((0x800000, 0x1001, 1), "not whole pages"),
        ((0x800000, 0, 1), "not whole pages"),
        ((0xFFFFF000, 0x2000, 1), "not whole pages"),
        ((0x1000, 0x40001000, 1), "not whole pages"),
        ((0x800000, 0x2000, 2), "not one page"),
        ((0x800000, 0x2000, 3), "not one page"),
        ((0x800000, 0x2000, 0x10), "not one page"),
    ],
)
def test_sections_that_are_refused(section: tuple[int, int, int], why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_sev_image(sev_image(sections=[section]), name="ovmf")


def test_sections_that_overlap() -> None:
    with pytest.raises(FormatError, match="overlap at 0x801000"):
        parse_sev_image(sev_image(sections=[(0x801000, 0x1000, 2), (0x800000, 0x2000, 1)]), name="ovmf")


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (b"ASEW" + snp_metadata()[4:], "has no ASEV at byte"),
        (snp_metadata(version=2), "version 2"),
        (snp_metadata([]), "0 sections"),
        (snp_metadata([(0x1000 * n + 0x1000, 0x1000, 1) for n in range(65)]), "65 sections"),
        (b"ASEV" + struct.pack("<III", 28, 1, 0xFFFFFFFF) + bytes(12), "4294967295 sections"),
        (b"ASEV" + struct.pack("<III", 27, 1, 1) + bytes(12), "1 sections in 27 bytes"),
    ],
    ids=["signature", "version", "none", "many", "bomb", "length"],
)
def test_metadata_that_is_refused(metadata: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_sev_image(sev_image(metadata=metadata), name="ovmf")


def end_with(table: bytes, *, before: bytes = b"") -> bytes:
    return bytes(4096 - len(before) - len(table) - 32) + before + table + bytes(32)


@pytest.mark.parametrize("distance", [0, 15, 4097, 0xFFFFFFFF])
def test_metadata_outside_of_the_image(distance: int) -> None:
    table = guided_table({SNP_METADATA: struct.pack("<I", distance)})
    with pytest.raises(FormatError, match="which is outside"):
        parse_sev_image(end_with(table), name="ovmf")


def test_metadata_past_the_end() -> None:
    metadata = b"ASEV" + struct.pack("<III", 16 + 64 * 12, 1, 64)
    table = guided_table({SNP_METADATA: struct.pack("<I", 400)})
    image = bytearray(end_with(table))
    image[-400:-384] = metadata
    with pytest.raises(FormatError, match="past its end"):
        parse_sev_image(bytes(image), name="ovmf")


@pytest.mark.parametrize(
    ("guid", "data", "why"),
    [
        (RESET_BLOCK, bytes(3), "not 4"),
        (HASH_TABLE, bytes(4), "not 8"),
        (HASH_TABLE, struct.pack("<II", 0, 1), "cannot be"),
        (HASH_TABLE, struct.pack("<II", 0xFFFFFFFF, 2), "cannot be"),
    ],
)
def test_entries_that_are_refused(guid: UUID, data: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_sev_image(end_with(guided_table({guid: data})), name="ovmf")


def test_the_same_guid_twice() -> None:
    once = bytes(4) + struct.pack("<H", 22) + RESET_BLOCK.bytes_le
    footer = guided_table({})[2:]
    table = once + once + struct.pack("<H", 2 * len(once) + 18) + footer
    with pytest.raises(FormatError, match="twice"):
        parse_guided_table(end_with(table), name="ovmf")


@pytest.mark.parametrize("length", [0, 17, 19, 40, 4096, 0xFFFF])
def test_tables_whose_lengths_do_not_fit(length: int) -> None:
    entry = bytes(4) + struct.pack("<H", 22) + RESET_BLOCK.bytes_le
    table = entry + struct.pack("<H", length) + guided_table({})[2:]
    if length == 40:
        assert parse_guided_table(end_with(table), name="ovmf") == {RESET_BLOCK: bytes(4)}
        return
    with pytest.raises(FormatError):
        parse_guided_table(end_with(table), name="ovmf")


@given(st.dictionaries(st.uuids(), st.binary(max_size=40), max_size=6))
def test_tables_are_read_as_written(entries: dict[UUID, bytes]) -> None:
    assert list(parse_guided_table(end_with(guided_table(entries)), name="ovmf").items()) == list(
        entries.items()
    )


def refusal(image: bytes) -> KeyturnError | None:
    try:
        parse_sev_image(image, name="ovmf")
    except KeyturnError as error:
        return error
    return None


@given(st.data())
def test_broken_images_give_one_error(data: st.DataObject) -> None:
    image = bytearray(sev_image(pages=1))
    # The end holds the table and the metadata; what comes before is not parsed.
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(4096 - 400, 4095))
        image[position] = data.draw(st.integers(0, 255))
    error = refusal(bytes(image))
    assert error is None or (error.subject == "ovmf" and error.advice)
