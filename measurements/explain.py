"""Explains why a machine's registers are not the predicted ones, on every platform.

Where there is a log it is aligned with the prediction; each difference gets its cause. On top come findings
that the log alone cannot show: registers (from a boot report, a quote or a report) that the log does not
yield, registers beyond the firmware's log, and hints from event data that is not measured. Where only final
registers are known, ``measurements.near_miss_search`` looks for a machine that has them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from measurements.alignment import Difference, align
from measurements.boot_sequence import UNLOGGED_PCRS
from measurements.booted import Booted, BootedLog
from measurements.cause_inputs import Cause, Input, cause
from measurements.causes import causes_of
from measurements.errors import FormatError
from measurements.event_data import decode_event
from measurements.events import EventType, digests_of
from measurements.linux_stub import COMMAND_LINE_DESCRIPTION
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent

_MEMORY_STEP = 128 << 20
_SPLIT_MIB = 2816
_IMA_REGISTER = "10"
_FIRMWARE_RTMRS = ("rtmr0", "rtmr1", "rtmr2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One difference with its cause."""

    difference: Difference
    cause: Cause


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterFault:
    """A register whose value is not the predicted one, or not what the booted log yields."""

    bank: str
    register: str
    expected: bytes
    found: bytes
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """The first finding is the first difference of the boot; ``hints`` are claims of unmeasured data.

    ``compared`` counts the predicted events that were compared with a log, ``registers`` are the registers
    whose values were compared.
    """

    prediction: PlatformPrediction
    findings: tuple[Finding, ...]
    faults: tuple[RegisterFault, ...]
    hints: tuple[str, ...]
    compared: int
    registers: tuple[str, ...]

    @property
    def uncompared(self) -> tuple[str, ...]:
        """Predicted registers of which nothing was told."""
        return tuple(name for name in self.prediction.registers if name not in self.registers)

    @property
    def equal(self) -> bool:
        """Whether the boot is the predicted one, as far as it was told."""
        return not self.findings and not self.faults


def explain(
    expected: PlatformPrediction,
    booted: Booted,
    *,
    initrd_files: Sequence[str] = (),
    subject: str = "reference values",
) -> Explanation:
    """Compare a boot with its prediction.

    ``initrd_files`` are paths that differ between the predicted image's initrd and that of the image that was
    booted, if both are at hand; they narrow down the cause of a changed initrd. ``subject`` names
    ``expected`` in errors. Raises ``FormatError`` for a boot of another platform, or one that shares no bank
    or register with the prediction.
    """
    _check_comparable(expected, booted, subject)
    predicted = logged_events(expected, booted.log)
    logged = (
        set() if booted.log is None else expected.registers.keys() - unlogged_registers(expected, booted.log)
    )
    compared = logged | (booted.reported or {}).keys()
    differences = () if booted.log is None else _differences(expected, predicted, booted.log)
    hint = _memory_hint(expected, booted)
    causes = causes_of(differences, other_memory=hint is not None)
    words = _changed_words(differences, booted.command_line)
    findings = tuple(
        Finding(difference=difference, cause=_narrowed(found, initrd_files, words))
        for difference, found in zip(differences, causes, strict=True)
    )
    return Explanation(
        prediction=expected,
        findings=findings,
        faults=tuple(_faults(expected, booted)),
        hints=() if hint is None else (hint,),
        compared=0 if booted.log is None else len(predicted),
        registers=tuple(name for name in expected.registers if name in compared),
    )


def best_explanation(explanations: Sequence[Explanation]) -> Explanation:
    """Of the explanations of one boot by several predictions the one that fits best: the first that is equal,
    or that has the fewest registers wrong, then the fewest differences.
    """
    return min(explanations, key=lambda each: (len(wrong_registers(each)), len(each.findings)))


def wrong_registers(explanation: Explanation) -> set[str]:
    """The registers that any difference or fault is about."""
    return {finding.difference.register for finding in explanation.findings} | {
        fault.register for fault in explanation.faults
    }


def logged_events(expected: PlatformPrediction, log: BootedLog | None) -> list[RegisterEvent]:
    """The predicted events that a firmware's log shows."""
    unlogged = unlogged_registers(expected, log)
    return [event for event in expected.events if event.register not in unlogged]


