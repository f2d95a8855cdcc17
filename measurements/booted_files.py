"""Recognises by its content what a user gives of a machine that booted, and joins it to one ``Booted``.

- Boot report: a JSON object with ``schema``, or console output with the report's frame.
- dstack report: a JSON object with ``quote`` and ``event_log``, or with ``attestation``.
- dstack event log: a JSON list.
- TPM quote: ``TPMS_ATTEST``, 0xff544347 0x8018.
- TDX quote: u16 version 4 or 5, u16 key type 2, u32 TEE type 0x81.
- SNP report: 1184 bytes that start with a u32 version from 2 to 5.
- Nitro document: COSE_Sign1, a CBOR array of 4 with or without tag 18.
- CC event log: a TCG log with SHA-384 only that extends indexes 1 to 4 only and has the Secure Boot variables
  in index 1, where TPM systems have index 7.
- TPM event log: any other TCG log.
- PCR values: the output of ``tpm2_pcrread``.
- Register values: a JSON object with ``platform`` and ``banks``, such as reference values of another machine.

Binary files may also be given as hexadecimal text. **No signature is checked here.**
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from measurements.booted import Booted, BootedEvent, BootedLog, Registers, cc_log, replay_booted, tpm_log
from measurements.errors import FormatError
from measurements.eventlog import Algorithm, EventLog, parse_event_log
from measurements.events import Bank, EventType
from measurements.platforms import Platform

if TYPE_CHECKING:
    from measurements.boot_report import BootReport
    from measurements.dstack.event_log import LogEvent
    from measurements.dstack.vm_config import VmConfig
    from measurements.quote_digest import QuotedRegisters

_Part = TypeVar("_Part")

SHA384 = Bank.SHA384.value

_HEX = re.compile(rb"\s*(?:0x)?([0-9a-fA-F]{2})+\s*")
_TPM_QUOTE = bytes.fromhex("ff5443478018")
_TD_QUOTES = (bytes.fromhex("0400020081000000"), bytes.fromhex("0500020081000000"))
_REPORT_SIZE = 1184
_COSE = (b"\xd2\x84", b"\x84\x44")


class FileKind(StrEnum):
    """What a file is, in words."""

    TPM_LOG = "TPM event log"
    CC_LOG = "CC event log"
    BOOT_REPORT = "boot report"
    TPM_QUOTE = "TPM quote"
    TDX_QUOTE = "TDX quote"
    SNP_REPORT = "SNP report"
    NITRO_DOCUMENT = "Nitro attestation document"
    DSTACK_REPORT = "dstack report"
    DSTACK_LOG = "dstack event log"
    REGISTERS = "list of register values"


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What one file tells; ``quote`` of a TPM tells no registers, only their digest. ``vm_config`` is what a
    dstack guest says of its machine.
    """

    name: str
    kind: FileKind
    platform: Platform
    log: BootedLog | None = None
    reported: Registers | None = None
    command_line: str | None = None
    quote: QuotedRegisters | None = None
    vm_config: VmConfig | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BootedMachine:
    """Everything that the files tell of one machine."""

    booted: Booted
    quote: QuotedRegisters | None
    vm_config: VmConfig | None
    files: tuple[Told, ...]


def read_files(files: Mapping[str, bytes]) -> BootedMachine:
    """Recognise and join the files of one machine, by name.

    Raises ``FormatError`` for content that is not recognised, files of different platforms, and two files
    that tell the same.
    """
    told = [recognise(data, name=name) for name, data in files.items()]
    if not told:
        raise FormatError(
            "is not given", subject="boot", advice="give a log, a quote, a report or a document"
        )
    for each in told[1:]:
        if each.platform is not told[0].platform:
            _refuse(
                each.name,
                f"is a {each.kind.value}, and {told[0].name} is a {told[0].kind.value}: not of one machine",
                "give files of the same machine",
            )
    booted = Booted(
        platform=told[0].platform,
        log=_only(told, "log", [each.log for each in told]),
        reported=_only(told, "registers", [each.reported for each in told]),
        command_line=_only(told, "command line", [each.command_line for each in told]),
    )
    if booted.log is None and booted.reported is None:
        _refuse(
            told[0].name,
            f"is a {told[0].kind.value}, which tells a digest of registers only",
            "give the event log, too (--log)",
        )
    return BootedMachine(
        booted=booted,
        quote=_only(told, "quote", [each.quote for each in told]),
        vm_config=_only(told, "configuration", [each.vm_config for each in told]),
        files=tuple(told),
    )


