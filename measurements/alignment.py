"""Aligns a predicted list of events with a booted one, on any platform whose registers are chains of events.

First by longest common runs of equal events; what lies between is paired by what was measured (register, type
and subject), so that one changed event is one difference and not two. Order matters: an event in another
place is missing in one place and extra in the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from measurements.booted import BootedEvent
from measurements.errors import FormatError
from measurements.event_data import EventFacts
from measurements.platforms import RegisterEvent

_VARIABLE = re.compile(r"\b(BootOrder|Boot[0-9A-F]{4}|SecureBoot|PK|KEK|dbx|dbt|dbr|db)\b")
_VARIABLE_REGISTERS = ("1", "7", "rtmr0")
_RUNTIME_REGISTER = "rtmr3"
_RUNTIME_PREFIX = "runtime event "


class DifferenceKind(StrEnum):
    """What is different in one place."""

    CHANGED = "changed"
    MISSING = "missing"
    EXTRA = "extra"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One difference. ``booted_at`` is the place in the log's extending events where it shows."""

    kind: DifferenceKind
    expected: RegisterEvent | None
    booted: BootedEvent | None
    booted_at: int

    @property
    def register(self) -> str:
        """The register it is about."""
        event = self.booted if self.expected is None else self.expected
        assert event is not None
        return event.register

    @property
    def type_name(self) -> str:
        """The name of the type of the event it is about."""
        if self.expected is not None:
            return self.expected.event_type
        assert self.booted is not None
        return self.booted.type_name

    @property
    def facts(self) -> EventFacts:
        """What the log's data says; without an event in the log, nothing."""
        return EventFacts(title="nothing") if self.booted is None else self.booted.facts


def align(expected: Sequence[RegisterEvent], booted: Sequence[BootedEvent]) -> tuple[Difference, ...]:
    """All differences, in the order of the boot; empty if every event is equal in every common bank.

    Raises ``FormatError`` if there is no common bank.
    """
    banks = common_banks(expected, booted)
    return tuple(_differences(expected, booted, banks))


def common_banks(expected: Sequence[RegisterEvent], booted: Sequence[BootedEvent]) -> list[str]:
    """The banks in which both lists have digests; those of the other list where one is empty."""
    sides = [set(events[0].digests) for events in (expected, booted) if events]
    banks = sorted(set.intersection(*sides)) if sides else []
    if sides and not banks:
        predicted, logged = (", ".join(sorted(side)) for side in sides)
        raise FormatError(
            f"has digests of {logged} only, and {predicted} is predicted",
            subject="event log",
            advice="switch a predicted bank on in the machine's TPM",
        )
    return banks


def _differences(
    expected: Sequence[RegisterEvent], booted: Sequence[BootedEvent], banks: Sequence[str]
) -> Iterator[Difference]:
    # Registers do not hold event types, so equal digests are enough.
    left = [(e.register, *(e.digests[bank] for bank in banks)) for e in expected]
    right = [(e.register, *(e.digests[bank] for bank in banks)) for e in booted]
    for tag, low, high, start, end in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from _pair(expected[low:high], booted[start:end], offset=start)


def _pair(
    expected: Sequence[RegisterEvent], booted: Sequence[BootedEvent], *, offset: int
) -> Iterator[Difference]:
    """Differences of a region in which no event is equal."""
    left = [_subject_of_expected(event) for event in expected]
    right = [_subject_of_booted(event) for event in booted]
    for tag, low, high, start, end in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            for index in range(high - low):
                yield Difference(
                    kind=DifferenceKind.CHANGED,
                    expected=expected[low + index],
                    booted=booted[start + index],
                    booted_at=offset + start + index,
                )
            continue
        for event in expected[low:high]:
            yield Difference(
                kind=DifferenceKind.MISSING, expected=event, booted=None, booted_at=offset + start
            )
        for index in range(start, end):
            yield Difference(
                kind=DifferenceKind.EXTRA, expected=None, booted=booted[index], booted_at=offset + index
            )


def _subject_of_expected(event: RegisterEvent) -> tuple[str, str, str]:
    if event.register == _RUNTIME_REGISTER:
        return event.register, "", event.description.removeprefix(_RUNTIME_PREFIX)
    found = _VARIABLE.search(event.description)
    named = found is not None and event.register in _VARIABLE_REGISTERS
    return event.register, event.event_type, found[1] if found is not None and named else ""


def _subject_of_booted(event: BootedEvent) -> tuple[str, str, str]:
    title = event.facts.title
    if event.register == _RUNTIME_REGISTER:
        return event.register, "", title.removeprefix(_RUNTIME_PREFIX).partition(":")[0]
    found = _VARIABLE.fullmatch(title.removeprefix("variable "))
    named = found is not None and event.register in _VARIABLE_REGISTERS
    return event.register, event.type_name, found[1] if found is not None and named else ""
