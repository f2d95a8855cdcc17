"""The TD HOB: digests in logs and quotes of real machines, and its structure for any memory size."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.eventlog import Algorithm
from measurements.tdx.ccel import parse_cc_log
from measurements.tdx.td_hob import gce_td_hob, memory_ranges, td_hob
from measurements.tdx.tdvf import MAX_SECTIONS, Tdvf, TdvfError, parse_tdvf
from tests.measurements.tdx.tdvf_builder import SECTIONS, RawSection, build
from tests.support.vectors import vector

GIB = 1 << 30
TWO_GIB = "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749"


def firmware() -> Tdvf:
    return parse_tdvf(build(), name="x")


@pytest.mark.parametrize(
    ("memory", "digest"),
    [
        # Dstack-TEE/dstack, tdx-lite-getquote.json and trustee's CCEL_data_ovmf: 2 GiB.
        (2 * GIB, TWO_GIB),
        # Dstack-TEE/dstack, quote-report.json: 64 GiB.
        (64 * GIB, "8ae1e425"),
    ],
)
def test_digests_of_real_machines(memory: int, digest: str) -> None:
    assert hashlib.sha384(td_hob(firmware(), memory)).hexdigest().startswith(digest)


@given(st.integers(0x820, 1 << 32).map(lambda pages: pages << 12))
def test_the_ranges_are_the_memory_without_gaps(memory: int) -> None:
    ranges = list(memory_ranges(firmware(), memory))
    assert sum(part.end - part.start for part in ranges) == memory
    assert ranges[0].start == 0
    for one, other in pairwise(ranges):
        assert one.end == other.start or other.start == 1 << 32
    accepted = {(part.start, part.end - part.start) for part in ranges if part.accepted}
    assert accepted == {(s.address, s.size) for s in SECTIONS if s.kind in (2, 3)}
    hob = td_hob(firmware(), memory)
    assert len(hob) == 56 + 48 * len(ranges)
    assert struct.unpack_from("<Q", hob, 48) == (0x809000 + len(hob) + 8,)


@given(st.integers(0xB0000000 >> 12, 1 << 30), st.integers(1, 1 << 20))
def test_every_page_of_memory_changes_the_td_hob(pages: int, more: int) -> None:
    assert td_hob(firmware(), pages << 12) != td_hob(firmware(), (pages + more) << 12)


def test_memory_below_four_gib_is_split_only_where_q35_does() -> None:
    assert [part.end for part in memory_ranges(firmware(), 0xAFFFF000)][-1] == 0xAFFFF000
    assert [(p.start, p.end) for p in memory_ranges(firmware(), 0xB0000000)][-2:] == [
        (0x820000, 0x80000000),
        (1 << 32, (1 << 32) + 0x30000000),
    ]


def test_neighbouring_sections_stay_ranges_of_their_own() -> None:
    beside = RawSection(address=0x820000, size=0x1000, kind=3)
    ranges = list(memory_ranges(parse_tdvf(build((*SECTIONS, beside)), name="x"), 2 * GIB))
    assert [(part.start, part.accepted) for part in ranges[-3:]] == [
        (0x810000, True),
        (0x820000, True),
        (0x821000, False),
    ]


def gce_firmware() -> Tdvf:
    """The layout of a build of 2 MiB, as edk2 makes it: Google's file itself is not public."""
    top, store = 1 << 32, 0x20000
    sections = (
        RawSection(
            offset=0x2000, raw_size=0x4000, address=top - 0x1E0000, size=0x1E0000, kind=0, attributes=1
        ),
        RawSection(raw_size=0x2000, address=top - 0x200000, size=store, kind=1),
        *SECTIONS[2:],
    )
    return parse_tdvf(build(sections), name="x")


def test_the_td_hob_of_google_compute_engine() -> None:
    # google/go-tdx-guest: a c3-standard-4 with 16 GiB, whose quote covers this log.
    log = parse_cc_log(vector("tdx-ccel-pairs/gcp-cos113/ccel_data.dat").read_bytes())
    first = next(event for event in log.events if event.pcr == 1)
    assert hashlib.sha384(gce_td_hob(gce_firmware(), 16 * GIB)).digest() == first.digests[Algorithm.SHA384]
    assert gce_td_hob(gce_firmware(), 32 * GIB) != gce_td_hob(gce_firmware(), 16 * GIB)


def test_firmware_that_does_not_fit_google_compute_engine_is_refused() -> None:
    with pytest.raises(TdvfError, match="more than 3 GiB"):
        gce_td_hob(gce_firmware(), 3 * GIB)
    large = RawSection(address=0xC0000000, size=0x1000, kind=3)
    with pytest.raises(TdvfError, match="section at 0xc0000000, where that machine has no memory"):
        gce_td_hob(parse_tdvf(build((*SECTIONS, large)), name="x"), 16 * GIB)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(TdvfError, match="low memory ends at 0x81f000"):
        td_hob(firmware(), 0x81F000)


def test_the_list_fits_its_page_whatever_the_metadata_hold() -> None:
    more = MAX_SECTIONS - len(SECTIONS)
    many = [RawSection(address=0x900000 + 0x2000 * number, size=0x1000, kind=3) for number in range(more)]
    crowded = parse_tdvf(build((*SECTIONS, *many), metadata_space=0x600), name="x")
    assert len(td_hob(crowded, 64 * GIB)) + 8 <= 0x1000
