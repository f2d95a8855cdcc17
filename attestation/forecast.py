"""Forecasts: which collateral or policy date will turn a verdict, and when.

The verdict is computed again at each moment at which something that it rests on begins or ends: windows of
certificates, lists and collateral, ages that the policy limits, ends of grace windows, and windows of what is
at hand but was not taken, since it may be taken then. What comes out is exact for the collateral at hand,
without a second set of rules that could differ from the verifier's.
Collateral of the next TCB recovery, where it is given as ``early``, is put in the place of today's, at its
own date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

from attestation.collateral import Collateral, DcapCollateral
from attestation.collateral_summary import summarise
from attestation.evidence_verdict import EvidenceVerdict
from attestation.platform_verification import Window
from attestation.policy import DcapPolicy, Policy

MAX_MOMENTS = 64
"""Most moments at which a verdict is computed again; beyond them nothing is said."""

Evaluate = Callable[[Collateral, int], EvidenceVerdict]
"""The verdict with this collateral at this time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A moment (seconds since 1970) from which on the verdict is another one, or fails for other reasons.

    ``causes`` name what ends or begins then; ``failing`` the checks that fail from then on, ``mended`` those
    that no longer do. ``components`` that are short then say what the platform would need.
    """

    at: int
    passes: bool
    causes: tuple[str, ...]
    failing: tuple[str, ...]
    mended: tuple[str, ...]
    reasons: tuple[str, ...]
    early: bool

    def as_json(self) -> dict[str, Any]:
        """The turn as ``--json`` shows it."""
        return {
            "at": self.at,
            "passes": self.passes,
            "causes": list(self.causes),
            "failing": list(self.failing),
            "mended": list(self.mended),
            "reasons": list(self.reasons),
            "early": self.early,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """``valid_until`` is the last second in which a passing verdict holds with the collateral at hand, or up
    to which that was looked at; None for a verdict that does not pass, or one that nothing here will end.
    """

    valid_until: int | None
    turns: tuple[Turn, ...]

    def as_json(self) -> dict[str, Any]:
        """The forecast as ``--json`` shows it."""
        return {"valid_until": self.valid_until, "turns": [one.as_json() for one in self.turns]}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Moment:
    at: int
    cause: str


def forecast(
    verdict: EvidenceVerdict, *, collateral: Collateral, policy: Policy, evaluate: Evaluate
) -> Forecast:
    """What will become of ``verdict``, which ``evaluate`` gave for ``collateral``: all that is at hand, that
    in the evidence as well.
    """
    agenda = _Agenda(after=verdict.now)
    agenda.add([*_window_moments(verdict.windows), *_policy_moments(policy), *_unused_moments(collateral)])
    turns = _turns(verdict, collateral, agenda, evaluate)
    ends = [one.at for one in turns if not one.passes] or agenda.rest
    return Forecast(
        valid_until=ends[0] - 1 if verdict.passed and ends else None,
        turns=(*turns, *_early_turns(verdict, collateral, evaluate)),
    )


@dataclass(kw_only=True, slots=True)
class _Agenda:
    """Moments in the order of time. What is added while they are taken has its place if it is still ahead."""

    after: int
    causes: dict[int, dict[str, None]] = field(default_factory=dict)
    heap: list[int] = field(default_factory=list)
    taken: int = 0

    def add(self, moments: Iterable[_Moment]) -> None:
        for one in moments:
            if one.at <= self.after:
                continue
            if one.at not in self.causes:
                heappush(self.heap, one.at)
            self.causes.setdefault(one.at, {})[one.cause] = None

    def __iter__(self) -> Iterator[int]:
        while self.heap and self.taken < MAX_MOMENTS:
            self.after = heappop(self.heap)
            self.taken += 1
            yield self.after

    @property
    def rest(self) -> list[int]:
        """What was not looked at, the earliest first."""
        return sorted(self.heap)


def _window_moments(windows: Iterable[Window]) -> list[_Moment]:
    found = []
    for one in windows:
        found.append(_Moment(at=one.start, cause=f"{one.name} begins"))
        found.append(_Moment(at=one.end + 1, cause=f"{one.name} ends"))
    return found


def _policy_moments(policy: Policy) -> list[_Moment]:
    sections = [one for one in (policy.tdx, policy.sgx, policy.sim) if isinstance(one, DcapPolicy)]
    return [
        _Moment(at=grace.until + 1, cause=f"grace for {', '.join(sorted(grace.statuses))} ends")
        for section in sections
        for grace in section.grace
    ]


def _unused_moments(collateral: Collateral) -> list[_Moment]:
    """When anything at hand begins: a verifier may take it from then on in the place of what it took. What it
    takes then brings its own windows. Certificates are not chosen by time.
    """
    items = summarise(replace(collateral, early=()))
    return [
        _Moment(at=one.start, cause=f"{one.what} {one.subject} begins")
        for one in items
        if one.start is not None and one.what != "certificate"
    ]


def _turns(
    verdict: EvidenceVerdict, collateral: Collateral, agenda: _Agenda, evaluate: Evaluate
) -> tuple[Turn, ...]:
    """Turns with today's collateral, in the order of time."""
    before, found = verdict, []
    for at in agenda:
        after = evaluate(collateral, at)
        agenda.add(_window_moments(after.windows))
        if after.failed_checks != before.failed_checks:
            found.append(_turn(before, after, at=at, causes=tuple(agenda.causes[at]), early=False))
        before = after
    return tuple(found)


def _early_turns(verdict: EvidenceVerdict, collateral: Collateral, evaluate: Evaluate) -> list[Turn]:
    """The verdict under early collateral, at the first moment at which all of it holds."""
    found = []
    for early in collateral.early:
        at = max(verdict.now, _early_start(verdict, collateral, early, evaluate))
        after = evaluate(_only(collateral, early), at)
        if after.failed_checks != verdict.failed_checks:
            found.append(
                _turn(verdict, after, at=at, causes=("early collateral becomes standard",), early=True)
            )
    return found


def _early_start(
    verdict: EvidenceVerdict, collateral: Collateral, early: DcapCollateral, evaluate: Evaluate
) -> int:
    """When the last window of the early set begins: its parts are issued one after another."""
    known = set(verdict.windows)
    windows = [one for one in evaluate(_only(collateral, early), verdict.now).windows if one not in known]
    return max((one.start for one in windows), default=verdict.now)


def _only(collateral: Collateral, dcap: DcapCollateral) -> Collateral:
    return replace(collateral, dcap=(dcap,), early=())


def _turn(
    before: EvidenceVerdict, after: EvidenceVerdict, *, at: int, causes: tuple[str, ...], early: bool
) -> Turn:
    made = [check for group in after.groups for check in group.checks if not check.passed and check.reason]
    return Turn(
        at=at,
        passes=after.passed,
        causes=causes,
        failing=tuple(sorted(after.failed_checks - before.failed_checks)),
        mended=tuple(sorted(before.failed_checks - after.failed_checks)),
        reasons=tuple(dict.fromkeys(check.reason for check in made if check in after.tree.failures))[:4],
        early=early,
    )
