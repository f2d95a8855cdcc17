"""dstack's reports in all their forms, and containers that are not well formed."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.dstack.errors import DstackFormatError
from measurements.dstack.event_log import parse_event_log, runtime_events
from measurements.dstack.evidence import SnpEvidence, TdxEvidence, parse_container, parse_report
from measurements.dstack.scale_reader import ScaleReader
from measurements.errors import KeyturnError
from measurements.tdx.quote import parse_quote
from tests.support.dstack_reports import attestation, report
from tests.support.vectors import vector

CONTAINERS = ["tdx-lite-attestation", "sev-snp-attestation"]


def test_quote_response() -> None:
    found = parse_report(vector("dstack/quote-report.json").read_bytes())
    assert isinstance(found, TdxEvidence)
    assert not found.stripped
    assert found.log == parse_event_log(report("quote-report").event_log)
    assert found.report_data == parse_quote(found.quote).body.report_data
    assert found.vm_config is not None


def test_response_of_the_older_agent() -> None:
    found = parse_report(vector("tdx-ccel-pairs/dstack-examples/report.json").read_bytes())
    assert isinstance(found, TdxEvidence)
    assert found.report_data == b""
    assert found.vm_config is None


def test_tdx_container() -> None:
    found = parse_report(vector("dstack/tdx-lite-attestation.json").read_bytes())
    assert isinstance(found, TdxEvidence)
    assert found.stripped
    assert [event.name for event in found.log][:4] == [
        "acpi-loader", "acpi-rsdp", "acpi-tables", "system-preparing",
    ]  # fmt: skip
    assert all(event.stated is None for event in found.log if event.runtime)
    assert len(runtime_events(found.log)) == 9
    assert found.report_data.startswith(b"dip1::secp256k1c-pk:")
    assert found.report_data == parse_quote(found.quote).body.report_data


def test_snp_container() -> None:
    found = parse_report(vector("dstack/sev-snp-attestation.json").read_bytes())
    assert isinstance(found, SnpEvidence)
    assert len(found.report) == 1184
    assert len(found.certificates) == 2
    assert all(each.startswith(b"-----BEGIN CERTIFICATE") for each in found.certificates)
    assert found.report_data == found.report[0x50:0x90]
    assert [event.name for event in found.runtime][-1] == "system-ready"


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("cut", [0, 1, 2, 5, 1000, 6000, -1])
def test_truncated_containers_are_refused(name: str, cut: int) -> None:
    with pytest.raises(DstackFormatError):
        parse_container(attestation(name)[:cut])


def test_bytes_after_a_container_are_refused() -> None:
    with pytest.raises(DstackFormatError, match="1 bytes after byte"):
        parse_container(attestation("tdx-lite-attestation") + b"\0")


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\x01\x00", "a later form"),
        (b"\x82\x00", "a key at byte 1"),
        (b"\0\xff", "platform 255"),
    ],
)
def test_other_containers_are_refused(start: bytes, reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_container(start + attestation("tdx-lite-attestation")[2:])


def test_attestations_of_other_platforms_are_not_judged() -> None:
    with pytest.raises(DstackFormatError, match="platform 2"):
        parse_container(vector("attestation/nitro/dstack-nsm-app.bin").read_bytes())


def test_runtime_events_must_be_said_twice_alike() -> None:
    """The container has them in the log and beside it, and a reader may take either."""
    data = bytearray(attestation("tdx-lite-attestation"))
    second = data.rindex(b"compose-hash") + len("compose-hash") + 1
    data[second] ^= 1
    with pytest.raises(DstackFormatError, match="other runtime events in its log than beside it"):
        parse_container(bytes(data))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "has no quote"),
        ({"quote": "00"}, "has no event_log"),
        ({"quote": "00", "event_log": "[]"}, "has no report_data"),
        ({"quote": "0", "event_log": "[]", "report_data": ""}, "not lower-case hex"),
        ({"quote": "00", "event_log": [], "report_data": ""}, "event_log: is not a text"),
        ({"quote": "00", "event_log": "\ud800", "report_data": ""}, "lone surrogate"),
        ({"attestation": 5}, "not lower-case hex"),
    ],
)
def test_other_reports_are_refused(document: dict[str, object], reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_report(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no length"),
        (b"\x03", "no length of up to four bytes"),
        (b"\x01", "ends before"),
        (b"\x01\x00", "shortest form"),
        (b"\x02\x01\x00\x00", "shortest form"),
        (b"\xfd\xff", "more than 100"),
        (b"\x08a", "ends before the 2 bytes"),
    ],
)
def test_other_lengths_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        ScaleReader(data, subject="test").octets(most=100)


def test_lengths_in_every_mode() -> None:
    for size, start in ((0, b"\0"), (63, b"\xfc"), (64, b"\x01\x01"), (16384, b"\x02\x00\x01\x00")):
        reader = ScaleReader(start + b"x" * size, subject="test")
        assert reader.octets(most=20000) == b"x" * size
        reader.end()
    with pytest.raises(DstackFormatError, match="no UTF-8 at byte 0"):
        ScaleReader(b"\x04\xff", subject="test").text(most=5)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CONTAINERS),
    st.integers(0, 9000),
    st.binary(max_size=6),
)
def test_changed_containers_give_only_our_errors(name: str, at: int, value: bytes) -> None:
    data = bytearray(attestation(name))
    at %= len(data)
    data[at : at + len(value)] = value
    with suppress(KeyturnError):
        parse_container(bytes(data))
