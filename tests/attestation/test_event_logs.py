"""Event logs of all formats in one structure: what is read, replayed, covered and refused."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.container import LogFormat
from attestation.event_log_digests import covered_data
from attestation.event_log_records import MAX_RUNTIME_EVENTS, parse_runtime_log
from attestation.event_logs import MAX_LOG, log_checks, parse_log, proven_records
from measurements.canonical import encode_canonical
from measurements.errors import FormatError, KeyturnError
from measurements.eventlog import Algorithm
from measurements.events import EventType
from measurements.runtime_events import RuntimeEvent, boot_event, replay_runtime_events, storage_event
from measurements.runtime_events import Storage as StorageState
from tests.support.event_log_writer import Record, write_log
from tests.support.limits import BUSY_SECONDS
from tests.support.log_evidence import (
    ccel,
    container,
    dstack,
    failures,
    keyturn,
    pcrs_of,
    reasons,
    rtmrs_of,
    tcg2,
)

BOTH = (Algorithm.SHA256, Algorithm.SHA384)
CC = (Algorithm.SHA384,)
EVENTS = (boot_event(), storage_event(StorageState.NONE))
SEPARATOR = bytes(4)


def record(
    register: int = 4,
    kind: int = EventType.EV_SEPARATOR,
    data: bytes = SEPARATOR,
    *,
    hashed: bytes | None = None,
    algorithms: tuple[Algorithm, ...] = BOTH,
) -> Record:
    over = data if hashed is None else hashed
    digests = {one: hashlib.new(one.bank, over).digest() for one in algorithms}
    return Record(pcr=register, event_type=kind, digests=digests, data=data)


def tpm_log(*records: Record) -> bytes:
    return write_log(records or (record(),), algorithms=BOTH)


def cc_log(*records: Record) -> bytes:
    return write_log(records or (record(1, algorithms=CC),), algorithms=CC)


def keyturn_log(events: tuple[RuntimeEvent, ...] = EVENTS) -> bytes:
    return encode_canonical([{"name": one.name, "payload": one.payload.hex()} for one in events])


def dstack_log(*entries: dict[str, Any]) -> bytes:
    return json.dumps(entries).encode()


def dstack_event(payload: bytes = b"", **changes: Any) -> dict[str, Any]:
    digest = hashlib.sha384(b"\x01\0\0\x08:app-id:" + payload).hexdigest()
    entry = {"imr": 3, "event_type": 0x08000001, "digest": digest, "event": "app-id"}
    return {**entry, "event_payload": payload.hex(), **changes}


def rtmr_of(*digests: str) -> bytes:
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + bytes.fromhex(digest)).digest()
    return value


def test_records_say_register_type_digests_and_place() -> None:
    parsed = parse_log(tcg2(tpm_log(record(7), record(23, data=b"\xff" * 4))))
    first, second = parsed.records
    assert first.registers == {"sha256:7": "sha256", "sha384:7": "sha384"}
    assert (first.type_name, first.covered, first.where) == ("EV_SEPARATOR", bytes(4), "record 1 at byte 69")
    assert second.digests["sha384"] == hashlib.sha384(b"\xff" * 4).digest()
    assert (parsed.format, parsed.banks) == (LogFormat.TCG2, ("sha256", "sha384"))


def test_what_is_judged_is_what_is_replayed() -> None:
    data = tpm_log(record(0), record(0), record(7))
    assert parse_log(tcg2(data)).replay() == pcrs_of(data)


def test_pcr_0_starts_at_the_locality_of_the_start() -> None:
    note = record(0, EventType.EV_NO_ACTION, b"StartupLocality\0\x03")
    silent = Record(
        pcr=0, event_type=3, digests={one: bytes(one.digest_size) for one in BOTH}, data=note.data
    )
    data = tpm_log(silent, record(0))
    assert failures(pcrs_of(data), tcg2(data)) == []
    assert pcrs_of(data) != pcrs_of(tpm_log(record(0)))


def test_every_quoted_bank_has_to_be_in_the_log() -> None:
    data = tpm_log()
    registers = {**pcrs_of(data), "sha1:4": bytes(20)}
    assert failures(registers, tcg2(data)) == ["log-tcg2-registers"]
    assert "no bank sha1" in reasons(registers, tcg2(data))


def test_a_bank_that_is_not_quoted_does_no_harm() -> None:
    data = tpm_log()
    one_bank = {name: value for name, value in pcrs_of(data).items() if name.startswith("sha256")}
    assert failures(one_bank, tcg2(data)) == []


def test_records_of_registers_that_are_not_quoted_are_not_proven() -> None:
    data = tpm_log(record(4), record(5))
    registers = {"sha256:4": pcrs_of(data)["sha256:4"]}
    assert failures(registers, tcg2(data)) == []
    assert [one.where for one in proven_records(parse_log(tcg2(data)), registers)] == ["record 1 at byte 69"]


def test_a_log_without_any_quoted_register_is_refused() -> None:
    assert failures({"sha256:7": bytes(32)}, tcg2(tpm_log(record(4)))) == ["log-tcg2-replay"]
    assert failures({}, tcg2(tpm_log())) == ["log-tcg2-registers"]
    assert failures({"mrtd": bytes(48)}, ccel(cc_log())) == ["log-ccel-registers"]


def test_an_extended_register_without_a_record_is_refused() -> None:
    data = tpm_log(record(4))
    registers = {**pcrs_of(data), "sha256:9": b"\x01" * 32}
    assert failures(registers, tcg2(data)) == ["log-tcg2-complete"]
    assert failures({**registers, "sha256:9": bytes(32)}, tcg2(data)) == []


@pytest.mark.parametrize("pcr", [10, 16, 23])
def test_registers_that_firmware_never_logs_may_have_any_value(pcr: int) -> None:
    data = tpm_log()
    assert failures({**pcrs_of(data), f"sha256:{pcr}": b"\x01" * 32}, tcg2(data)) == []


def test_pcr_14_may_be_that_of_the_runtime_events() -> None:
    firmware = tpm_log()
    runtime = {f"{bank}:14": value for bank, value in replay_runtime_events(EVENTS).items()}
    registers = {**pcrs_of(firmware), **runtime}
    assert failures(registers, tcg2(firmware), keyturn(keyturn_log())) == []
    assert failures(registers, tcg2(firmware)) == ["log-tcg2-complete"]
    assert failures(registers, tcg2(firmware), keyturn(keyturn_log(EVENTS[:1]))) == ["log-keyturn-replay"]


def test_runtime_events_are_held_against_rtmr3_where_there_is_no_tpm() -> None:
    value = replay_runtime_events(EVENTS)["sha384"]
    registers = {"rtmr3": value, "rtmr0": rtmrs_of(cc_log())["rtmr0"]}
    assert failures(registers, keyturn(keyturn_log())) == []
    assert failures(registers, ccel(cc_log()), keyturn(keyturn_log())) == []
    assert failures(registers, ccel(cc_log())) == ["log-ccel-complete"]
    assert failures({"rtmr3": value, "sha256:14": bytes(32)}, keyturn(keyturn_log())) == [
        "log-keyturn-replay"
    ]
    assert failures({"measurement": value}, keyturn(keyturn_log())) == ["log-keyturn-registers"]


def test_no_runtime_events_mean_a_register_of_zeros() -> None:
    assert failures({"rtmr3": bytes(48)}, keyturn(b"[]")) == []
    assert failures({"rtmr3": b"\x01" * 48}, keyturn(b"[]")) == ["log-keyturn-replay"]


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[] ",
        b'[{"name":"a"}]',
        b'[{"name":"A","payload":""}]',
        b'[{"name":"a","payload":"0"}]',
        b'[{"name":"a","payload":"AA"}]',
        b'[{"name":"a","name":"a","payload":""}]',
        b'[{"payload":"","name":"a"}]',
        b'[{"name":"a","payload":"","x":1}]',
        encode_canonical([{"name": "a", "payload": ""}] * (MAX_RUNTIME_EVENTS + 1)),
        encode_canonical([{"name": "a", "payload": "00" * 4097}]),
    ],
)
def test_runtime_events_of_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_runtime_log(data)
    assert failures({"rtmr3": bytes(48)}, keyturn(data)) == ["log-keyturn-form"]


def test_dstacks_events_of_both_versions_replay() -> None:
    text = b'{"name":"app-id","payload":"aa","type":134217729}'
    later = dstack_event(b"\xaa", version=2, digest=hashlib.sha384(text).hexdigest(), preimage=text.hex())
    for entry in (dstack_event(b"\xaa"), later):
        log = dstack(dstack_log(entry))
        assert failures({"rtmr3": rtmr_of(entry["digest"])}, log) == []
        assert parse_log(log).records[0].covered == b"\xaa"


def test_a_dstack_log_without_runtime_events_needs_an_untouched_rtmr3() -> None:
    entry = dstack_event(imr=0, event_type=4, event="", digest=hashlib.sha384(bytes(4)).hexdigest())
    registers = {"rtmr0": rtmr_of(entry["digest"]), "rtmr3": bytes(48)}
    assert failures(registers, dstack(dstack_log(entry))) == []
    assert failures({**registers, "rtmr3": b"\x01" * 48}, dstack(dstack_log(entry))) == ["log-dstack-replay"]


def test_a_dstack_log_that_was_stripped_explains_rtmr3_alone() -> None:
    entry = dstack_event(b"\xaa")
    registers = {"rtmr0": b"\x01" * 48, "rtmr3": rtmr_of(entry["digest"])}
    assert failures(registers, dstack(dstack_log(entry))) == []
    assert failures(registers, dstack(dstack_log(entry)), ccel(cc_log())) == ["log-ccel-replay"]


def test_only_a_log_of_exactly_the_stripped_form_is_taken_for_one() -> None:
    digest = hashlib.sha384(b"tables").hexdigest()
    acpi = dstack_event(b"ACPI DATA", imr=0, event_type=10, event="acpi", digest=digest)
    runtime = dstack_event(b"\xaa")
    registers = {"rtmr0": b"\x01" * 48, "rtmr1": bytes(48), "rtmr3": rtmr_of(runtime["digest"])}
    assert failures(registers, dstack(dstack_log(acpi, acpi, acpi, runtime))) == []
    others: list[list[dict[str, Any]]] = [
        [acpi, acpi],
        [acpi] * 4,
        [acpi, acpi, {**acpi, "imr": 1}],
        [acpi, acpi, {**acpi, "event_payload": ""}],
        [acpi, acpi, {**acpi, "event_type": 1}],
        [acpi, acpi, acpi, {**acpi, "imr": 2}],
    ]
    for firmware in others:
        assert failures(registers, dstack(dstack_log(*firmware, runtime))) == ["log-dstack-replay"]


def test_firmware_events_in_dstacks_log_are_covered_where_they_have_data() -> None:
    digest = hashlib.sha384(bytes(4)).hexdigest()
    good = dstack_event(bytes(4), imr=0, event_type=4, event="", digest=digest)
    lying = {**good, "event_payload": "01000000"}
    registers = {"rtmr0": rtmr_of(digest), "rtmr3": bytes(48)}
    assert failures(registers, dstack(dstack_log(good))) == []
    assert failures(registers, dstack(dstack_log(lying))) == ["log-dstack-digests"]
    assert [one.covered for one in parse_log(dstack(dstack_log(good))).records] == [bytes(4)]


def test_two_logs_of_one_format_are_refused_unread() -> None:
    log = ccel(cc_log())
    assert failures(rtmrs_of(log.data), log, log) == ["log-formats"]
    assert log_checks(container(log, log))[0] == "log-formats"


def test_the_size_of_a_log_is_bounded() -> None:
    padded = cc_log().ljust(MAX_LOG, b"\xff")
    assert failures(rtmrs_of(cc_log()), ccel(padded)) == []
    assert failures(rtmrs_of(cc_log()), ccel(padded + b"\xff")) == ["log-ccel-form"]


def variable(name: str, data: bytes, *, excess: bytes = b"") -> bytes:
    encoded = name.encode("utf-16-le")
    return struct.pack("<16sQQ", bytes(16), len(encoded) // 2, len(data)) + encoded + data + excess


V = EventType.EV_EFI_VARIABLE_BOOT
AUTHORITY = EventType.EV_EFI_VARIABLE_AUTHORITY
OLD_SHIM = variable("Shim", b"cert", excess=b"\0\0\0\0\0\x07")
TAGGED = struct.pack("<II", 0x4141454C, 1) + b"x"


@pytest.mark.parametrize(
    ("kind", "data", "hashed", "covered"),
    [
        (EventType.EV_SEPARATOR, bytes(4), bytes(4), bytes(4)),
        (EventType.EV_S_CRTM_VERSION, b"1\0", b"1\0", b"1\0"),
        (EventType.EV_EFI_ACTION, b"Exit", b"Exit", b"Exit"),
        (V, variable("Boot0000", b"option"), b"option", b"option"),
        (
            V,
            variable("Boot0000", b"option"),
            variable("Boot0000", b"option"),
            variable("Boot0000", b"option"),
        ),
        (AUTHORITY, OLD_SHIM, OLD_SHIM[:-1], OLD_SHIM[:-1]),
        (EventType.EV_EVENT_TAG, TAGGED, TAGGED, TAGGED),
        (EventType.EV_IPL, b"grub_cmd: set a=b\0", b"set a=b", b"set a=b"),
        (EventType.EV_IPL, ".linux\0".encode("utf-16-le"), b".linux\0", b".linux\0"),
        (EventType.EV_IPL, b"/boot/grub.cfg\0", b"contents", None),
        (EventType.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32), b"image", None),
        (EventType.EV_EVENT_TAG, bytes(8), b"other", None),
        (EventType.EV_PLATFORM_CONFIG_FLAGS, b"flags", b"flags", b"flags"),
    ],
)
def test_covered_bytes(kind: int, data: bytes, hashed: bytes, covered: bytes | None) -> None:
    digests = {bank: hashlib.new(bank, hashed).digest() for bank in ("sha1", "sha256", "sha384")}
    assert covered_data(kind, data, digests) == covered


@pytest.mark.parametrize(
    ("kind", "data", "hashed"),
    [
        (EventType.EV_SEPARATOR, b"error", b"\x01\0\0\0"),
        (
            EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
            variable("SecureBoot", b"\x01"),
            variable("SecureBoot", b"\0"),
        ),
        (EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\x01"), b"\x01"),
        (V, variable("Boot0000", b"option"), b"another"),
        (V, variable("Boot0000", b"option", excess=b"x"), b"optionx"),
        (AUTHORITY, variable("db", b"cert"), variable("db", b"cert")[:-1]),
        (AUTHORITY, OLD_SHIM + b"x", OLD_SHIM),
        (EventType.EV_EFI_GPT_EVENT, b"table", b"other"),
        (EventType.EV_EVENT_TAG, TAGGED, b"x"),
        (EventType.EV_IPL, b"kernel_cmdline: quiet\0", b"quiet init=/bin/sh"),
        (EventType.EV_IPL, b"grub_cmd: set a=b\0", b"grub_cmd: set a=b\0"),
        (EventType.EV_NO_ACTION, b"note", b"other"),
    ],
)
def test_data_that_was_not_measured_is_noticed(kind: int, data: bytes, hashed: bytes) -> None:
    digests = {bank: hashlib.new(bank, hashed).digest() for bank in ("sha1", "sha256")}
    with pytest.raises(FormatError, match="not that of its data"):
        covered_data(kind, data, digests)
    log = tpm_log(record(4, kind, data, hashed=hashed), record(4))
    assert failures(pcrs_of(log), tcg2(log)) == ["log-tcg2-digests"]


def test_banks_that_cover_different_data_are_noticed() -> None:
    digests = {"sha256": hashlib.sha256(bytes(4)).digest(), "sha384": hashlib.sha384(b"\xff" * 4).digest()}
    with pytest.raises(FormatError):
        covered_data(EventType.EV_SEPARATOR, bytes(4), digests)


@given(st.binary(max_size=300), st.sampled_from(list(LogFormat)))
def test_no_bytes_raise_anything_but_our_errors(data: bytes, kind: LogFormat) -> None:
    maker = {"tcg2": tcg2, "ccel": ccel, "dstack": dstack, "keyturn": keyturn}[kind.value]
    try:
        parse_log(maker(data)).replay()
    except KeyturnError:
        return


@given(st.data())
def test_any_cut_or_flipped_byte_of_a_log_is_our_error_or_another_replay(data: st.DataObject) -> None:
    good = tpm_log(record(4), record(7, EventType.EV_EFI_ACTION, b"Exit"))
    log = bytearray(good)
    place = data.draw(st.integers(0, len(log) - 1))
    log[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(place, len(log)))
    failed = failures(pcrs_of(good), tcg2(bytes(log[:cut])))
    unused = (0, *range(48, 52), 54, 55)  # of the first record: index, class, errata, size of a number
    assert failed or (cut == len(log) and place in unused)


def test_a_long_log_is_read_and_judged_in_time() -> None:
    data = tpm_log(*(record(pcr % 10, EventType.EV_EFI_ACTION, b"x" * 100) for pcr in range(100)))
    registers = pcrs_of(data)
    began = time.process_time()
    assert failures(registers, tcg2(data)) == []
    assert time.process_time() - began < BUSY_SECONDS
