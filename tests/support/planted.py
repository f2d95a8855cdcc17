"""A planted near miss: a machine that differs from its prediction in one choice, and its explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from measurements.near_miss import Change, NearMisses, NearMissKind, Problem
from measurements.near_miss_search import search


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What is known of the machine, the changes to try, and the words of the one that must be found."""

    problem: Problem[Any]
    changes: Sequence[Change[Any]]
    words: str
    costly: bool = False

    def search(self) -> NearMisses:
        """The near misses, without pairs: one choice was planted."""
        return search(self.problem, self.changes, costly=self.costly, pairs=0)


Plantings = Mapping[NearMissKind, Sequence[Callable[[], Planted]]]
