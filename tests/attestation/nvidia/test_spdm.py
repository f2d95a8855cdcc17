"""Reports: every field, every length."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.nvidia.spdm import MAX_REPORT, Opaque, SpdmError, parse_report
from tests.attestation.nvidia.cases import good_part
from tests.support.nvidia_pki import (
    COUNT,
    DRIVER,
    FWID,
    MEASUREMENTS,
    NONCE,
    VBIOS,
    gpu,
    opaque_fields,
    report,
)

RECORD = 45
AFTER_RECORD = RECORD + COUNT * 55


def good() -> bytes:
    return good_part().report


def with_opaque(**changes: bytes | None) -> bytes:
    return report(gpu(), opaque=opaque_fields(**changes))


def test_report_is_read() -> None:
    parsed = parse_report(good())
    assert parsed.nonce == NONCE
    assert parsed.measurements == {index: MEASUREMENTS.get(index, bytes(48)) for index in range(COUNT)}
    assert (parsed.driver_version, parsed.vbios_version) == (DRIVER, VBIOS)
    assert parsed.opaque[Opaque.FWID] == FWID
    assert parsed.signed + parsed.signature == good()


def test_every_other_length_is_refused() -> None:
    data = good()
    for end in range(len(data)):
        with pytest.raises(SpdmError):
            parse_report(data[:end])
    for extra in (b"\0", b"\xff" * 96):
        with pytest.raises(SpdmError, match="after the report"):
            parse_report(data + extra)
    with pytest.raises(SpdmError, match="more than"):
        parse_report(bytes(MAX_REPORT + 1))


@pytest.mark.parametrize("place", [0, 1, 2, 3, 37, 38, 39, 40, 41, 42, 43, 44])
def test_headers_are_fixed(place: int) -> None:
    for bit in range(8):
        changed = bytearray(good())
        changed[place] ^= 1 << bit
        with pytest.raises(SpdmError):
            parse_report(bytes(changed))


def test_slot_of_request_and_response_must_agree() -> None:
    changed = bytearray(good())
    changed[36] = 1
    with pytest.raises(SpdmError, match="same slot"):
        parse_report(bytes(changed))


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, 2, "where 1 belongs"),
        (55, 1, "where 2 belongs"),
        (1, 2, "DMTF"),
        (2, 50, "do not agree"),
        (5, 47, "do not agree"),
    ],
)
def test_malformed_block_is_refused(offset: int, value: int, reason: str) -> None:
    changed = bytearray(good())
    changed[RECORD + offset] = value
    with pytest.raises(SpdmError, match=reason):
        parse_report(bytes(changed))


def test_report_without_measurements_is_refused() -> None:
    data = good()
    empty = data[:41] + bytes(4) + data[AFTER_RECORD:]
    with pytest.raises(SpdmError, match="no measurements"):
        parse_report(empty)


def test_field_that_stands_twice_or_is_unknown_is_refused() -> None:
    data = good()
    place = AFTER_RECORD + 32
    (size,) = struct.unpack_from("<H", data, place)
    for extra, reason in (
        (struct.pack("<HH", 3, 4) + b"1.2\0", "two fields"),
        (struct.pack("<HH", 27, 1) + b"\0", "unknown type 27"),
        (struct.pack("<HH", 255, 0), "unknown type 255"),
        (b"\1", "ends within"),
    ):
        longer = struct.pack("<H", size + len(extra)) + data[place + 2 : place + 2 + size] + extra
        with pytest.raises(SpdmError, match=reason):
            parse_report(data[:place] + longer + data[place + 2 + size :])


def test_newer_forms_of_opaque_data_are_refused() -> None:
    with pytest.raises(SpdmError, match="version 2"):
        parse_report(with_opaque(OPAQUE_DATA_VERSION=b"\2\0"))
    data = good()
    place = AFTER_RECORD + 32
    (size,) = struct.unpack_from("<H", data, place)
    newer = b"NVDAOD\0\0\1\0"
    with pytest.raises(SpdmError, match="NVDAOD"):
        parse_report(data[:place] + struct.pack("<H", len(newer)) + newer + data[place + 2 + size :])


@pytest.mark.parametrize(
    "value", [b"", b"\0", b"abc", b"580\0", b"580.1.2.3.4", b"580.\xff", b"58\0.1", b"580.1\n"]
)
def test_driver_version_of_another_form_is_refused(value: bytes) -> None:
    parsed = parse_report(with_opaque(DRIVER_VERSION=value))
    with pytest.raises(SpdmError):
        _ = parsed.driver_version


@pytest.mark.parametrize(
    "value", [None, b"", bytes.fromhex("00aa009601000001"), b"\0" * 7, b"96.00", b"96.00.AA.00.0G"]
)
def test_vbios_version_of_another_form_is_refused(value: bytes | None) -> None:
    parsed = parse_report(with_opaque(VBIOS_VERSION=value))
    with pytest.raises(SpdmError):
        _ = parsed.vbios_version


@given(st.binary(max_size=400))
def test_noise_is_refused_and_never_breaks(data: bytes) -> None:
    with pytest.raises(SpdmError):
        parse_report(data)


@given(st.integers(min_value=41), st.binary(min_size=1, max_size=8))
def test_changed_reports_parse_whole_or_not_at_all(at: int, value: bytes) -> None:
    changed = bytearray(good())
    place = at % len(changed)
    changed[place : place + len(value)] = value
    try:
        parsed = parse_report(bytes(changed))
    except SpdmError:
        return
    assert parsed.signed + parsed.signature == bytes(changed)
