"""CC event logs: pairs of log and quote that belong together replay to it, others do not."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.event_data import decode_event, type_name
from measurements.eventlog import Algorithm, parse_event_log
from measurements.events import EventType
from measurements.tdx.ccel import CcelError, parse_cc_log, parse_ccel_table, parse_ima_log, replay_rtmrs
from measurements.tdx.quote import TdBody, parse_quote
from tests.support.event_log_writer import Record, write_log
from tests.support.vectors import vector

PAIRS = "tdx-ccel-pairs"
LOGS = (
    "go-eventlog/cos-113-intel-tdx-dupe-separator-unpadded.bin",
    "go-eventlog/cos-113-intel-tdx-dupe-separator.bin",
    "go-eventlog/cos-113-intel-tdx.bin",
    "go-eventlog/event_log.bin",
    "trustee/CCEL_AAEL_alibabacloud",
    "trustee/CCEL_data",
    "trustee/CCEL_data_grub_gke",
    "trustee/CCEL_data_ovmf",
    "dstack/ccel.bin",
)
SHA384 = (Algorithm.SHA384,)
SEPARATOR = hashlib.sha384(bytes(4)).digest()


def quote_of(relative: str) -> TdBody:
    return parse_quote(vector(relative).read_bytes()).body


def json_log(entries: list[dict[str, object]]) -> tuple[bytes, ...]:
    """RTMRs of a log in dstack's JSON form, of which only register and digest are used."""
    registers = [bytes(48)] * 4
    for entry in entries:
        number = int(str(entry["imr"]))
        digest = bytes.fromhex(str(entry["digest"]))
        registers[number] = hashlib.sha384(registers[number] + digest).digest()
    return tuple(registers)


def test_googles_log_replays_to_its_quote() -> None:
    body = quote_of(f"{PAIRS}/gcp-cos113/cos-113-tdx-quote.dat")
    log = parse_cc_log(vector(f"{PAIRS}/gcp-cos113/ccel_data.dat").read_bytes())
    assert replay_rtmrs(log) == body.rtmrs
    assert body.rtmrs[3] == bytes(48)


def test_a_duplicate_separator_is_found_by_the_quote() -> None:
    body = quote_of(f"{PAIRS}/gcp-cos113/cos-113-tdx-quote.dat")
    name = "tdx-ccel-logs/go-eventlog/cos-113-intel-tdx-dupe-separator.bin"
    rtmr0, rtmr1, rtmr2, _ = replay_rtmrs(parse_cc_log(vector(name).read_bytes()))
    assert rtmr2 == body.rtmrs[2]
    assert rtmr0 != body.rtmrs[0]
    assert rtmr1 != body.rtmrs[1]


def test_kernel_measurements_complete_the_log_of_cc_trusted_api() -> None:
    body = quote_of(f"{PAIRS}/cc-trusted-api/quote.bin")
    log = parse_cc_log(vector(f"{PAIRS}/cc-trusted-api/ccel_data.bin").read_bytes())
    ima = parse_ima_log(vector(f"{PAIRS}/cc-trusted-api/ima_log.bin").read_text())
    assert replay_rtmrs(log)[:2] == body.rtmrs[:2]
    assert replay_rtmrs(log)[2] != body.rtmrs[2]
    assert replay_rtmrs(log, ima=ima) == body.rtmrs


@pytest.mark.parametrize("name", [f"{PAIRS}/dstack-examples/report.json", "dstack/quote-report.json"])
def test_dstack_reports_replay_to_their_quotes(name: str) -> None:
    report = json.loads(vector(name).read_text())
    body = parse_quote(bytes.fromhex(report["quote"])).body
    assert json_log(json.loads(report["event_log"])) == body.rtmrs


def test_the_log_of_dstacks_simulator_replays_to_its_quote() -> None:
    entries = json.loads(vector(f"{PAIRS}/dstack-simulator/eventlog.json").read_text())
    quote = bytes.fromhex(
        vector(f"{PAIRS}/dstack-simulator/quote.hex").read_text().strip().removeprefix("0x")
    )
    assert json_log(entries) == parse_quote(quote).body.rtmrs


def test_dstacks_log_shares_its_first_register_with_a_quote() -> None:
    report = json.loads(vector(f"{PAIRS}/dstack-examples/report.json").read_text())
    body = parse_quote(bytes.fromhex(report["quote"])).body
    log = parse_cc_log(vector("tdx-ccel-logs/dstack/ccel.bin").read_bytes())
    assert replay_rtmrs(log)[0] == body.rtmrs[0]


@pytest.mark.parametrize("name", LOGS)
def test_logs_replay_and_every_event_has_a_name(name: str) -> None:
    data = vector(f"tdx-ccel-logs/{name}").read_bytes()
    log = parse_cc_log(data)
    expected = json.loads(vector("tdx-ccel-logs/replayed.json").read_text()).get(name)
    if expected is not None:
        values = expected["replayed"]["sha384"]
        rtmrs = replay_rtmrs(log)
        assert {str(index + 1): value.hex() for index, value in enumerate(rtmrs) if any(value)} == values
        assert len(log.events) == expected["events"] - 1 or len(log.events) == expected["events"]
    for event in log.events:
        assert not type_name(event.event_type).startswith("0x")
        assert not decode_event(event.event_type, event.data).title.startswith(
            ("event data", "no event data")
        )


