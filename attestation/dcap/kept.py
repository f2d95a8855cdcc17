"""Checks on things that stay the same between quotes, made once and kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from attestation.verdict import CheckFailedError, CheckList, Verdict

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Kept(Generic[_Value]):
    """Checks, and what they established: nothing unless all of them passed."""

    verdict: Verdict
    value: _Value | None

    def into(self, checks: CheckList) -> _Value:
        """Take the checks over; ends the list if one of them failed."""
        checks.replay(self.verdict)
        assert self.value is not None
        return self.value


def keep(make: Callable[[CheckList], _Value]) -> Kept[_Value]:
    """What ``make`` establishes with the checks that it makes; all of its failures end the list."""
    checks = CheckList()
    value = None
    with suppress(CheckFailedError):
        value = make(checks)
    return Kept(verdict=checks.verdict(), value=value)