def unlogged_registers(expected: PlatformPrediction, log: BootedLog | None) -> set[str]:
    """Predicted registers whose events are not in the log: IMA and the guest keep their own, and launch
    values have none. On TDX a log may hold the guest's events, too; one that was stripped lacks others.
    """
    if expected.platform is Platform.TPM:
        return {str(pcr) for pcr in UNLOGGED_PCRS}
    logged = set() if log is None else {event.register for event in log.events}
    covered = {*_FIRMWARE_RTMRS, *({"rtmr3"} & logged)}
    if log is not None and log.whole is not None:
        covered &= log.whole
    return set(expected.registers) - covered


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """The explanation as a JSON document."""
    return {
        "platform": explanation.prediction.platform.value,
        "label": dict(explanation.prediction.label),
        "equal": explanation.equal,
        "compared": explanation.compared,
        "compared_registers": list(explanation.registers),
        "uncompared_registers": list(explanation.uncompared),
        "first": _finding_document(explanation.findings[0]) if explanation.findings else None,
        "differences": [_finding_document(finding) for finding in explanation.findings],
        "registers": [
            {
                "bank": fault.bank,
                "register": fault.register,
                "expected": fault.expected.hex(),
                "found": fault.found.hex(),
                "reason": fault.reason,
            }
            for fault in explanation.faults
        ],
        "hints": list(explanation.hints),
    }


def describe(difference: Difference) -> tuple[str, str]:
    """Expected and booted side of a difference, in words."""
    expected = difference.expected.description if difference.expected is not None else "nothing"
    if difference.booted is None:
        return expected, "nothing"
    facts = difference.facts
    details = ", ".join(f"{name}: {value}" for name, value in facts.details.items())
    return expected, f"{facts.title} ({details})" if details else facts.title


def _differences(
    expected: PlatformPrediction, predicted: Sequence[RegisterEvent], log: BootedLog
) -> tuple[Difference, ...]:
    """Differences in the registers that are predicted; places are those in the whole log."""
    if expected.platform is Platform.TPM:
        return tuple(_aligned(predicted, log, set(expected.registers)))
    # Predictions of trust domains list one register after the other, and logs mix them.
    registers = set(expected.registers) - unlogged_registers(expected, log)
    found = [
        difference
        for register in sorted(registers)
        for difference in _aligned(
            [event for event in predicted if event.register == register], log, {register}
        )
    ]
    return tuple(sorted(found, key=lambda difference: difference.booted_at))


def _aligned(
    predicted: Sequence[RegisterEvent], log: BootedLog, registers: Collection[str]
) -> Iterator[Difference]:
    """Differences in ``registers``; a place behind their last event in the log is the one after it."""
    places = [index for index, event in enumerate(log.events) if event.register in registers]
    end = places[-1] + 1 if places else len(log.events)
    for difference in align(predicted, [log.events[index] for index in places]):
        yield replace(difference, booted_at=[*places, end][difference.booted_at])


def _check_comparable(expected: PlatformPrediction, booted: Booted, subject: str) -> None:
    if expected.platform is not booted.platform:
        raise _mismatch(
            subject,
            f"holds values for {expected.platform.value}, and the boot is one of {booted.platform.value}",
            "give the reference values of the machine's platform (keyturn predict --platform)",
        )
    shared = [name for name in expected.registers if name in booted.registers]
    if not shared:
        raise _mismatch(
            subject,
            f"holds the registers {', '.join(expected.registers)}, and the boot tells "
            f"{', '.join(booted.registers) or 'none'}",
            "give the quote, report or log of the machine that was predicted",
        )
    for name in shared:
        predicted, found = expected.registers[name], booted.registers[name]
        if not set(predicted) & set(found):
            raise _mismatch(
                subject,
                f"holds {', '.join(predicted)} for register {name}, and the boot tells {', '.join(found)}",
                "switch a predicted bank on in the machine, or predict the bank that it has",
            )


def _finding_document(finding: Finding) -> dict[str, Any]:
    difference = finding.difference
    expected, booted = describe(difference)
    return {
        "kind": difference.kind.value,
        "register": difference.register,
        "type": difference.type_name,
        "position": difference.booted_at,
        "expected": None if difference.expected is None else expected,
        "booted": None if difference.booted is None else booted,
        "origin": None if difference.expected is None else difference.expected.origin,
        "input": finding.cause.input.value,
        "detail": finding.cause.detail,
        "fix": finding.cause.fix,
    }


def _changed_words(differences: Sequence[Difference], command_line: str | None) -> str:
    """Parameters by which the booted command line differs from the predicted one; empty unless the log's
    digest proves the booted one.
    """
    if command_line is None:
        return ""
    proven = digests_of(command_line.encode("utf-16-le") + b"\0\0")
    for difference in differences:
        expected, booted = difference.expected, difference.booted
        if expected is None or booted is None or COMMAND_LINE_DESCRIPTION not in expected.description:
            continue
        if all(booted.digests.get(bank.value, digest) == digest for bank, digest in proven.items()):
            predicted = expected.description.removeprefix(COMMAND_LINE_DESCRIPTION).split()
            return _word_changes(predicted, command_line.split())
    return ""