def recognise(data: bytes, *, name: str) -> Told:
    """What ``data`` tells; raises ``FormatError`` if it is none of the known contents, or damaged."""
    if _HEX.fullmatch(data):
        data = bytes.fromhex(data.decode("ascii").strip().removeprefix("0x"))
    for fits, read in _READERS:
        if fits(data):
            return read(data, name)
    return _event_log(data, name)


def is_cc_log(log: EventLog) -> bool:
    """Whether a log is one of CC measurement registers rather than of PCRs."""
    extended = [event for event in log.events if event.extends]
    policy = {e.pcr for e in extended if e.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG}
    return (
        log.algorithms == (Algorithm.SHA384,)
        and all(1 <= event.pcr <= 4 for event in extended)
        and policy <= {1}
    )


def _event_log(data: bytes, name: str) -> Told:
    log = parse_event_log(data, subject=name)
    if is_cc_log(log):
        return Told(name=name, kind=FileKind.CC_LOG, platform=Platform.TDX, log=cc_log(log, subject=name))
    return Told(name=name, kind=FileKind.TPM_LOG, platform=Platform.TPM, log=tpm_log(log, subject=name))


def _json(data: bytes, name: str) -> Told:
    from measurements.canonical import parse_json

    document = parse_json(data, subject=name)
    if isinstance(document, list):
        return _dstack_log(data, name)
    if isinstance(document, dict) and ("attestation" in document or {"quote", "event_log"} <= set(document)):
        return _dstack_report(data, name)
    if isinstance(document, dict) and {"platform", "banks"} <= set(document):
        return _register_values(document, data, name)
    from measurements.boot_report import decode_report

    return _boot_report(decode_report(data), name)


def _register_values(document: Mapping[str, Any], data: bytes, name: str) -> Told:
    from measurements.register_lists import parse_banks_document, parse_other_prediction

    if "events" in document:
        prediction, log = parse_other_prediction(data, subject=name)
        return Told(
            name=name,
            kind=FileKind.REGISTERS,
            platform=prediction.platform,
            log=log if log.events else None,
            reported=prediction.registers,
        )
    platform, registers = parse_banks_document(document, subject=name)
    return Told(name=name, kind=FileKind.REGISTERS, platform=platform, reported=registers)


def _pcr_values(data: bytes, name: str) -> Told:
    from measurements.register_lists import parse_pcr_list

    registers = parse_pcr_list(data, subject=name)
    return Told(name=name, kind=FileKind.REGISTERS, platform=Platform.TPM, reported=registers)


def _is_pcr_list(data: bytes) -> bool:
    from measurements.register_lists import is_pcr_list

    return is_pcr_list(data)


def _console(data: bytes, name: str) -> Told:
    from measurements.boot_report import find_report

    return _boot_report(find_report(data), name)


def _boot_report(report: BootReport, name: str) -> Told:
    pcrs = sorted({pcr for values in report.banks.values() for pcr in values})
    banks = {bank.value: report.banks[bank.value] for bank in Bank if bank.value in report.banks}
    registers = {
        str(pcr): {bank: values[pcr] for bank, values in banks.items() if pcr in values} for pcr in pcrs
    }
    log = tpm_log(parse_event_log(report.event_log, subject=name), subject=name)
    return Told(
        name=name,
        kind=FileKind.BOOT_REPORT,
        platform=Platform.TPM,
        log=log,
        reported=registers,
        command_line=report.command_line,
    )


def _tpm_quote(data: bytes, name: str) -> Told:
    from measurements.quote_digest import parse_quote

    quote = parse_quote(data, subject=name)
    return Told(name=name, kind=FileKind.TPM_QUOTE, platform=Platform.TPM, quote=quote)


