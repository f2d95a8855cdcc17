"""The search for near misses: tries changes, alone and in pairs, and combines what explains single registers.

A change counts only if it makes a wrong register right and no right one wrong: then all that it implies is
what the machine has. Order of the search:

1. every change alone, cheap ones first;
2. one change per register, joined: a machine may differ in memory (RTMR0) and in its command line (RTMR2);
3. pairs of two kinds that meet in a register which no single change explains, as far as the limit goes.

Costly changes come last, only if they are asked for, and each is paired with the edits, which cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Generic

from measurements.errors import KeyturnError
from measurements.near_miss import (
    Change,
    Inputs,
    NearMiss,
    NearMisses,
    Problem,
    differing_registers,
    machine_words,
)
from measurements.platforms import PlatformPrediction

DEFAULT_PAIRS = 2000
_MAX_JOINED = 4

Progress = Callable[[int, int], None]


def search(
    problem: Problem[Inputs],
    changes: Sequence[Change[Inputs]],
    *,
    pairs: int = DEFAULT_PAIRS,
    costly: bool = False,
    progress: Progress | None = None,
) -> NearMisses:
    """The near misses of ``problem`` among ``changes``, those that explain most first.

    ``pairs`` bounds how many pairs are tried; ``costly`` allows changes that start a virtual machine, and
    ``progress`` is told how many of them are done.
    """
    usable = [change for change in changes if change.registers & problem.wrong and _usable(problem, change)]
    run = _Search(problem=problem)
    if problem.wrong:
        run.singles([change for change in usable if not change.costly])
        run.join()
        run.pairs(list(_pairs([change for change in usable if not change.costly], run.unexplained)), pairs)
        slow = [change for change in usable if change.costly]
        if costly:
            run.costly(slow, [change for change in usable if change.edit is not None], progress)
        else:
            run.left_out = 0 if run.complete else len(slow)
        run.join()
    return NearMisses(
        found=tuple(sorted(run.found, key=lambda miss: (len(miss.left), len(miss.kinds), -len(miss.events)))),
        wrong=tuple(name for name in problem.expected.registers if name in problem.wrong),
        tried=run.tried,
        impossible=run.impossible,
        untried=run.untried,
        costly=run.left_out,
    )


@dataclass(kw_only=True, slots=True)
class _Search(Generic[Inputs]):
    """The state of one search."""

    problem: Problem[Inputs]
    found: list[NearMiss] = field(default_factory=list)
    causes: dict[str, tuple[Change[Inputs], ...]] = field(default_factory=dict)
    tried: int = 0
    impossible: int = 0
    untried: int = 0
    left_out: int = 0
    _seen: set[tuple[int, ...]] = field(default_factory=set)
    _noted: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)

    @property
    def unexplained(self) -> frozenset[str]:
        """Wrong registers for which nothing was found yet."""
        return self.problem.wrong - self.causes.keys()

    @property
    def complete(self) -> bool:
        """Whether something explains every wrong register."""
        return any(not miss.left for miss in self.found)

    def singles(self, changes: Sequence[Change[Inputs]]) -> None:
        """Each change alone."""
        for change in changes:
            self.attempt((change,))

    def pairs(self, candidates: Sequence[tuple[Change[Inputs], ...]], limit: int) -> None:
        """Pairs, as far as the limit goes; none if nothing is left to explain."""
        if self.complete:
            return
        for pair in candidates[:limit]:
            self.attempt(pair)
        self.untried += len(candidates[limit:])

    def costly(
        self, changes: Sequence[Change[Inputs]], edits: Sequence[Change[Inputs]], progress: Progress | None
    ) -> None:
        """Each costly change, alone and with each edit, as long as it could explain anything new."""
        for done, change in enumerate(changes):
            if self.complete or not change.registers & self.unexplained:
                self.left_out += 1
                continue
            base = self.attempt((change,))
            for edit in edits:
                if base is not None and not self.complete and edit.kind is not change.kind:
                    self.attempt((change, edit), base=base)
            if progress is not None:
                progress(done + 1, len(changes))

    def join(self) -> None:
        """One change for each register, all together, if no single one explains everything."""
        joined: dict[int, Change[Inputs]] = {}
        for changes in self.causes.values():
            joined.update({id(change): change for change in changes})
        several = len(self.causes) > 1 and 1 < len(joined) <= _MAX_JOINED
        if several and not self.complete:
            self.attempt(tuple(joined.values()))

    def attempt(
        self, changes: tuple[Change[Inputs], ...], *, base: PlatformPrediction | None = None
    ) -> PlatformPrediction | None:
        """Predict under ``changes`` and note what that explains; the prediction, or None if there is none.

        ``base`` is the prediction under the first change, if it is known already.
        """
        key = tuple(id(change) for change in changes)
        if key in self._seen:
            return None
        self._seen.add(key)
        try:
            prediction = predict(self.problem, changes) if base is None else apply_edits(base, changes[1:])
        except KeyturnError:
            prediction = None
        if prediction is None:
            self.impossible += 1
            return None
        self.tried += 1
        self._note(changes, prediction)
        return prediction

    def _note(self, changes: tuple[Change[Inputs], ...], prediction: PlatformPrediction) -> None:
        wrong_before, wrong = self.problem.wrong, differing_registers(prediction, self.problem.found)
        explained = wrong_before - wrong
        if wrong - wrong_before or not _compares(prediction, self.problem):
            return
        # Events count for single changes only: any two would make right what each does.
        events = () if len(changes) > 1 else tuple(_new_events(self.problem, prediction, wrong))
        if (explained or events) and self._is_new(changes, explained):
            self._add(changes, prediction, explained, events)

    def _is_new(self, changes: tuple[Change[Inputs], ...], explained: frozenset[str]) -> bool:
        """Whether no fewer of these changes explain as much."""
        words = frozenset(change.words for change in changes)
        if any(fewer <= words and explained <= by_fewer for fewer, by_fewer in self._noted):
            return False
        self._noted.append((words, explained))
        return True

    def _add(
        self,
        changes: tuple[Change[Inputs], ...],
        prediction: PlatformPrediction,
        explained: frozenset[str],
        events: tuple[str, ...],
    ) -> None:
        for register in explained:
            self.causes.setdefault(register, changes)
        order = tuple(self.problem.expected.registers)
        left = differing_registers(prediction, self.problem.found)
        self.found.append(
            NearMiss(
                kinds=tuple(change.kind for change in changes),
                words=tuple(change.words for change in changes),
                explains=tuple(name for name in order if name in explained),
                left=tuple(name for name in order if name in left),
                events=events,
                machine=machine_words(prediction),
                steps=tuple(_first_steps(self.problem.expected, prediction, explained)),
                prediction=prediction,
            )
        )


def predict(problem: Problem[Inputs], changes: Sequence[Change[Inputs]]) -> PlatformPrediction | None:
    """The prediction under all of ``changes``; None if an edit does not apply. Raises ``KeyturnError`` for
    inputs that cannot be.
    """
    prediction = problem.expected
    inputs = problem.inputs
    changed = [change.inputs for change in changes if change.inputs is not None]
    if changed:
        assert inputs is not None
        assert problem.predict is not None
        for change in changed:
            inputs = change(inputs)
        if inputs != problem.inputs:
            prediction = problem.predict(inputs)
    return apply_edits(prediction, changes)


def apply_edits(
    prediction: PlatformPrediction, changes: Sequence[Change[Inputs]]
) -> PlatformPrediction | None:
    """The prediction with the edits among ``changes``; None if one does not apply."""
    edited: PlatformPrediction | None = prediction
    for change in changes:
        if change.edit is not None and edited is not None:
            edited = change.edit(edited)
    return edited


def _usable(problem: Problem[Inputs], change: Change[Inputs]) -> bool:
    return change.edit is not None or (problem.inputs is not None and problem.predict is not None)


def _pairs(
    changes: Sequence[Change[Inputs]], unexplained: frozenset[str]
) -> Iterator[tuple[Change[Inputs], ...]]:
    """Pairs of two kinds of which both can change the same unexplained register."""
    for first, second in combinations(changes, 2):
        if first.kind is not second.kind and first.registers & second.registers & unexplained:
            yield first, second


def _compares(prediction: PlatformPrediction, problem: Problem[Inputs]) -> bool:
    """Whether every register that was wrong is still predicted: an absent one explains nothing."""
    return all(
        set(problem.expected.registers[name]) <= set(prediction.registers.get(name, {}))
        for name in problem.wrong
    )


def _new_events(
    problem: Problem[Inputs], prediction: PlatformPrediction, registers: frozenset[str]
) -> Iterator[str]:
    """Events of ``registers`` that are as in the log under ``prediction`` only; none if one got lost."""
    for register in sorted(registers):
        before, after = (_logged(problem, each, register) for each in (problem.expected, prediction))
        if all(digests in after for digests in before):
            yield from (f"{register}: {words}" for digests, words in after.items() if digests not in before)


def _logged(
    problem: Problem[Inputs], prediction: PlatformPrediction, register: str
) -> dict[tuple[bytes, ...], str]:
    """Predicted events that the log has, too: what they are, by digests in the banks of the log."""
    logged = [event for event in problem.log if event.register == register]
    banks = sorted(logged[0].digests) if logged else []
    have = {tuple(event.digests[bank] for bank in banks) for event in logged}
    found: dict[tuple[bytes, ...], str] = {}
    for event in prediction.events:
        if event.register == register and not event.running and set(banks) <= set(event.digests):
            digests = tuple(event.digests[bank] for bank in banks)
            if logged and digests in have:
                found.setdefault(digests, event.description)
    return found


def _first_steps(
    expected: PlatformPrediction, other: PlatformPrediction, registers: frozenset[str]
) -> Iterator[str]:
    """For each register of a launch: the first step after which it is not as predicted."""
    for register in expected.registers:
        if register not in registers:
            continue
        steps = [
            [event for event in each.events if event.register == register and event.running]
            for each in (expected, other)
        ]
        for mine, theirs in zip(*steps, strict=False):
            if mine.digests != theirs.digests:
                yield f"{register}: {theirs.description}"
                break