def _word_changes(predicted: Sequence[str], booted: Sequence[str]) -> str:
    added = [word for word in booted if word not in predicted]
    removed = [word for word in predicted if word not in booted]
    parts = [f"{verb} {' '.join(words)}" for verb, words in (("added", added), ("missing", removed)) if words]
    return "; ".join(parts) or "the same parameters in another form or order"


def _narrowed(found: Cause, initrd_files: Sequence[str], words: str) -> Cause:
    """A changed command line by its parameters, a changed initrd by the files that differ in it."""
    if found.input is Input.COMMAND_LINE and words:
        return cause(Input.COMMAND_LINE, f"{found.detail}; {words}" if found.detail else words)
    if found.input is not Input.INITRD:
        return found
    if not initrd_files:
        detail = "its programs, modules or script, or the verity root that it holds"
        return cause(Input.INITRD, f"{found.detail}: {detail}" if found.detail else detail)
    names = ", ".join(initrd_files)
    if list(initrd_files) == ["etc/keyturn/verity"]:
        return cause(Input.VERITY_ROOT, f"the initrd differs in /{names} only")
    return cause(Input.INITRD, f"it differs in {names}")


def _faults(expected: PlatformPrediction, booted: Booted) -> list[RegisterFault]:
    if booted.reported is None:
        return []
    unlogged = unlogged_registers(expected, booted.log)
    faults: list[RegisterFault] = []
    for bank in sorted({bank for values in expected.registers.values() for bank in values}):
        for register, banks in expected.registers.items():
            found = booted.reported.get(register, {}).get(bank)
            if bank not in banks or found is None:
                continue
            if booted.log is not None and register not in unlogged:
                logged = booted.log.registers.get(register, {}).get(bank, bytes(len(found)))
                wanted, reason = logged, "the log does not yield this value"
            else:
                wanted, reason = banks[bank], _unlogged_reason(expected.platform, register)
            if found != wanted and not _must_differ(expected, booted.reported, register, bank):
                faults.append(
                    RegisterFault(bank=bank, register=register, expected=wanted, found=found, reason=reason)
                )
    return faults


def _must_differ(
    expected: PlatformPrediction, found: Mapping[str, Mapping[str, bytes]], register: str, bank: str
) -> bool:
    """Whether the register is PCR 10 and must differ, since IMA hashes PCR 0 to 9."""
    if expected.platform is not Platform.TPM or register != _IMA_REGISTER:
        return False
    return any(
        found.get(str(pcr), {}).get(bank, expected.registers[str(pcr)][bank])
        != expected.registers[str(pcr)][bank]
        for pcr in range(10)
    )


def _unlogged_reason(platform: Platform, register: str) -> str:
    if platform is Platform.TPM and register == _IMA_REGISTER:
        return "IMA measured something else: other kernel modules, or an IMA policy"
    if (platform, register) in ((Platform.TPM, "14"), (Platform.TDX, "rtmr3")):
        return "runtime events differ: a development image marks itself here"
    return "it is not the predicted value, and no log says which step differs"


def _memory_hint(expected: PlatformPrediction, booted: Booted) -> str | None:
    """What unmeasured data of the log suggests about memory, which some firmware does not measure at all."""
    predicted = _predicted_mib(expected.shape)
    shown = None if booted.log is None else _memory_from_load_address(booted.log)
    if predicted is None or shown is None or shown == _low_memory_mib(predicted):
        return None
    place = f"the UKI was loaded below {shown} MiB, and the prediction is for {predicted} MiB"
    return f"memory: {place}: probably another memory size"


def _low_memory_mib(memory_mib: int) -> int:
    """Memory below 4 GiB on q35: all of it, or 2 GiB from 2816 MiB on."""
    return memory_mib if memory_mib < _SPLIT_MIB else 2048


def _predicted_mib(shape: Mapping[str, Any]) -> int | None:
    found = re.fullmatch(r"([0-9]+)MiB", str(shape.get("memory", "")))
    return int(found[1]) if found else None


def _memory_from_load_address(log: BootedLog) -> int | None:
    """Low memory in MiB, as the place of the first program suggests: firmware loads near the top."""
    for event in log.events:
        if event.event_type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION:
            details = decode_event(event.event_type, event.data).details
            if "loaded at" not in details:
                return None
            top = int(details["loaded at"], 16) + int(details["size in memory"].split()[0])
            return -(-top // _MEMORY_STEP) * (_MEMORY_STEP >> 20)
    return None


def _mismatch(subject: str, reason: str, advice: str) -> FormatError:
    return FormatError(reason, subject=subject, advice=advice)
