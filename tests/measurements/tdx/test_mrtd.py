"""MRTD: the values of real firmware in both orders, and that every measured byte counts."""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.tdx.mrtd import PageOrder, compute_mrtd
from measurements.tdx.td_hob import td_hob
from measurements.tdx.tdvf import PAGE, TdvfError, parse_tdvf
from tests.measurements.tdx.tdvf_builder import BFV_SIZE, CFV_SIZE, SECTIONS, RawSection, build
from tests.support.tools import unavailable
from tests.support.vectors import vector

UBUNTU = "firmware/OVMF-2025.02-3ubuntu2.fd.xz"
QUOTED = "7357a10d2e2724dffe68813e3cc4cfcde6814d749f2fb62e3953e54f6e0b50a219786afe2cd478f684b52c61837e1114"
"""MRTD of an Intel-signed quote and of virtee/tdx-measure's fixtures: Ubuntu's ovmf 2025.02-3ubuntu2."""
INSTALLED = Path("/usr/share/ovmf/OVMF.fd")
ORDERS = {PageOrder.SINGLE_PASS: "mrtd_single_pass", PageOrder.TWO_PASS: "mrtd_two_pass"}


def known_files() -> dict[str, dict[str, str]]:
    """The computed values of the vectors by SHA-256 of the firmware."""
    packages = json.loads(vector("tdx-platform/firmware_mrtd.json").read_text())
    return {file["sha256"]: file for files in packages.values() for file in files.values()}


def slow_mrtd(data: bytes, *, two_pass: bool) -> bytes:
    """The definition, word for word, for the sections of the builder."""
    stream = hashlib.sha384()
    for section in SECTIONS:
        content = data[section.offset : section.offset + section.raw_size]
        adds = [(page, b"MEM.PAGE.ADD", b"") for page in range(0, section.size, PAGE)]
        extends = [
            (place, b"MR.EXTEND", content[place : place + 256])
            for place in range(0, section.size if section.attributes & 1 else 0, 256)
        ]
        records = adds + extends
        if not two_pass:
            records.sort(key=lambda record: (record[0] // PAGE, record[1] == b"MR.EXTEND", record[0]))
        for place, name, chunk in records:
            stream.update(
                name.ljust(16, b"\0") + struct.pack("<Q", section.address + place) + bytes(104) + chunk
            )
    return stream.digest()


def test_mrtd_of_the_quoted_firmware() -> None:
    firmware = parse_tdvf(lzma.decompress(vector(UBUNTU).read_bytes()), name="OVMF.fd")
    known = known_files()[hashlib.sha256(firmware.data).hexdigest()]
    for order, key in ORDERS.items():
        found = compute_mrtd(firmware, order=order)
        assert found.value.hex() == known[key]
        assert found.events[-1].digests == {"sha384": found.value}
        assert len(found.events) == len(firmware.sections)
        assert all(event.running and event.register == "mrtd" for event in found.events)
    assert known["mrtd_single_pass"] == QUOTED


def test_mrtd_of_the_installed_firmware() -> None:
    if not INSTALLED.exists():
        unavailable(f"{INSTALLED} is absent (package ovmf)")
    data = INSTALLED.read_bytes()
    known = known_files().get(hashlib.sha256(data).hexdigest())
    if known is None:
        pytest.skip("the installed ovmf is not among the vectors")
    for order, key in ORDERS.items():
        assert compute_mrtd(parse_tdvf(data, name="x"), order=order).value.hex() == known[key]


@pytest.mark.parametrize("two_pass", [False, True])
def test_the_fast_way_equals_the_definition(two_pass: bool) -> None:
    data = build()
    order = PageOrder.TWO_PASS if two_pass else PageOrder.SINGLE_PASS
    assert compute_mrtd(parse_tdvf(data, name="x"), order=order).value == slow_mrtd(data, two_pass=two_pass)


@settings(max_examples=60)
@given(st.integers(0, BFV_SIZE - 1), st.integers(1, 255))
def test_a_flipped_byte_of_a_measured_section_changes_mrtd(place: int, flip: int) -> None:
    data = bytearray(build())
    firmware = parse_tdvf(bytes(data), name="x")
    data[CFV_SIZE + place] ^= flip
    try:
        other = parse_tdvf(bytes(data), name="x")
    except TdvfError:
        return
    for order in ORDERS:
        assert compute_mrtd(firmware, order=order).value != compute_mrtd(other, order=order).value


def test_the_variable_store_is_not_in_mrtd() -> None:
    data = bytearray(build())
    before = compute_mrtd(parse_tdvf(bytes(data), name="x"), order=PageOrder.SINGLE_PASS)
    data[0] ^= 1
    assert compute_mrtd(parse_tdvf(bytes(data), name="x"), order=PageOrder.SINGLE_PASS) == before


def test_moved_or_larger_sections_change_mrtd() -> None:
    values = {
        compute_mrtd(parse_tdvf(build((*SECTIONS, extra)), name="x"), order=PageOrder.SINGLE_PASS).value
        for extra in (
            RawSection(address=0x900000, size=PAGE, kind=3),
            RawSection(address=0x901000, size=PAGE, kind=3),
            RawSection(address=0x900000, size=2 * PAGE, kind=3),
            RawSection(address=0x900000, size=PAGE, kind=3, attributes=1),
        )
    }
    assert len(values) == 4


def test_pages_added_later_are_not_in_mrtd() -> None:
    later = RawSection(address=1 << 33, size=1 << 40, kind=4, attributes=2)
    with_them = compute_mrtd(parse_tdvf(build((*SECTIONS, later)), name="x"), order=PageOrder.SINGLE_PASS)
    assert len(with_them.events) == len(SECTIONS)


def test_measuring_all_regions_needs_the_td_hob_and_covers_it() -> None:
    firmware = parse_tdvf(build(), name="x")
    with pytest.raises(TdvfError, match="TD HOB"):
        compute_mrtd(firmware, order=PageOrder.ALL_REGIONS)
    values = {
        compute_mrtd(firmware, order=PageOrder.ALL_REGIONS, td_hob=td_hob(firmware, memory)).value
        for memory in (2 << 30, 4 << 30)
    }
    values.add(compute_mrtd(firmware, order=PageOrder.SINGLE_PASS).value)
    assert len(values) == 3


def test_measuring_all_regions_covers_the_variable_store() -> None:
    data = bytearray(build())
    hob = td_hob(parse_tdvf(bytes(data), name="x"), 2 << 30)
    values = set()
    for _ in range(2):
        firmware = parse_tdvf(bytes(data), name="x")
        values.add(compute_mrtd(firmware, order=PageOrder.ALL_REGIONS, td_hob=hob).value)
        data[0] ^= 1
    assert len(values) == 2
