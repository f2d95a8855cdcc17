"""Event logs of every format as one structure, which is replayed and judged.

=========  =================================================================  ===============================
format     form                                                               registers
=========  =================================================================  ===============================
tcg2       ``measurements.eventlog``; every record has every bank             ``sha256:4``: PCR 4 of the bank
ccel       ``measurements.tdx.ccel``: SHA-384, register indices 1 to 4        ``rtmr0`` to ``rtmr3``
dstack     ``measurements.dstack.event_log``: JSON, version 1 or 2            ``rtmr0`` to ``rtmr3``
keyturn    canonical JSON array of {"name", "payload" (hex)}                  ``rtmr3``, ``sha256:14`` and
           (``measurements.runtime_events``)                                  ``sha384:14``: one of them
=========  =================================================================  ===============================

A record's digests are those that extended its register. ``covered`` are the bytes that they cover
(``attestation.event_log_digests``); ``name`` and ``data`` beyond that are the log's word.

dstack's versioned attestations leave out of the log all that firmware measured but the three digests of ACPI
data in RTMR0 (``measurements.dstack.attestation``). What is left cannot be replayed, so in a log of exactly
that form those three records count for no register and prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from attestation.container import LogFormat
from attestation.event_log_digests import covered_data, hash_in
from measurements.canonical import Json, parse_canonical
from measurements.dstack.event_log import LogEvent as DstackEvent
from measurements.dstack.event_log import parse_event_log as parse_dstack_log
from measurements.dstack.event_log import wrong_digests
from measurements.errors import FormatError
from measurements.event_data import type_name
from measurements.eventlog import Algorithm, EventLog, parse_event_log
from measurements.eventlog import LogEvent as TcgEvent
from measurements.events import EventType
from measurements.runtime_events import EVENT_TYPE, RUNTIME_BANKS, RUNTIME_PCR, RuntimeEvent, event_digest
from measurements.strict_fields import Fields
from measurements.tdx.cc_mapping import CcRegister
from measurements.tdx.ccel import parse_cc_log

MAX_RUNTIME_EVENTS = 256
MAX_PAYLOAD = 4096
"""Largest payload of one of keyturn's runtime events, in bytes."""

RTMRS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
RUNTIME_RTMR = "rtmr3"
RTMR_BANK = "sha384"

_ACPI_EVENTS, _ACPI_DATA = 3, b"ACPI DATA"
_BANKS = {algorithm: algorithm.bank for algorithm in Algorithm}
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_HEX = re.compile(r"([0-9a-f]{2})*")
_ADVICE = "take the log again from the machine; one that was cut or edited cannot be used"


class EventLogError(FormatError):
    """A log that is not of its format, or says what cannot be."""

    code = "event-log"


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRecord:
    """One record. ``registers`` are the names of all registers that it extends, each by the bank of its
    digest; none for a record that only informs. ``where`` says where it is in the log, for people.
    """

    registers: Mapping[str, str]
    """Bank of ``digests`` by register."""
    event_type: int
    name: str
    digests: Mapping[str, bytes]
    data: bytes
    covered: bytes | None
    wrong: str
    """Why the digest cannot be right; empty if it can."""
    where: str

    @property
    def type_name(self) -> str:
        """Name of the type, its number if it is not known."""
        return type_name(self.event_type)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedLog:
    """A log. ``start`` holds values of registers that do not start at zeros."""

    format: LogFormat
    banks: tuple[str, ...]
    records: tuple[LogRecord, ...]
    start: Mapping[str, bytes]

    def replay(self) -> dict[str, bytes]:
        """Values of all registers that the log extends, by their names in policies."""
        values: dict[str, bytes] = {}
        for record in self.records:
            for register, bank in record.registers.items():
                digest = record.digests[bank]
                before = values.get(register) or self.start_value(register, len(digest))
                values[register] = hash_in(bank, before + digest)
        return values

    def start_value(self, register: str, size: int) -> bytes:
        """Value of a register of ``size`` bytes before its first event."""
        return self.start.get(register, bytes(size))


def read_tcg2(data: bytes) -> ParsedLog:
    """A TPM's log; raises ``FormatError``."""
    log = parse_event_log(data, subject="TPM event log")
    _require_all_banks(log)
    banks = tuple(algorithm.bank for algorithm in log.algorithms)
    registers = {pcr: {f"{bank}:{pcr}": bank for bank in banks} for pcr in {one.pcr for one in log.events}}
    records = tuple(
        _tcg_record(event, number, registers[event.pcr] if event.extends else {})
        for number, event in enumerate(log.events, start=1)
    )
    return ParsedLog(format=LogFormat.TCG2, banks=banks, records=records, start=_pcr_starts(log))


def read_ccel(data: bytes) -> ParsedLog:
    """A trust domain's log; raises ``FormatError``."""
    log = parse_cc_log(data)
    records = tuple(
        _tcg_record(event, number, _rtmrs(event)) for number, event in enumerate(log.events, start=1)
    )
    return ParsedLog(format=LogFormat.CCEL, banks=(RTMR_BANK,), records=records, start={})


