"""What is known of a machine that booted, in one form for every platform: its registers and its log.

Registers are named as in ``measurements.platforms``. A log's register index is the PCR number on TPM systems;
on TDX it is the index of a CC measurement register (UEFI 2.10, section 38.4.1): 0 is MRTD, 1 to 4 are RTMR0
to RTMR3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from measurements.errors import FormatError
from measurements.event_data import EventFacts, decode_event, type_name
from measurements.eventlog import Algorithm, EventLog
from measurements.events import Bank
from measurements.platforms import Platform

Registers = Mapping[str, Mapping[str, bytes]]
"""Register values by register and bank."""

CC_REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
ALGORITHMS = {Bank.SHA256.value: Algorithm.SHA256, Bank.SHA384.value: Algorithm.SHA384}


@dataclass(frozen=True, kw_only=True, slots=True)
class BootedEvent:
    """One record of a log that extended a register.

    ``data`` is what the log says beside the digests (by bank), ``offset`` the record's place in the log's
    bytes, or its number in a log of JSON objects. ``title`` names what such a log names otherwise.
    """

    register: str
    event_type: int
    digests: Mapping[str, bytes]
    data: bytes
    offset: int
    title: str = ""

    @property
    def type_name(self) -> str:
        """The name of the event type."""
        return type_name(self.event_type)

    @property
    def facts(self) -> EventFacts:
        """What the data claims, or the title of a record whose log names it otherwise."""
        if self.title:
            return EventFacts(title=self.title)
        return decode_event(self.event_type, self.data)


@dataclass(frozen=True, kw_only=True, slots=True)
class BootedLog:
    """A log's extending records in order, and the values that they yield, which may start above zero.

    ``whole`` are the registers of which the log holds every event; None for all that a firmware's log shows.
    """

    events: tuple[BootedEvent, ...]
    registers: Registers
    whole: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Booted:
    """A boot. ``reported`` are registers that a quote or report tells, not the log; ``command_line`` is what
    the kernel said. At least one of ``log`` and ``reported`` is there.
    """

    platform: Platform
    log: BootedLog | None = None
    reported: Registers | None = None
    command_line: str | None = None

    @property
    def registers(self) -> Registers:
        """The values to explain: reported ones, else those of the log."""
        if self.reported is not None:
            return self.reported
        return self.log.registers if self.log is not None else {}

    @property
    def platform_events(self) -> Sequence[BootedEvent]:
        """The log's records; none without a log."""
        return () if self.log is None else self.log.events


def tpm_log(log: EventLog, *, subject: str = "event log") -> BootedLog:
    """A TPM system's log in the common form."""
    return _log(log, {pcr: str(pcr) for pcr in range(24)}, subject)


def cc_log(log: EventLog, *, subject: str = "event log") -> BootedLog:
    """A TDX machine's log in the common form; raises ``FormatError`` for a register that TDX lacks."""
    return _log(log, dict(enumerate(CC_REGISTERS)), subject)


def replay_booted(events: Iterable[BootedEvent], register: str, bank: str) -> bytes:
    """The value of a register that starts at zeros after ``events``."""
    value = bytes(Bank(bank).size)
    for event in events:
        if event.register == register:
            value = hashlib.new(bank, value + event.digests[bank]).digest()
    return value


def _log(log: EventLog, names: Mapping[int, str], subject: str) -> BootedLog:
    banks = [bank for bank, algorithm in ALGORITHMS.items() if algorithm in log.algorithms]
    if not banks:
        raise FormatError(
            "has neither SHA-256 nor SHA-384 digests, but "
            + ", ".join(algorithm.bank for algorithm in log.algorithms),
            subject=subject,
            advice="switch a predicted bank on in the machine's TPM",
        )
    values = {bank: log.replay(ALGORITHMS[bank]) for bank in banks}
    events = []
    for event in log.events:
        if not event.extends:
            continue
        if event.pcr not in names:
            raise FormatError(
                f"extends register index {event.pcr} at byte {event.offset}, and TDX has indexes 0 to 4",
                subject=subject,
                advice="give the log of the machine that the reference values are for",
            )
        digests = {bank: event.digests[ALGORITHMS[bank]] for bank in banks}
        events.append(
            BootedEvent(
                register=names[event.pcr],
                event_type=event.event_type,
                digests=digests,
                data=event.data,
                offset=event.offset,
            )
        )
    registers = {
        names[index]: {bank: values[bank][index] for bank in banks} for index in sorted(values[banks[0]])
    }
    return BootedLog(events=tuple(events), registers=registers)
