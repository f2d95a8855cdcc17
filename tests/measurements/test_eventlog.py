"""The event log parser: real logs replay to their known registers, bad bytes raise FormatError only."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.eventlog import EV_EFI_HCRTM_EVENT, EV_NO_ACTION, MAX_RECORDS, Algorithm, parse_event_log
from tests.support.event_log_writer import Record, spec_id_record, write_log, write_record
from tests.support.vectors import vector

BOTH = (Algorithm.SHA1, Algorithm.SHA256)

GOOGLE_LOGS = (
    "rhel8-uefi.bin",
    "ubuntu-1804-amd-sev.bin",
    "ubuntu-2104-no-dbx.bin",
    "ubuntu-2104-no-secure-boot.bin",
    "arch-linux-workstation.bin",
    "debian-10.bin",
    "cos-85-amd-sev.bin",
    "cos-101-amd-sev.bin",
    "gdc-host.bin",
    "eventlogwithsp800155.bin",
)
TPM2_TOOLS_LOGS = (
    "event-arch-linux.bin",
    "event-bootorder.bin",
    "event-postcode.bin",
    "event-uefi-sha1-log.bin",
    "event-uefiaction.bin",
    "event-uefiservices.bin",
    "event-uefivar.bin",
    "event.bin",
)
OTHER_LOGS = {
    "keylime/binary_bios_measurements": 120,
    "keylime/binary_bios_measurements-secureboot": 98,
    "keylime/mb_log.bin": 101,
    "go-attestation/coreos_36_shielded_vm_no_secure_boot_eventlog": 75,
    "go-attestation/crypto_agile_eventlog": 26,
    "go-attestation/ebs_event_missing_eventlog": 38,
    "go-attestation/option_rom_eventlog": 61,
    "go-attestation/sb_cert_eventlog": 14,
    "go-attestation/short_no_action_eventlog": 1,
    "go-attestation/ubuntu_2104_shielded_vm_no_secure_boot_eventlog": 105,
    "tpm2-tss/binary_measurements_nuc.bin": 17,
    "tpm2-tss/binary_measurements_pc_client.bin": 32,
    "tpm2-tss/specid-vendordata.bin": 0,
}


def assert_replays(log_path: Path, expected: dict[str, dict[str, str]]) -> None:
    log = parse_event_log(log_path.read_bytes())
    for bank, registers in expected.items():
        found = log.replay(Algorithm[bank.upper()])
        compared = {pcr: found[int(pcr)].hex() for pcr in registers if int(pcr) in found}
        untouched = {pcr: value for pcr, value in registers.items() if int(pcr) not in found}
        assert compared == {pcr: registers[pcr] for pcr in compared}
        assert all(set(value) == {"0"} for value in untouched.values())
        assert compared


@pytest.mark.parametrize("name", GOOGLE_LOGS)
def test_googles_logs_replay_to_their_registers_in_every_bank(name: str) -> None:
    expected = json.loads(vector("tpm-eventlogs/expected_pcrs_google.json").read_text())
    assert_replays(vector(f"tpm-eventlogs/go-tpm-tools/{name}"), expected[f"go-tpm-tools/{name}"])


@pytest.mark.parametrize("name", TPM2_TOOLS_LOGS)
def test_tpm2_tools_logs_replay_to_their_registers_in_every_bank(name: str) -> None:
    expected = json.loads(vector("tpm-eventlogs/tpm2-tools/expected_pcrs.json").read_text())
    assert_replays(vector(f"tpm-eventlogs/tpm2-tools/{name}"), expected[name])


def test_an_hcrtm_event_starts_pcr_0_at_locality_four() -> None:
    log = parse_event_log(vector("tpm-eventlogs/tpm2-tss/binary_measurements_hcrtm.bin").read_bytes())
    assert log.replay(Algorithm.SHA1)[0].hex() == "15f4e6ca457d1af6bc49511a93ba3500ad69acc5"


@pytest.mark.parametrize("name", OTHER_LOGS)
def test_other_real_logs_parse_to_the_last_record(name: str) -> None:
    log = parse_event_log(vector(f"tpm-eventlogs/{name}").read_bytes())
    assert len(log.events) == OTHER_LOGS[name]


def test_vendor_information_of_the_first_record_is_kept() -> None:
    log = parse_event_log(vector("tpm-eventlogs/tpm2-tss/specid-vendordata.bin").read_bytes())
    assert log.vendor_info == bytes.fromhex("deadbeef")


def test_a_first_record_that_claims_too_few_bytes_is_refused() -> None:
    data = vector("tpm-eventlogs/tpm2-tools/specid-vendordata.bin").read_bytes()
    with pytest.raises(FormatError, match="vendor information"):
        parse_event_log(data)


@pytest.mark.parametrize(
    "name", ["dstack/tpm_eventlog.bin", "trustee/CCEL_data", "trustee/CCEL_data_grub_gke"]
)
def test_padded_and_foreign_logs_parse(name: str) -> None:
    assert parse_event_log(vector(f"tdx-ccel-logs/{name}").read_bytes()).events


def record(pcr: int = 4, event_type: int = 5, data: bytes = b"data") -> Record:
    digests = {
        Algorithm.SHA1: hashlib.sha1(data, usedforsecurity=False).digest(),
        Algorithm.SHA256: hashlib.sha256(data).digest(),
    }
    return Record(pcr=pcr, event_type=event_type, digests=digests, data=data)


def test_written_records_come_back() -> None:
    written = [record(pcr=pcr, data=bytes([pcr])) for pcr in (0, 4, 23)]
    log = parse_event_log(write_log(written, algorithms=BOTH))
    assert [(e.pcr, e.event_type, dict(e.digests), e.data) for e in log.events] == [
        (w.pcr, w.event_type, dict(w.digests), w.data) for w in written
    ]


def test_informative_records_do_not_extend() -> None:
    plain = write_log([record()], algorithms=BOTH)
    noted = write_log([record(event_type=EV_NO_ACTION), record()], algorithms=BOTH)
    assert parse_event_log(plain).replay(Algorithm.SHA256) == parse_event_log(noted).replay(Algorithm.SHA256)


def test_startup_locality_sets_the_start_of_pcr_0() -> None:
    note = record(pcr=0, event_type=EV_NO_ACTION, data=b"StartupLocality\0\x03")
    log = parse_event_log(write_log([note, record(pcr=0)], algorithms=BOTH))
    expected = hashlib.sha256(bytes(31) + b"\x03" + record().digests[Algorithm.SHA256]).digest()
    assert log.replay(Algorithm.SHA256)[0] == expected


def test_startup_locality_after_the_first_extend_is_ignored() -> None:
    note = record(pcr=0, event_type=EV_NO_ACTION, data=b"StartupLocality\0\x03")
    log = parse_event_log(write_log([record(pcr=0), note], algorithms=BOTH))
    assert log.start_value(0, Algorithm.SHA256) == bytes(32)


def test_an_hcrtm_event_that_is_not_first_changes_nothing() -> None:
    late = record(pcr=0, event_type=EV_EFI_HCRTM_EVENT)
    log = parse_event_log(write_log([record(pcr=0), late], algorithms=BOTH))
    assert log.start_value(0, Algorithm.SHA256) == bytes(32)


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_padding_ends_a_log(byte: bytes) -> None:
    log = parse_event_log(write_log([record()], algorithms=BOTH, padding=byte * 500))
    assert len(log.events) == 1


def test_bytes_after_the_padding_are_refused() -> None:
    with pytest.raises(FormatError):
        parse_event_log(write_log([record()], algorithms=BOTH, padding=bytes(50) + b"x"))


def test_a_record_hidden_behind_padding_is_refused() -> None:
    hidden = write_record(record())
    with pytest.raises(FormatError):
        parse_event_log(write_log([record()], algorithms=BOTH, padding=bytes(64) + hidden))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 5])
def test_length_bombs_are_refused(size: int) -> None:
    good = write_record(record(data=b"data"))
    bomb = good[:-8] + struct.pack("<I", size) + b"data"
    with pytest.raises(FormatError, match="event data"):
        parse_event_log(spec_id_record(BOTH) + bomb)


@pytest.mark.parametrize("count", [0, 3, 0xFFFFFFFF])
def test_digest_count_bombs_are_refused(count: int) -> None:
    with pytest.raises(FormatError, match="digests"):
        parse_event_log(spec_id_record(BOTH) + struct.pack("<III", 4, 5, count) + bytes(100))


@pytest.mark.parametrize("algorithms", [(), (Algorithm.SHA256,) * 2, tuple(Algorithm) * 2])
def test_empty_or_repeated_algorithm_lists_are_refused(algorithms: tuple[Algorithm, ...]) -> None:
    with pytest.raises(FormatError):
        parse_event_log(spec_id_record(algorithms))


def test_a_digest_that_comes_twice_is_refused() -> None:
    digest = struct.pack("<H", Algorithm.SHA1) + bytes(20)
    with pytest.raises(FormatError, match="twice"):
        parse_event_log(spec_id_record(BOTH) + struct.pack("<III", 4, 5, 2) + digest * 2 + bytes(4))


def test_unknown_registers_are_refused() -> None:
    with pytest.raises(FormatError, match="register index 24"):
        parse_event_log(write_log([record(pcr=24)], algorithms=BOTH))


def test_a_bank_with_a_missing_digest_cannot_be_replayed() -> None:
    partial = Record(pcr=4, event_type=5, digests={Algorithm.SHA1: bytes(20)})
    log = parse_event_log(write_log([partial], algorithms=BOTH))
    assert log.replay(Algorithm.SHA1)
    with pytest.raises(FormatError, match="sha256"):
        log.replay(Algorithm.SHA256)


def test_an_oversized_log_is_refused() -> None:
    with pytest.raises(FormatError, match="larger"):
        parse_event_log(bytes((16 << 20) + 1))


def test_every_truncation_is_refused_or_ends_at_a_record() -> None:
    whole = write_log([record(data=b"abc"), record(pcr=7, data=b"defg")], algorithms=BOTH)
    ends = {len(spec_id_record(BOTH)), len(write_log([record(data=b"abc")], algorithms=BOTH)), len(whole)}
    for size in range(len(whole)):
        if size in ends:
            parse_event_log(whole[:size])
            continue
        with pytest.raises(FormatError):
            parse_event_log(whole[:size])


def accepts(data: bytes) -> bool:
    """Whether ``data`` parses; any error but ``FormatError`` fails the test."""
    try:
        parse_event_log(data)
    except FormatError:
        return False
    return True


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_format_errors_only(data: bytes) -> None:
    if len(data) < 32:
        assert not accepts(data)
    else:
        accepts(data)


@given(st.data())
def test_mutated_logs_raise_format_errors_only(data: st.DataObject) -> None:
    log = bytearray(write_log([record(pcr=pcr) for pcr in range(3)], algorithms=BOTH))
    for _ in range(data.draw(st.integers(1, 6))):
        log[data.draw(st.integers(0, len(log) - 1))] = data.draw(st.integers(0, 255))
    if accepts(bytes(log)):
        events = parse_event_log(bytes(log)).events
        assert all(event.pcr <= 23 or event.event_type == EV_NO_ACTION for event in events)


def test_more_records_than_any_machine_has_are_refused() -> None:
    one = write_record(record())
    assert len(parse_event_log(spec_id_record(BOTH) + one * MAX_RECORDS).events) == MAX_RECORDS
    with pytest.raises(FormatError, match="records"):
        parse_event_log(spec_id_record(BOTH) + one * (MAX_RECORDS + 1))


def test_records_that_begin_like_padding_cost_no_more_than_others() -> None:
    hostile = struct.pack("<II20sI", 0, 0, bytes(19) + b"x", 0)
    began = time.process_time()
    with pytest.raises(FormatError):
        parse_event_log(hostile * ((1 << 20) // len(hostile)))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 2), (8, 1), (27, 1), (48, 2), (52, 1), (53, 1), (53, 3), (55, 0), (55, 3)],
    ids=["register", "digest", "digest end", "class", "minor", "major 1", "major 3", "uintn 0", "uintn 3"],
)
def test_a_first_record_with_impossible_fields_is_refused(place: int, value: int) -> None:
    log = bytearray(write_log([record()], algorithms=BOTH))
    log[place] = value
    with pytest.raises(FormatError, match="first record"):
        parse_event_log(bytes(log))


def test_bytes_hidden_behind_the_vendor_information_are_refused() -> None:
    log = bytearray(write_log([record()], algorithms=BOTH))
    length = struct.unpack_from("<I", log, 28)[0]
    struct.pack_into("<I", log, 28, length + 4)
    log[32 + length : 32 + length] = b"more"
    with pytest.raises(FormatError, match="vendor information"):
        parse_event_log(bytes(log))
