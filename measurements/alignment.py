"""Aligns a predicted list of events with a booted one.

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

from measurements.errors import FormatError
from measurements.event_data import EventFacts, decode_event
from measurements.eventlog import Algorithm, EventLog, LogEvent
from measurements.events import Bank, MeasuredEvent

ALGORITHMS = {Bank.SHA256: Algorithm.SHA256, Bank.SHA384: Algorithm.SHA384}
_VARIABLE = re.compile(r"\b(BootOrder|Boot[0-9A-F]{4}|SecureBoot|PK|KEK|dbx|dbt|dbr|db)\b")


class DifferenceKind(StrEnum):
    """What is different in one place."""

    CHANGED = "changed"
    MISSING = "missing"
    EXTRA = "extra"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One difference. ``booted_at`` is the place in the log's extending events where it shows."""

    kind: DifferenceKind
    expected: MeasuredEvent | None
    booted: LogEvent | None
    booted_at: int

    @property
    def pcr(self) -> int:
        """The register it is about."""
        event = self.booted if self.expected is None else self.expected
        assert event is not None
        return event.pcr

    @property
    def event_type(self) -> int:
        """The type of the event it is about."""
        event = self.booted if self.expected is None else self.expected
        assert event is not None
        return int(event.event_type)

    @property
    def facts(self) -> EventFacts:
        """What the log's data says; without an event in the log, nothing."""
        if self.booted is None:
            return EventFacts(title="nothing")
        return decode_event(self.booted.event_type, self.booted.data)


def align(expected: Sequence[MeasuredEvent], log: EventLog) -> tuple[Difference, ...]:
    """All differences, in the order of the boot; empty if every event is equal in every common bank.

    Raises ``FormatError`` if the log has no predicted bank.
    """
    booted = [event for event in log.events if event.extends]
    banks = [bank for bank, algorithm in ALGORITHMS.items() if algorithm in log.algorithms]
    if not banks:
        raise FormatError(
            "has neither SHA-256 nor SHA-384 digests",
            subject="event log",
            advice="switch a predicted bank on in the machine's TPM",
        )
    return tuple(_differences(expected, booted, banks))


def _differences(
    expected: Sequence[MeasuredEvent], booted: Sequence[LogEvent], banks: Sequence[Bank]
) -> Iterator[Difference]:
    left = [(e.pcr, int(e.event_type), *(e.digests[bank] for bank in banks)) for e in expected]
    right = [(e.pcr, e.event_type, *(e.digests.get(ALGORITHMS[bank], b"") for bank in banks)) for e in booted]
    for tag, low, high, start, end in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from _pair(expected[low:high], booted[start:end], offset=start)


def _pair(
    expected: Sequence[MeasuredEvent], booted: Sequence[LogEvent], *, offset: int
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


def _subject_of_expected(event: MeasuredEvent) -> tuple[int, int, str]:
    found = _VARIABLE.search(event.description)
    return event.pcr, int(event.event_type), found[1] if found and event.pcr in (1, 7) else ""


def _subject_of_booted(event: LogEvent) -> tuple[int, int, str]:
    facts = decode_event(event.event_type, event.data)
    name = facts.title.removeprefix("variable ") if facts.title.startswith("variable ") else ""
    return event.pcr, event.event_type, name if event.pcr in (1, 7) else ""
