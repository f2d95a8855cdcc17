"""Attacks on event logs: every lie in a log is refused, and what cannot be noticed is only a description."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import struct
import time
from collections.abc import Mapping

import pytest

from attestation.container import EvidenceContainer, EvidencePlatform, Log
from attestation.event_logs import _parse, judge_logs, log_checks, parse_log
from measurements.dstack.event_log import MAX_EVENTS
from measurements.eventlog import MAX_RECORDS, Algorithm, parse_event_log
from measurements.events import EventType
from measurements.tdx.quote import parse_quote
from tests.support.event_log_writer import Record, spec_id_record, write_log, write_record
from tests.support.limits import BUSY_SECONDS
from tests.support.log_evidence import ccel, dstack, failures, keyturn, pcrs_of, rtmrs_of, tcg2
from tests.support.vectors import vector

GOOGLE = "tdx-ccel-pairs/gcp-cos113"
MEBIBYTE = 1 << 20
CC = (Algorithm.SHA384,)
BANKS = (Algorithm.SHA1, Algorithm.SHA256)


def action(register: int, text: bytes, *, hashed: bytes | None = None) -> Record:
    digests = {one: hashlib.new(one.bank, text if hashed is None else hashed).digest() for one in BANKS}
    return Record(pcr=register, event_type=EventType.EV_EFI_ACTION, digests=digests, data=text)


def cc_action(register: int, text: bytes = b"text") -> Record:
    digest = hashlib.sha384(text).digest()
    return Record(pcr=register, event_type=5, digests={Algorithm.SHA384: digest}, data=text)


def quote_registers(relative: str) -> dict[str, bytes]:
    return dict(parse_quote(vector(relative).read_bytes()).body.registers())


def google_log() -> bytes:
    return vector(f"{GOOGLE}/ccel_data.dat").read_bytes().rstrip(b"\xff\0")


@pytest.fixture
def registers() -> dict[str, bytes]:
    return quote_registers(f"{GOOGLE}/cos-113-tdx-quote.dat")


def test_data_of_another_event_beside_an_honest_digest() -> None:
    log = write_log([action(4, b"harmless", hashed=b"evil")], algorithms=BANKS)
    assert failures(pcrs_of(log), tcg2(log)) == ["log-tcg2-digests"]


def test_digest_of_another_event_beside_honest_data(registers: dict[str, bytes]) -> None:
    honest = parse_event_log(google_log())
    first = next(one for one in honest.events if one.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG)
    other = next(one for one in honest.events if one.event_type == EventType.EV_SEPARATOR)
    swapped = google_log().replace(first.digests[Algorithm.SHA384], other.digests[Algorithm.SHA384])
    assert failures(registers, ccel(swapped)) == ["log-ccel-digests"]


def test_a_secure_boot_variable_shown_as_on(registers: dict[str, bytes]) -> None:
    log = bytearray(google_log())
    name = "SecureBoot".encode("utf-16-le")
    log[log.index(name) + len(name)] ^= 1
    assert failures(registers, ccel(bytes(log))) == ["log-ccel-digests"]


def test_another_kernel_command_line_shown(registers: dict[str, bytes]) -> None:
    assert b"loglevel=7" in google_log()
    shown = google_log().replace(b"loglevel=7", b"loglevel=6")
    assert failures(registers, ccel(shown)) == ["log-ccel-digests"]


@pytest.mark.parametrize("index", [0, 5, 24, 0xFFFFFFFF])
def test_a_register_that_a_trust_domain_does_not_have(index: int) -> None:
    log = write_log([cc_action(1), cc_action(index)], algorithms=CC)
    registers = {f"rtmr{number}": bytes(48) for number in range(4)}
    assert failures(registers, ccel(log)) == ["log-ccel-form"]


def test_records_in_another_order(registers: dict[str, bytes]) -> None:
    log = parse_event_log(google_log())
    records = [
        Record(pcr=one.pcr, event_type=one.event_type, digests=one.digests, data=one.data)
        for one in log.events
    ]
    at = next(n for n, one in enumerate(records[:-1]) if one.pcr == records[n + 1].pcr == 1 and n > 2)
    records[at], records[at + 1] = records[at + 1], records[at]
    head = google_log()[: log.events[0].offset]
    assert failures(registers, ccel(head + b"".join(map(write_record, records)))) == ["log-ccel-replay"]


def test_a_record_twice_and_a_record_left_out(registers: dict[str, bytes]) -> None:
    log, data = parse_event_log(google_log()), google_log()
    places = [one.offset for one in log.events] + [len(data)]
    extending = [n for n, one in enumerate(log.events) if one.extends]
    for number in (extending[0], extending[len(extending) // 2], extending[-1]):
        start, end = places[number], places[number + 1]
        twice = data[:end] + data[start:end] + data[end:]
        assert failures(registers, ccel(twice)) == ["log-ccel-replay"], number
        assert "log-ccel-replay" in failures(registers, ccel(data[:start] + data[end:])), number


def test_all_records_of_a_register_left_out(registers: dict[str, bytes]) -> None:
    log, data = parse_event_log(google_log()), google_log()
    places = [one.offset for one in log.events] + [len(data)]
    kept = [data[places[n] : places[n + 1]] for n, one in enumerate(log.events) if one.pcr != 3]
    assert failures(registers, ccel(data[: places[0]] + b"".join(kept))) == ["log-ccel-complete"]


def test_a_bank_missing_in_the_log_and_in_a_record() -> None:
    both = write_log([action(4, b"text")], algorithms=BANKS)
    lone = {Algorithm.SHA1: action(4, b"text").digests[Algorithm.SHA1]}
    sha1 = Record(pcr=4, event_type=EventType.EV_EFI_ACTION, digests=lone, data=b"text")
    assert failures(pcrs_of(both), tcg2(write_log([sha1], algorithms=BANKS[:1]))) == ["log-tcg2-registers"]
    assert failures(pcrs_of(both), tcg2(write_log([sha1], algorithms=BANKS))) == ["log-tcg2-form"]


def test_a_digest_that_is_right_in_one_bank_only() -> None:
    digests = dict(action(4, b"text").digests)
    digests[Algorithm.SHA1] = action(4, b"evil").digests[Algorithm.SHA1]
    record = Record(pcr=4, event_type=EventType.EV_EFI_ACTION, digests=digests, data=b"text")
    log = write_log([record], algorithms=BANKS)
    only = {name: value for name, value in pcrs_of(log).items() if name.startswith("sha256")}
    assert failures(only, tcg2(log)) == ["log-tcg2-digests"]


def test_a_log_of_another_machine(registers: dict[str, bytes]) -> None:
    other = vector("tdx-ccel-logs/trustee/CCEL_data_grub_gke").read_bytes()
    assert failures(registers, ccel(other)) == ["log-ccel-replay"]


def test_a_log_of_one_kind_passed_off_as_another(registers: dict[str, bytes]) -> None:
    firmware = vector("tpm-eventlogs/go-tpm-tools/debian-10.bin").read_bytes()
    assert failures(registers, ccel(firmware)) == ["log-ccel-form"]
    assert failures(registers, tcg2(google_log())) == ["log-tcg2-registers"]
    for log in (dstack(google_log()), keyturn(google_log())):
        assert failures(registers, log) == [f"log-{log.format.value}-form"]


def test_truncation_at_every_record_and_within(registers: dict[str, bytes]) -> None:
    data = google_log()
    places = [one.offset for one in parse_event_log(data).events]
    cuts = {*places, *(place + 5 for place in places), len(data) - 1, 40, 0}
    for cut in sorted(cuts - {len(data)}):
        assert failures(registers, ccel(data[:cut])), cut


@pytest.mark.parametrize("tail", [b"\1", b"\0\xff", bytes(64) + b"x", b"\xff" * 9 + b"\0"])
def test_bytes_after_the_log(registers: dict[str, bytes], tail: bytes) -> None:
    assert failures(registers, ccel(google_log() + tail)) == ["log-ccel-form"]


def descriptive_places(data: bytes) -> Mapping[int, str]:
    """Bytes that no digest covers, and why a change of them does no harm."""
    log = parse_event_log(data)
    places = {0: "index of the first record", 54: "errata", 55: "size of a number"}
    places |= dict.fromkeys(range(48, 52), "platform class")
    for event in log.events:
        start = event.offset
        end = start + 16 + len(event.data) + sum(2 + len(one) for one in event.digests.values())
        body = end - len(event.data)
        # A type is a description, too: the digest says what was hashed, not why. A type that defines its
        # digest can only become one that does not, whose data is then not covered.
        places |= dict.fromkeys(range(start + 4, start + 8), "type")
        places |= dict.fromkeys(range(body, end), "data")
        if not event.extends:
            places |= dict.fromkeys(range(start, start + 4), "register of a record that extends none")
    return places


def test_every_flipped_byte_is_noticed_or_a_description(registers: dict[str, bytes]) -> None:
    data = google_log()
    allowed = descriptive_places(data)
    strict = [place for place in range(len(data)) if place not in allowed]
    chance = random.Random(5)
    sample = [*strict[:3000:3], *chance.sample(strict, 400), *chance.sample(sorted(allowed), 300)]
    for place in sample:
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        failed = failures(registers, ccel(bytes(changed)))
        assert failed or place in allowed, place


def test_data_of_types_that_define_their_digest_cannot_be_changed(registers: dict[str, bytes]) -> None:
    data = google_log()
    defined = {4, 5, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, EventType.EV_EFI_ACTION}
    defined |= {EventType.EV_EFI_GPT_EVENT, EventType.EV_EFI_VARIABLE_AUTHORITY}
    chance = random.Random(6)
    tried = 0
    for event in parse_event_log(data).events:
        if event.event_type not in defined:
            continue
        start = event.offset + 16 + 2 + 48
        for place in {start, start + len(event.data) - 1, start + chance.randrange(len(event.data))}:
            changed = bytearray(data)
            changed[place] ^= 1 << chance.randrange(8)
            assert failures(registers, ccel(bytes(changed))) == ["log-ccel-digests"], event
            tried += 1
    assert tried > 30


DSTACK = "dstack/quote-report.json"


def dstack_case() -> tuple[dict[str, bytes], list[dict[str, object]]]:
    report = json.loads(vector(DSTACK).read_text())
    registers = dict(parse_quote(bytes.fromhex(report["quote"])).body.registers())
    return registers, json.loads(report["event_log"])


def test_another_payload_of_a_dstack_event() -> None:
    registers, entries = dstack_case()
    for entry in entries:
        if entry["imr"] != 3:
            continue
        honest = dict(entry)
        entry["event_payload"] = str(entry["event_payload"]) + "00"
        assert failures(registers, dstack(json.dumps(entries).encode())) == ["log-dstack-digests"]
        entry["digest"] = ""
        assert failures(registers, dstack(json.dumps(entries).encode())) == ["log-dstack-replay"]
        entry.update(honest)


def test_an_event_of_dstack_in_another_register_or_under_another_name() -> None:
    registers, entries = dstack_case()
    runtime = next(entry for entry in entries if entry["imr"] == 3)
    for change in ({"imr": 2}, {"imr": 4}, {"event_type": 4}, {"event": "a:b"}, {"version": 3}, {"more": 1}):
        changed = [{**entry, **change} if entry is runtime else entry for entry in entries]
        assert failures(registers, dstack(json.dumps(changed).encode())) == ["log-dstack-form"], change
    renamed = [{**entry, "event": "other", "digest": ""} if entry is runtime else entry for entry in entries]
    assert failures(registers, dstack(json.dumps(renamed).encode())) == ["log-dstack-replay"]


def proven(log: Log) -> list[tuple[object, ...]]:
    """All that anybody may rely on in a log that is accepted."""
    return [
        (sorted(one.registers), sorted(one.digests.items()), one.covered)
        for one in parse_log(log).records
        if one.registers
    ]


def test_no_accepted_flip_in_dstacks_log_changes_what_is_proven() -> None:
    registers, entries = dstack_case()
    data = json.dumps(entries).encode()
    honest, chance, accepted = proven(dstack(data)), random.Random(7), 0
    for place in chance.sample(range(len(data)), 1500):
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        log = dstack(bytes(changed))
        if failures(registers, log):
            continue
        accepted += 1
        for before, after in zip(honest, proven(log), strict=True):
            # A type that defines no digest any more leaves its data uncovered, and no other covered.
            assert after[:2] == before[:2]
            assert after[2] in (before[2], None)
    assert accepted < 1500 // 2


def test_no_accepted_flip_in_a_tpms_log_changes_what_is_proven() -> None:
    data = vector("tpm-eventlogs/go-tpm-tools/cos-101-amd-sev.bin").read_bytes()
    registers, honest, chance = pcrs_of(data), proven(tcg2(data)), random.Random(8)
    for place in chance.sample(range(len(data)), 700):
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        log = tcg2(bytes(changed))
        if failures(registers, log):
            continue
        for before, after in zip(honest, proven(log), strict=True):
            assert after[:2] == before[:2]
            assert after[2] in (before[2], None)


def test_a_key_twice_in_a_dstack_event() -> None:
    registers, entries = dstack_case()
    text = json.dumps(entries).replace('"imr": 3', '"imr": 3, "imr": 3', 1)
    assert failures(registers, dstack(text.encode())) == ["log-dstack-form"]


HOSTILE: dict[str, Log] = {
    "records without end": tcg2(
        spec_id_record(BANKS)
        + write_record(action(4, b"")) * (MEBIBYTE // len(write_record(action(4, b""))) - 1)
    ),
    "as many records as are read": tcg2(
        spec_id_record(BANKS) + write_record(action(4, b"x" * 400)) * MAX_RECORDS
    ),
    "old records that begin like padding": tcg2(struct.pack("<II20sI", 0, 0, bytes(19) + b"x", 0) * 32700),
    "a record of a mebibyte": tcg2(
        spec_id_record(BANKS) + struct.pack("<III", 4, 5, 2) + bytes(MEBIBYTE - 200)
    ),
    "a digest count of four billion": ccel(
        spec_id_record(CC) + struct.pack("<III", 1, 5, 0xFFFFFFFF) + bytes(1000)
    ),
    "padding of a mebibyte": ccel(spec_id_record(CC).ljust(MEBIBYTE, b"\0")),
    "nesting of a mebibyte": dstack(b"[" * MEBIBYTE),
    "nesting in an event": dstack(b'[{"imr":' + b"[" * 500_000 + b"]" * 500_000 + b"}]"),
    "objects without end": dstack(b'{"a":' * (MEBIBYTE // 5)),
    "empty events without end": dstack(b"[" + b"{}," * (MEBIBYTE // 3 - 2) + b"{}]"),
    "a number of a mebibyte": dstack(b"[" + b"9" * (MEBIBYTE - 2) + b"]"),
    "quotes without end": dstack(b'["' + b'\\"' * (MEBIBYTE // 2 - 3) + b'"]'),
    "too many events": dstack(
        json.dumps(
            [{"imr": 0, "event_type": 1, "digest": "", "event": "", "event_payload": ""}] * 9000
        ).encode()
    ),
    "runtime events without end": keyturn(b"[" + b"{}," * (MEBIBYTE // 3 - 2) + b"{}]"),
    "nested runtime events": keyturn(b"[" * MEBIBYTE),
    "a payload of a mebibyte": keyturn(b'[{"name":"a","payload":"' + b"0" * (MEBIBYTE - 40) + b'"}]'),
}


def judging_seconds(evidence: EvidenceContainer, registers: Mapping[str, bytes]) -> float:
    """Processor time of one judgement from the bytes on."""
    _parse.cache_clear()
    began = time.process_time()
    judge_logs(evidence, registers)
    return time.process_time() - began


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_mebibyte_is_refused_in_time_and_memory(name: str) -> None:
    log = HOSTILE[name]
    assert len(log.data) <= MEBIBYTE
    evidence = EvidenceContainer(platform=EvidencePlatform.TDX, report=b"report", logs=(log,))
    registers = {"sha256:4": bytes(32), "rtmr0": bytes(48), "rtmr3": b"\1" * 48}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = min(judging_seconds(evidence, registers) for _ in range(3))
    verdict = judge_logs(evidence, registers)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert not verdict.passed
    assert {check.name for check in verdict.checks} <= set(log_checks(evidence))
    assert spent < BUSY_SECONDS, f"{spent * 1000:.0f} ms"
    assert grown < 64 << 10, f"{grown} KiB"


def test_as_many_events_of_dstack_as_are_read_take_bounded_time() -> None:
    entry = {"imr": 3, "event_type": 0x08000001, "digest": "", "event": "a", "event_payload": ""}
    data = json.dumps([entry] * MAX_EVENTS, separators=(",", ":")).encode()
    began = time.process_time()
    assert failures({"rtmr3": bytes(48)}, dstack(data)) == ["log-dstack-replay"]
    assert time.process_time() - began < BUSY_SECONDS


def test_registers_of_a_log_are_those_of_no_other_platform() -> None:
    log = write_log([cc_action(1)], algorithms=CC)
    assert failures({"sha384:1": rtmrs_of(log)["rtmr0"]}, ccel(log)) == ["log-ccel-registers"]
