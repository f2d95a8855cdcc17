"""Lists of register values without a log: what tools print of a machine, and reference values of another one.

- ``tpm2_pcrread`` (tpm2-tools 5, its manual page), YAML: a line ``sha256:`` per bank, below it one line
  ``0 : 0x…`` per PCR, hexadecimal in either case. A bank that keyturn does not predict is left out.
- JSON: an object with ``platform`` and ``banks`` in the form of ``measurements.reference``; a whole document
of
  one prediction tells its events, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from measurements.booted import BootedEvent, BootedLog, Registers
from measurements.errors import FormatError
from measurements.events import Bank, EventType
from measurements.platforms import Platform, PlatformPrediction
from measurements.reference import parse_prediction, parse_registers

_BANK_LINE = re.compile(r"\s*([a-z0-9_]+)\s*:\s*")
_VALUE_LINE = re.compile(r"\s*([0-9]{1,2})\s*:\s*0[xX]([0-9a-fA-F]+)\s*")
_PCRS = 24
_START = re.compile(rb"\s*(?:pcrs:\s*)?sha(?:1|256|384|512)\s*:\s")


def is_pcr_list(data: bytes) -> bool:
    """Whether ``data`` starts like the output of ``tpm2_pcrread``."""
    return _START.match(data) is not None


def parse_pcr_list(data: bytes, *, subject: str) -> Registers:
    """Read the output of ``tpm2_pcrread``; raises ``FormatError`` for any line of another form."""
    registers: dict[str, dict[str, bytes]] = {}
    bank = ""
    for number, line in enumerate(_text(data, subject).splitlines(), start=1):
        head, value = _BANK_LINE.fullmatch(line), _VALUE_LINE.fullmatch(line)
        if value is not None and bank:
            _add(registers, bank, value[1], value[2], where=f"line {number}", subject=subject)
        elif head is not None:
            bank = head[1]
        elif line.strip():
            raise _error(f"has a line {number} that is neither a bank nor a PCR's value", subject)
    if not registers:
        raise _error("has no value of a SHA-256 or SHA-384 bank", subject)
    return registers


def parse_banks_document(document: Mapping[str, Any], *, subject: str) -> tuple[Platform, Registers]:
    """Read ``platform`` and ``banks`` of a JSON object; raises ``FormatError`` unless they are in form."""
    try:
        platform = Platform(document["platform"])
        return platform, parse_registers(platform, document["banks"], complete=False)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _error(f"holds no register values: {error!r}", subject) from error


def parse_other_prediction(data: bytes, *, subject: str) -> tuple[PlatformPrediction, BootedLog]:
    """Read a whole document; its events are as good as a log. Raises ``FormatError``."""
    prediction = parse_prediction(data, subject=subject)
    events = tuple(
        BootedEvent(
            register=event.register,
            event_type=EventType[event.event_type] if event.event_type in EventType.__members__ else 0,
            digests=event.digests,
            data=b"",
            offset=number,
            title=event.description,
        )
        for number, event in enumerate(prediction.events)
        if not event.running and event.event_type != EventType.EV_NO_ACTION.name
    )
    names = {event.register for event in events}
    registers = {name: banks for name, banks in prediction.registers.items() if name in names}
    return prediction, BootedLog(events=events, registers=registers)


def _add(
    registers: dict[str, dict[str, bytes]], bank: str, pcr: str, value: str, *, where: str, subject: str
) -> None:
    if bank not in {each.value for each in Bank}:
        return
    name = str(int(pcr))
    if int(pcr) >= _PCRS or bank in registers.get(name, {}) or len(value) != 2 * Bank(bank).size:
        raise _error(f"has a {where} that is no value of one more {bank} register", subject)
    registers.setdefault(name, {})[bank] = bytes.fromhex(value)


def _text(data: bytes, subject: str) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as problem:
        raise _error("is not ASCII text", subject) from problem


def _error(reason: str, subject: str) -> FormatError:
    return FormatError(
        reason, subject=subject, advice="give the output of tpm2_pcrread, or platform and banks as JSON"
    )
