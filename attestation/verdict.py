"""Verdicts: every check by name, with what was expected and found. A verdict is never a bare yes or no."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from measurements.errors import KeyturnError, RefusedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check. ``name`` is stable, for machines; ``reason`` and ``advice`` are empty where it passed."""

    name: str
    passed: bool
    expected: str
    found: str
    reason: str = ""
    advice: str = ""

    @property
    def outcome(self) -> str:
        """``pass`` or ``fail``."""
        return "pass" if self.passed else "fail"

    def as_json(self) -> dict[str, str | bool]:
        """The check as ``--json`` shows it."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "passed": self.passed,
            "expected": self.expected,
            "found": self.found,
            "reason": self.reason,
            "advice": self.advice,
        }


class VerdictError(RefusedError):
    """A verdict that does not pass, raised where a caller needs it to; ``code`` is the failed check."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.reason, subject=check.name, advice=check.advice)
        self.check = check
        self.code = check.name  # type: ignore[misc]  # stable for this one error, not for the class


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Checks in the order in which they were made. It cannot be used as a truth value by accident."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether there are checks and all passed: a verdict without checks checked nothing."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def first_failure(self) -> Check | None:
        """The failed check that comes first; of a verdict without checks one that says so."""
        if not self.checks:
            return Check(
                name="no-checks",
                passed=False,
                expected="at least one check",
                found="none",
                reason="nothing was checked",
                advice="verify the evidence again",
            )
        return next((check for check in self.checks if not check.passed), None)

    def require(self) -> None:
        """Raises ``VerdictError`` with the first failure unless the verdict passed."""
        failure = self.first_failure
        if failure is not None:
            raise VerdictError(failure)

    def __bool__(self) -> bool:
        raise TypeError("ask for .passed")


class CheckFailedError(Exception):
    """Ends a list of checks at its first failure; caught by whoever began the list."""


class CheckList:
    """Collects checks in order; the first that fails ends the list with ``CheckFailedError``."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    def verdict(self) -> Verdict:
        """The verdict of the checks so far."""
        return Verdict(checks=tuple(self._checks))

    def require(
        self, name: str, condition: bool, *, expected: str, found: str, reason: str, advice: str
    ) -> None:
        """One check whose outcome is ``condition``; ``reason`` and ``advice`` are for the failure."""
        if condition:
            self._checks.append(Check(name=name, passed=True, expected=expected, found=found))
            return
        self._fail(name, expected=expected, found=found, reason=reason, advice=advice)

    def note(
        self, name: str, condition: bool, *, expected: str, found: str, reason: str, advice: str
    ) -> bool:
        """As ``require``, but a failure does not end the list: for checks on which no later one builds, so
        that a person sees all that is wrong at once. Returns ``condition``.
        """
        if condition:
            self._checks.append(Check(name=name, passed=True, expected=expected, found=found))
        else:
            self._checks.append(
                Check(name=name, passed=False, expected=expected, found=found, reason=reason, advice=advice)
            )
        return condition

    def equal(self, name: str, *, expected: bytes, found: bytes, reason: str, advice: str) -> None:
        """One check that two values are the same bytes."""
        self.require(
            name,
            expected == found,
            expected=expected.hex() or "nothing",
            found=found.hex() or "nothing",
            reason=reason,
            advice=advice,
        )

    def replay(self, verdict: Verdict, *, ends: bool = True) -> None:
        """Checks that were made before and kept, in their order; a failure that comes last ends the list, as
        it ended theirs, unless ``ends`` is false.
        """
        self._checks.extend(verdict.checks)
        if ends and verdict.checks and not verdict.checks[-1].passed:
            raise CheckFailedError(verdict.checks[-1].name)

    @contextmanager
    def step(self, name: str, *, expected: str) -> Iterator[None]:
        """One check that passes unless the block raises an error of ours."""
        try:
            yield
        except KeyturnError as error:
            self._fail(
                name,
                expected=expected,
                found=error.reason,
                reason=f"{error.subject}: {error.reason}",
                advice=error.advice,
            )
        self._checks.append(Check(name=name, passed=True, expected=expected, found=expected))

    def _fail(self, name: str, *, expected: str, found: str, reason: str, advice: str) -> NoReturn:
        self._checks.append(
            Check(name=name, passed=False, expected=expected, found=found, reason=reason, advice=advice)
        )
        raise CheckFailedError(name)