def _td_quote(data: bytes, name: str) -> Told:
    return Told(
        name=name, kind=FileKind.TDX_QUOTE, platform=Platform.TDX, reported=_quoted_registers(data, name)
    )


def _snp_report(data: bytes, name: str) -> Told:
    from measurements.sev.report import parse_report

    registers = {"measurement": {SHA384: parse_report(data, name=name).measurement}}
    return Told(name=name, kind=FileKind.SNP_REPORT, platform=Platform.SNP, reported=registers)


def _nitro_document(data: bytes, name: str) -> Told:
    from measurements.nitro.document import parse_document

    registers = {str(pcr): {SHA384: value} for pcr, value in sorted(parse_document(data).pcrs.items())}
    return Told(name=name, kind=FileKind.NITRO_DOCUMENT, platform=Platform.NITRO, reported=registers)


def _dstack_log(data: bytes, name: str) -> Told:
    from measurements.dstack.event_log import parse_event_log as parse_dstack_log

    log = _dstack_events(parse_dstack_log(data, subject=name))
    return Told(name=name, kind=FileKind.DSTACK_LOG, platform=Platform.TDX, log=log)


def _dstack_report(data: bytes, name: str) -> Told:
    from measurements.dstack.evidence import SnpEvidence, parse_report

    evidence = parse_report(data)
    if isinstance(evidence, SnpEvidence):
        told = _snp_report(evidence.report, name)
        return replace(told, kind=FileKind.DSTACK_REPORT, vm_config=evidence.vm_config)
    log = _dstack_events(evidence.log)
    return Told(
        name=name,
        kind=FileKind.DSTACK_REPORT,
        platform=Platform.TDX,
        log=replace(log, whole=frozenset(("rtmr3",))) if evidence.stripped else log,
        reported=_quoted_registers(evidence.quote, name),
        vm_config=evidence.vm_config,
    )


def _quoted_registers(data: bytes, name: str) -> Registers:
    from measurements.tdx.quote import parse_quote

    registers = parse_quote(data, subject=name).body.registers()
    return {register: {SHA384: value} for register, value in registers.items()}


def _dstack_events(log: Sequence[LogEvent]) -> BootedLog:
    events = tuple(_dstack_event(event, number) for number, event in enumerate(log))
    names = sorted({event.register for event in events})
    registers = {register: {SHA384: replay_booted(events, register, SHA384)} for register in names}
    return BootedLog(events=events, registers=registers)


def _dstack_event(event: LogEvent, number: int) -> BootedEvent:
    """A runtime event is named by what its digest covers; of others the payload is a TCG log's event data."""
    title = ""
    if event.runtime is not None:
        title = f"{event.runtime.name}: {event.runtime.payload.hex()}"
    return BootedEvent(
        register=f"rtmr{event.register}",
        event_type=event.event_type,
        digests={SHA384: event.digest},
        data=event.payload,
        offset=number,
        title=title,
    )


def _has_frame(data: bytes) -> bool:
    from measurements.boot_report import BEGIN

    return BEGIN.encode() in data


def _only(told: Sequence[Told], what: str, parts: Sequence[_Part | None]) -> _Part | None:
    """The one part that a file tells; two files must not tell the same."""
    found = [(each.name, part) for each, part in zip(told, parts, strict=True) if part is not None]
    if len(found) > 1:
        _refuse(
            found[1][0], f"tells the {what} of the machine, as {found[0][0]} does", "give only one of them"
        )
    return found[0][1] if found else None


def _refuse(name: str, reason: str, advice: str) -> NoReturn:
    raise FormatError(reason, subject=name, advice=advice)


_READERS: Sequence[tuple[Callable[[bytes], bool], Callable[[bytes, str], Told]]] = (
    (lambda data: data.lstrip()[:1] in (b"{", b"["), _json),
    (_has_frame, _console),
    (_is_pcr_list, _pcr_values),
    (lambda data: data.startswith(_TPM_QUOTE), _tpm_quote),
    (lambda data: data.startswith(_TD_QUOTES), _td_quote),
    (lambda data: len(data) == _REPORT_SIZE and 2 <= int.from_bytes(data[:4], "little") <= 5, _snp_report),
    (lambda data: data.startswith(_COSE), _nitro_document),
)
