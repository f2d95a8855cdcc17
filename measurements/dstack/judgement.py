"""Judgements about dstack deployments: named checks, each with what was expected and found.

A check does not only pass or fail. What a guest says of itself and nothing else says is a *claim*, and what
could not be compared is *unchecked*: neither is a pass, and a judgement passes only if every check does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from measurements.errors import KeyturnError
from measurements.platforms import Platform

Result = TypeVar("Result")


class Outcome(StrEnum):
    """What came of a check."""

    PASS = "pass"
    FAIL = "fail"
    CLAIMED = "claimed"
    UNCHECKED = "unchecked"


NOT_COVERED = ("signature of the report", "certificates and revocation", "TCB status of the platform")
"""What no judgement of this package is about, and every output says so."""

_NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check. ``name`` is stable, for machines; ``reason`` and ``advice`` are empty where it passed."""

    name: str
    outcome: Outcome
    expected: str
    found: str
    reason: str = ""
    advice: str = ""

    def as_json(self) -> dict[str, str]:
        """The check as ``--json`` shows it."""
        return {
            "name": self.name,
            "outcome": self.outcome.value,
            "expected": self.expected,
            "found": self.found,
            "reason": self.reason,
            "advice": self.advice,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """All checks in their order, and the values that follow from the report.

    It is about what the report says. Whether a machine said so is in ``not_covered``.
    """

    platform: Platform
    checks: tuple[Check, ...]
    values: Mapping[str, bytes] = field(default_factory=dict)
    not_covered: tuple[str, ...] = NOT_COVERED

    @property
    def passed(self) -> bool:
        """Whether there are checks and every one passed."""
        return bool(self.checks) and all(check.outcome is Outcome.PASS for check in self.checks)

    @property
    def failed(self) -> bool:
        """Whether some check failed: the report contradicts itself or what was expected."""
        return any(check.outcome is Outcome.FAIL for check in self.checks)

    def check(self, name: str) -> Check:
        """The check of this name."""
        return next(check for check in self.checks if check.name == name)

    def as_json(self) -> dict[str, object]:
        """The judgement as ``--json`` shows it."""
        return {
            "platform": self.platform.value,
            "passed": self.passed,
            "checks": [check.as_json() for check in self.checks],
            "values": {name: value.hex() for name, value in self.values.items()},
            "not_covered": list(self.not_covered),
        }

    def __bool__(self) -> bool:
        raise TypeError("ask for .passed")


class Checks:
    """Collects checks; none ends the list, so that a user sees everything that is wrong at once."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    def all(self) -> tuple[Check, ...]:
        """The checks so far."""
        return tuple(self._checks)

    def require(
        self, name: str, condition: bool, *, expected: str, found: str, reason: str, advice: str
    ) -> bool:
        """One check whose outcome is ``condition``; ``reason`` and ``advice`` are for the failure."""
        if condition:
            self._checks.append(Check(name=name, outcome=Outcome.PASS, expected=expected, found=found))
        else:
            self._add(name, Outcome.FAIL, expected, found, reason, advice)
        return condition

    def equal(self, name: str, *, expected: bytes, found: bytes, reason: str, advice: str) -> bool:
        """One check that two values are the same bytes."""
        return self.require(
            name, expected == found, expected=_hex(expected), found=_hex(found), reason=reason, advice=advice
        )

    def claimed(self, name: str, *, found: bytes, reason: str, advice: str) -> None:
        """One value that fits, but that only the guest vouches for."""
        self._add(name, Outcome.CLAIMED, "a value from another source", _hex(found), reason, advice)

    def unchecked(self, name: str, *, expected: str, reason: str, advice: str) -> None:
        """One check that could not be made."""
        self._add(name, Outcome.UNCHECKED, expected, _NOTHING, reason, advice)

    def attempt(self, name: str, make: Callable[[], Result], *, expected: str) -> Result | None:
        """One check that passes unless ``make`` raises an error of ours; its result, or ``None``."""
        try:
            result = make()
        except KeyturnError as error:
            self._add(
                name, Outcome.FAIL, expected, error.reason, f"{error.subject}: {error.reason}", error.advice
            )
            return None
        self._checks.append(Check(name=name, outcome=Outcome.PASS, expected=expected, found=expected))
        return result

    def _add(self, name: str, outcome: Outcome, expected: str, found: str, reason: str, advice: str) -> None:
        self._checks.append(
            Check(name=name, outcome=outcome, expected=expected, found=found, reason=reason, advice=advice)
        )


def _hex(value: bytes) -> str:
    return value.hex() or _NOTHING
