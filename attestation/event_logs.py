"""Event logs beside evidence: read once, replayed, and held against registers that a report or quote proves.

A log counts only where it yields those registers: then its digests are those that were measured, and of its
data what they cover (``LogRecord.covered``). Checks, in order; ``FORMAT`` is tcg2, ccel, dstack or keyturn:

=========================  ===============================================================================
``log-formats``            at most one log of each format
``log-FORMAT-form``        the log is well formed: indices, banks, lengths, nothing after it
``log-FORMAT-registers``   the evidence proves registers that such a log is about: PCRs of banks that the log
                           has all of (tcg2), RTMRs (ccel, dstack), PCR 14, or RTMR3 where there is no TPM
                           (keyturn)
``log-FORMAT-digests``     every digest that its type defines by the record's data is that of the data
``log-FORMAT-replay``      each proven register that the log extends has the value that it yields; at least
                           one does, for dstack RTMR3 from its runtime events
``log-FORMAT-complete``    (tcg2, ccel) no proven register has a value that no log explains
=========================  ===============================================================================

Exempt from the last check are registers that another log in the evidence extends (PCR 14 or RTMR3: keyturn;
RTMRs: dstack) and is judged by, PCR 10, which the kernel's IMA extends and lists elsewhere, and PCR 16 and
above, which are for debugging, dynamic launches and applications. dstack can leave RTMR0 to RTMR2 out of the
logs that it sends along, so for its logs only what they hold is judged (``attestation.event_log_records``).

TPM registers that the quote does not cover prove nothing: a tcg2 log's records for them are not held against
anything, and no caller may use them (``proven_records``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from attestation.container import EvidenceContainer, Log, LogFormat
from attestation.event_log_records import (
    RTMRS,
    RUNTIME_RTMR,
    EventLogError,
    LogRecord,
    ParsedLog,
    read_ccel,
    read_dstack,
    read_keyturn,
    read_tcg2,
)
from attestation.limited_cache import limited_cache
from attestation.verdict import CheckFailedError, CheckList, Verdict
from measurements.errors import FormatError
from measurements.runtime_events import RUNTIME_BANKS, RUNTIME_PCR

MAX_LOG = 1 << 20
"""Largest log of any format, in bytes."""

_READERS: Mapping[LogFormat, Callable[[bytes], ParsedLog]] = {
    LogFormat.TCG2: read_tcg2,
    LogFormat.CCEL: read_ccel,
    LogFormat.DSTACK: read_dstack,
    LogFormat.KEYTURN: read_keyturn,
}
_CHECKED_WHOLE = (LogFormat.TCG2, LogFormat.CCEL)
_IMA_PCR = 10
_FIRST_DYNAMIC_PCR = 16
_AGAIN = "take the evidence again, quote and log together"

Registers = Mapping[str, bytes]


def parse_log(log: Log) -> ParsedLog:
    """Read one log; raises ``FormatError`` for anything that is not exactly of its format."""
    if len(log.data) > MAX_LOG:
        raise EventLogError(
            f"has {len(log.data)} bytes, more than {MAX_LOG}",
            subject=f"{log.format.value} log",
            advice="take the log again; cut the padding behind it",
        )
    return _parse(log.format, log.data)


@limited_cache(maxsize=8, largest=256 << 10)
def _parse(log_format: LogFormat, data: bytes) -> ParsedLog:
    return _READERS[log_format](data)


@limited_cache(maxsize=8, largest=256 << 10)
def _replay(log_format: LogFormat, data: bytes) -> Registers:
    return MappingProxyType(_parse(log_format, data).replay())


def log_checks(evidence: EvidenceContainer) -> tuple[str, ...]:
    """Names of the checks that ``judge_logs`` makes of this evidence, in order."""
    if not evidence.logs:
        return ()
    formats = dict.fromkeys(log.format for log in evidence.logs)
    return ("log-formats", *(name for one in formats for name in _names(one)))


def judge_logs(evidence: EvidenceContainer, registers: Registers) -> Verdict:
    """Hold all logs against ``registers``: those of the verified report, and of the verified TPM quote if
    there is one, by their names in policies. Never raises for a bad log. Evidence without logs has a verdict
    without checks.
    """
    formats = [log.format for log in evidence.logs]
    outer = CheckList()
    if formats:
        outer.note(
            "log-formats",
            len(set(formats)) == len(formats),
            expected="at most one log of each format",
            found=", ".join(formats),
            reason="two logs of one format cannot both be what was measured",
            advice="keep the log that belongs to the quote",
        )
    checks = list(outer.verdict().checks)
    if outer.verdict().passed:
        for log in evidence.logs:
            others = [one for one in evidence.logs if one is not log]
            checks += _judge(log, registers, others).checks
    return Verdict(checks=tuple(checks))


def proven_records(parsed: ParsedLog, registers: Registers) -> tuple[LogRecord, ...]:
    """The records that extended one of ``registers``, of a log whose verdict passed."""
    return tuple(
        record for record in parsed.records if any(register in registers for register in record.registers)
    )


def _judge(log: Log, registers: Registers, others: Iterable[Log]) -> Verdict:
    checks = CheckList()
    form, about, digests, replay, *_ = _names(log.format)
    try:
        with checks.step(form, expected=f"a well-formed log of format {log.format.value}"):
            parsed = parse_log(log)
            replayed = _replay(log.format, log.data)
        wanted = _registers_of(parsed, registers)
        _check_registers(checks, about, parsed, wanted)
        _check_digests(checks, digests, parsed)
        _check_replay(checks, replay, parsed, wanted, replayed)
        if log.format in _CHECKED_WHOLE:
            explained = {*replayed, *_extended(others, registers)}
            _check_complete(checks, f"log-{log.format.value}-complete", parsed, wanted, explained)
    except CheckFailedError:
        pass
    return checks.verdict()


def _names(log_format: LogFormat) -> tuple[str, ...]:
    parts = ["form", "registers", "digests", "replay"]
    if log_format in _CHECKED_WHOLE:
        parts.append("complete")
    return tuple(f"log-{log_format.value}-{part}" for part in parts)


def _registers_of(parsed: ParsedLog, registers: Registers) -> dict[str, bytes]:
    """The proven registers that a log of this format is about."""
    pcrs = {name: value for name, value in registers.items() if ":" in name}
    if parsed.format is LogFormat.TCG2:
        return pcrs
    if parsed.format is LogFormat.KEYTURN:
        names = [f"{bank}:{RUNTIME_PCR}" for bank in RUNTIME_BANKS] if pcrs else [RUNTIME_RTMR]
    else:
        names = list(RTMRS)
    return {name: registers[name] for name in names if name in registers}


def _check_registers(checks: CheckList, name: str, parsed: ParsedLog, wanted: Registers) -> None:
    quoted = {register.split(":")[0] for register in wanted if ":" in register}
    lacking = sorted(quoted - set(parsed.banks))
    found = f"no bank {', '.join(lacking)} in the log" if lacking else ", ".join(wanted) or "none"
    checks.require(
        name,
        bool(wanted) and not lacking,
        expected="verified registers that the log is about, in banks that it has",
        found=found,
        reason="nothing that the evidence proves can be held against this log",
        advice="quote the registers of the log, in banks that the firmware logs; drop a log of another "
        "machine",
    )


def _check_digests(checks: CheckList, name: str, parsed: ParsedLog) -> None:
    wrong = [record for record in parsed.records if record.wrong]
    checks.require(
        name,
        not wrong,
        expected="digests of the data wherever the type of a record says so",
        found=_listed(f"{one.type_name}, {one.where}, {one.wrong}" for one in wrong) or "as expected",
        reason="the log shows data that was not measured",
        advice="take the log again from the machine: this one was edited, or its firmware is not known",
    )


def _check_replay(
    checks: CheckList, name: str, parsed: ParsedLog, wanted: Registers, replayed: Registers
) -> None:
    if parsed.format in (LogFormat.DSTACK, LogFormat.KEYTURN):  # no events, no extend: still a value
        runtime = [one for one in wanted if one not in RTMRS or one == RUNTIME_RTMR]
        replayed = {**{one: parsed.start_value(one, len(wanted[one])) for one in runtime}, **replayed}
    compared = [register for register in wanted if register in replayed]
    wrong = [register for register in compared if wanted[register] != replayed[register]]
    shown = [f"{one}: log {replayed[one].hex()}, machine {wanted[one].hex()}" for one in wrong]
    checks.require(
        name,
        bool(compared) and not wrong,
        expected="a log that yields the registers",
        found=_listed(shown) or ", ".join(compared) or "no record of a verified register",
        reason="this is not the log of what the machine measured before the quote",
        advice=_AGAIN,
    )


def _check_complete(
    checks: CheckList,
    name: str,
    parsed: ParsedLog,
    wanted: Registers,
    explained: set[str],
) -> None:
    unexplained = [
        f"{register}: {value.hex()}"
        for register, value in wanted.items()
        if register not in explained
        and value != parsed.start_value(register, len(value))
        and not _never_logged(register)
    ]
    checks.require(
        name,
        not unexplained,
        expected="no extended register without a record",
        found=_listed(unexplained) or "as expected",
        reason="something was measured that no log in the evidence shows",
        advice="send the whole log, and with it the log of whoever extends this register",
    )


def _extended(logs: Iterable[Log], registers: Registers) -> set[str]:
    """The registers that ``logs`` extend and are held against; each log is judged by itself."""
    found: set[str] = set()
    for log in logs:
        with suppress(FormatError):
            parsed = parse_log(log)
            about = _registers_of(parsed, registers)
            found |= {register for record in parsed.records for register in record.registers} & set(about)
    return found


def _never_logged(register: str) -> bool:
    """Whether firmware's log is not the place for what extends a register."""
    pcr = register.partition(":")[2]
    return bool(pcr) and (int(pcr) == _IMA_PCR or int(pcr) >= _FIRST_DYNAMIC_PCR)


def _listed(items: Iterable[str], limit: int = 4) -> str:
    found = list(items)
    more = f"; and {len(found) - limit} more" if len(found) > limit else ""
    return "; ".join(found[:limit]) + more