def read_dstack(data: bytes) -> ParsedLog:
    """A log of dstack; raises ``FormatError``."""
    events = parse_dstack_log(data, subject="dstack event log")
    wrong = set(map(id, wrong_digests(events)))
    stripped = _is_stripped(events)
    records = tuple(
        _dstack_record(event, number, id(event) in wrong, stripped) for number, event in enumerate(events)
    )
    return ParsedLog(format=LogFormat.DSTACK, banks=(RTMR_BANK,), records=records, start={})


def read_keyturn(data: bytes) -> ParsedLog:
    """Runtime events of keyturn; raises ``FormatError``."""
    events = parse_runtime_log(data)
    records = tuple(_runtime_record(event, number) for number, event in enumerate(events, start=1))
    return ParsedLog(format=LogFormat.KEYTURN, banks=RUNTIME_BANKS, records=records, start={})


def parse_runtime_log(data: bytes) -> tuple[RuntimeEvent, ...]:
    """The events of a log of keyturn; raises ``FormatError``."""
    document = parse_canonical(data, subject="runtime events", marks=8 * MAX_RUNTIME_EVENTS)
    if not isinstance(document, list) or len(document) > MAX_RUNTIME_EVENTS:
        raise _error(f"is not an array of at most {MAX_RUNTIME_EVENTS} events")
    return tuple(_runtime_event(entry, number) for number, entry in enumerate(document, start=1))


def _runtime_event(entry: Json, number: int) -> RuntimeEvent:
    fields = Fields(entry, ("name", "payload"), path=f"event {number}", refuse=_error)
    name, payload = fields.text("name", _NAME), fields.text("payload", _HEX)
    if len(payload) > 2 * MAX_PAYLOAD:
        fields.fail("payload", f"is larger than {MAX_PAYLOAD} bytes")
    return RuntimeEvent(name, bytes.fromhex(payload))


def _runtime_record(event: RuntimeEvent, number: int) -> LogRecord:
    registers = {f"{bank}:{RUNTIME_PCR}": bank for bank in RUNTIME_BANKS}
    return LogRecord(
        registers={RUNTIME_RTMR: RTMR_BANK, **registers},
        event_type=EVENT_TYPE,
        name=event.name,
        digests={bank: event_digest(event, algorithm=bank) for bank in RUNTIME_BANKS},
        data=event.payload,
        covered=event.payload,
        wrong="",
        where=f"event {number}",
    )


def _tcg_record(event: TcgEvent, number: int, registers: Mapping[str, str]) -> LogRecord:
    digests = {_BANKS[algorithm]: digest for algorithm, digest in event.digests.items()}
    covered, wrong = _judged(event.event_type, event.data, digests)
    return LogRecord(
        registers=registers,
        event_type=event.event_type,
        name="",
        digests=digests,
        data=event.data,
        covered=covered,
        wrong=wrong,
        where=f"record {number} at byte {event.offset}",
    )


def _is_stripped(events: tuple[DstackEvent, ...]) -> bool:
    """Whether only the digests of ACPI data are left of what firmware measured."""
    firmware = [event for event in events if event.runtime is None]
    return len(firmware) == _ACPI_EVENTS and all(
        (event.register, event.event_type, event.payload)
        == (0, EventType.EV_PLATFORM_CONFIG_FLAGS, _ACPI_DATA)
        for event in firmware
    )


def _dstack_record(event: DstackEvent, number: int, wrong_digest: bool, stripped: bool) -> LogRecord:
    digests = {RTMR_BANK: event.digest}
    if event.runtime is not None:
        covered: bytes | None = event.payload
        wrong = "states a digest that is not that of its name and payload" if wrong_digest else ""
    elif event.payload:
        covered, wrong = _judged(event.event_type, event.payload, digests)
    else:  # transport forms leave out what firmware logged
        covered, wrong = None, ""
    return LogRecord(
        registers={} if stripped and event.runtime is None else {RTMRS[event.register]: RTMR_BANK},
        event_type=event.event_type,
        name=event.name,
        digests=digests,
        data=event.payload,
        covered=covered,
        wrong=wrong,
        where=f"event {number}",
    )


def _judged(event_type: int, data: bytes, digests: Mapping[str, bytes]) -> tuple[bytes | None, str]:
    try:
        return covered_data(event_type, data, digests), ""
    except FormatError as error:
        return None, error.reason


def _rtmrs(event: TcgEvent) -> dict[str, str]:
    return {CcRegister(event.pcr).register: RTMR_BANK} if event.extends else {}


def _pcr_starts(log: EventLog) -> dict[str, bytes]:
    """Start values of PCR 0, and of PCR 17 to 22 for dynamic launches, in every bank."""
    return {
        f"{algorithm.bank}:{pcr}": log.start_value(pcr, algorithm)
        for algorithm in log.algorithms
        for pcr in (0, *range(17, 23))
    }


def _require_all_banks(log: EventLog) -> None:
    for event in log.events:
        if len(event.digests) != len(log.algorithms):
            raise _error(f"has no digest of each bank in the record at byte {event.offset}")


def _error(reason: str) -> EventLogError:
    return EventLogError(reason, subject="event log", advice=_ADVICE)