def test_entries_of_an_applications_log_extend_rtmr3_with_the_whole_tagged_event() -> None:
    log = parse_cc_log(vector("tdx-ccel-logs/trustee/CCEL_AAEL_alibabacloud").read_bytes())
    entries = [event for event in log.events if event.pcr == 4]
    assert len(entries) == 2
    for event in entries:
        assert hashlib.sha384(event.data).digest() == event.digests[Algorithm.SHA384]
        assert decode_event(event.event_type, event.data).title.startswith("coco.com some-operation")


def test_a_flipped_digest_changes_the_replay() -> None:
    data = bytearray(vector("tdx-ccel-logs/trustee/CCEL_data_ovmf").read_bytes())
    before = replay_rtmrs(parse_cc_log(bytes(data)))
    place = data.index(SEPARATOR)
    data[place] ^= 1
    assert replay_rtmrs(parse_cc_log(bytes(data))) != before


def test_a_hygon_log_is_read_but_refused_for_tdx() -> None:
    data = vector("tdx-ccel-logs/trustee/CCEL_data_csv").read_bytes()
    log = parse_event_log(data)
    assert log.algorithms == (Algorithm.SM3_256,)
    for event in log.events:
        assert not decode_event(event.event_type, event.data).title.startswith("event data")
    with pytest.raises(CcelError, match=r"sm3_256 \(a log of a Hygon CSV machine\)"):
        parse_cc_log(data)


def record(index: int, event_type: int = EventType.EV_SEPARATOR) -> Record:
    return Record(pcr=index, event_type=event_type, digests={Algorithm.SHA384: SEPARATOR}, data=bytes(4))


@pytest.mark.parametrize("index", [0, 5, 7, 23])
def test_registers_that_nothing_extends_are_refused(index: int) -> None:
    with pytest.raises(CcelError, match=f"extends register {index} at byte"):
        parse_cc_log(write_log([record(1), record(index)], algorithms=SHA384))


@pytest.mark.parametrize("index", [0, 1, 0xFFFFFFFF])
def test_information_may_come_for_any_register(index: int) -> None:
    data = write_log([record(index, EventType.EV_NO_ACTION), record(1)], algorithms=SHA384)
    assert replay_rtmrs(parse_cc_log(data))[0] == hashlib.sha384(bytes(48) + SEPARATOR).digest()


def test_information_for_a_register_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CcelError, match="has a record for register 9"):
        parse_cc_log(write_log([record(9, EventType.EV_NO_ACTION)], algorithms=SHA384))


@pytest.mark.parametrize("padding", [b"", bytes(100), b"\xff" * 100])
def test_padding_ends_the_log(padding: bytes) -> None:
    data = write_log([record(1), record(4)], algorithms=SHA384, padding=padding)
    rtmrs = replay_rtmrs(parse_cc_log(data))
    assert [any(value) for value in rtmrs] == [True, False, False, True]


@pytest.mark.parametrize("padding", [bytes(50) + b"x", b"\xff" * 50 + b"\0"])
def test_bytes_behind_the_padding_are_refused(padding: bytes) -> None:
    with pytest.raises(FormatError):
        parse_cc_log(write_log([record(1)], algorithms=SHA384, padding=padding))


def table(**fields: int) -> bytes:
    """A CCEL table with right checksum."""
    data = bytearray(
        struct.pack(
            "<4sIBB6s8sIII BBHQQ",
            b"CCEL", fields.get("length", 56), 1, 0, b"INTEL ", b"EDK2    ", 2, 0x20202020, 0x01000013,
            fields.get("kind", 2), fields.get("subtype", 0), 0, 0x10000, 0x7EF00000,
        )
    )  # fmt: skip
    data[9] = -sum(data) & 0xFF
    return bytes(data)


def test_a_real_table_tells_where_the_log_is() -> None:
    found = parse_ccel_table(vector(f"{PAIRS}/gcp-cos113/ccel_table.dat").read_bytes())
    assert (found.length, found.address) == (0x40000, 0xBEDBF000)
    assert parse_ccel_table(table()).length == 0x10000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes, 56 expected"),
        (table()[:-1], "55 bytes"),
        (table() + b"\0", "57 bytes"),
        (b"CCEX" + table()[4:], "starts with"),
        (table(length=57), "length 57"),
        (table(kind=1), "CC type 1"),
    ],
)
def test_tables_that_are_not_for_tdx_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CcelError, match=reason):
        parse_ccel_table(data)


@given(st.integers(0, 55), st.integers(1, 255))
def test_a_flipped_byte_of_the_table_is_refused(place: int, flip: int) -> None:
    data = bytearray(table())
    data[place] ^= flip
    with pytest.raises(CcelError):
        parse_ccel_table(bytes(data))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10 abcd ima-ng x\n", "line 1"),
        ("2 abc ima-ng x\n", "line 1"),
        (f"2 {'ab' * 48} ima-ng x\n2 {'ab' * 64} ima-ng x\n", "64 bytes in line 2"),
        ("2 ab ima x\n" * 65537, "more than 65536 lines"),
        ("\n", "line 1"),
    ],
)
def test_measurement_lists_that_are_not_for_rtmr2_are_refused(text: str, reason: str) -> None:
    with pytest.raises(CcelError, match=reason):
        parse_ima_log(text)


@given(st.integers(0, 2000))
def test_a_truncated_log_is_refused_or_shorter(size: int) -> None:
    data = vector("tdx-ccel-logs/trustee/CCEL_data_ovmf").read_bytes()[:size]
    try:
        log = parse_cc_log(data)
    except FormatError:
        return
    assert len(log.events) < 21
