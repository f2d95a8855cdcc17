"""Explains why a machine's registers are not the predicted ones.

The booted log is aligned with the prediction; each difference gets its cause. On top come findings that the
log alone cannot show: registers (from a boot report or a quote) that the log does not yield, registers beyond
the firmware's log (10 and 14), and hints from event data that is not measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from measurements.alignment import ALGORITHMS, Difference, align
from measurements.boot_sequence import UNLOGGED_PCRS
from measurements.causes import Cause, Input, cause, causes_of
from measurements.event_data import decode_event, type_name
from measurements.eventlog import EventLog
from measurements.events import Bank, EventType, digests_of
from measurements.linux_stub import COMMAND_LINE_DESCRIPTION
from measurements.reference import Reference

Registers = Mapping[Bank, Mapping[int, bytes]]

_MEMORY_STEP = 128 << 20
_SPLIT_MIB = 2816


@dataclass(frozen=True, kw_only=True, slots=True)
class Booted:
    """What is known of a boot: its log, and its registers and command line if a boot report tells them."""

    log: EventLog
    registers: Registers | None = None
    command_line: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One difference with its cause."""

    difference: Difference
    cause: Cause


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterFault:
    """A register whose booted value is not the predicted one, or not what the booted log yields."""

    bank: Bank
    pcr: int
    expected: bytes
    found: bytes
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """The first finding is the first difference of the boot; ``hints`` are claims of unmeasured data."""

    findings: tuple[Finding, ...]
    faults: tuple[RegisterFault, ...]
    hints: tuple[str, ...]
    compared: int

    @property
    def equal(self) -> bool:
        """Whether the boot is the predicted one, as far as it was told."""
        return not self.findings and not self.faults


def explain(reference: Reference, booted: Booted, *, initrd_files: Sequence[str] = ()) -> Explanation:
    """Compare a boot with its prediction.

    ``initrd_files`` are paths that differ between the predicted image's initrd and that of the image that was
    booted, if both are at hand; they narrow down the cause of a changed initrd.
    """
    predicted = [event for event in reference.events if event.pcr not in UNLOGGED_PCRS]
    differences = align(predicted, booted.log)
    hint = _memory_hint(reference, booted.log)
    causes = causes_of(differences, other_memory=hint is not None)
    words = _changed_words(differences, booted.command_line)
    findings = tuple(
        Finding(difference=difference, cause=_narrowed(found, initrd_files, words))
        for difference, found in zip(differences, causes, strict=True)
    )
    return Explanation(
        findings=findings,
        faults=tuple(_faults(reference, booted)),
        hints=() if hint is None else (hint,),
        compared=len(predicted),
    )


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """The explanation as a JSON document."""
    return {
        "equal": explanation.equal,
        "compared": explanation.compared,
        "first": _finding_document(explanation.findings[0]) if explanation.findings else None,
        "differences": [_finding_document(finding) for finding in explanation.findings],
        "registers": [
            {
                "bank": fault.bank.value,
                "pcr": fault.pcr,
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


def _finding_document(finding: Finding) -> dict[str, Any]:
    difference = finding.difference
    expected, booted = describe(difference)
    return {
        "kind": difference.kind.value,
        "pcr": difference.pcr,
        "type": type_name(difference.event_type),
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
        if all(booted.digests.get(ALGORITHMS[bank]) == digest for bank, digest in proven.items()):
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


def _faults(reference: Reference, booted: Booted) -> list[RegisterFault]:
    if booted.registers is None:
        return []
    faults: list[RegisterFault] = []
    for bank, found in booted.registers.items():
        algorithm = ALGORITHMS[bank]
        replayed = booted.log.replay(algorithm) if algorithm in booted.log.algorithms else {}
        for pcr, value in sorted(found.items()):
            expected = reference.registers[bank].get(pcr)
            if expected is None:
                continue
            logged = replayed.get(pcr, bytes(bank.size))
            if pcr in UNLOGGED_PCRS:
                if value != expected and pcr == 10 and _earlier_differ(reference, found, bank):
                    continue
                if value != expected:
                    faults.append(_fault(bank, pcr, expected, value, _unlogged_reason(pcr)))
            elif value != logged:
                faults.append(_fault(bank, pcr, logged, value, "the log does not yield this value"))
    return faults


def _earlier_differ(reference: Reference, found: Mapping[int, bytes], bank: Bank) -> bool:
    """Whether PCR 10 must differ, since IMA hashes PCR 0 to 9."""
    expected = reference.registers[bank]
    return any(found.get(pcr, expected[pcr]) != expected[pcr] for pcr in range(10))


def _unlogged_reason(pcr: int) -> str:
    if pcr == 14:
        return "runtime events differ: a development image marks itself here"
    return "IMA measured something else: other kernel modules, or an IMA policy"


def _fault(bank: Bank, pcr: int, expected: bytes, found: bytes, reason: str) -> RegisterFault:
    return RegisterFault(bank=bank, pcr=pcr, expected=expected, found=found, reason=reason)


def _memory_hint(reference: Reference, log: EventLog) -> str | None:
    """What unmeasured data of the log suggests about memory, which some firmware does not measure at all."""
    predicted = _predicted_mib(reference.shape)
    shown = _memory_from_load_address(log)
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


def _memory_from_load_address(log: EventLog) -> int | None:
    """Low memory in MiB, as the place of the first program suggests: firmware loads near the top."""
    for event in log.events:
        if event.event_type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION:
            details = decode_event(event.event_type, event.data).details
            if "loaded at" not in details:
                return None
            top = int(details["loaded at"], 16) + int(details["size in memory"].split()[0])
            return -(-top // _MEMORY_STEP) * (_MEMORY_STEP >> 20)
    return None
