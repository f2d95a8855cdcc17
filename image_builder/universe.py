"""All packages that a resolution may use: the indexes of several suites seen as one, with apt's rules of
preference.

Every package has one candidate: its highest version in the automatic suites, or the version of the suite that
it is pinned to. A suite that is only pinned to (backports) lends further packages to those that already come
from it, and only where the candidate is not good enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from image_builder.debian_version import compare
from image_builder.relations import AnyOf, Relation
from image_builder.release_index import IndexedPackage, PackagesIndex

_PRIORITIES = {"required": 1, "important": 2, "standard": 3, "optional": 4, "extra": 5}


@dataclass(frozen=True, slots=True)
class Solution:
    """One package that satisfies a group of alternatives, with all of its versions that do, best first."""

    name: str
    versions: tuple[IndexedPackage, ...]


class Universe:
    """Indexes by their part in the choice.

    The highest version in ``automatic`` is the candidate; ``reluctant`` ones (marked NotAutomatic by the
    archive) count only for packages that no automatic one has; ``lending`` are suites that are only pinned
    to; ``others`` are looked into by :meth:`in_suite` alone.
    """

    def __init__(
        self,
        *,
        automatic: Sequence[PackagesIndex],
        reluctant: Sequence[PackagesIndex] = (),
        lending: Sequence[PackagesIndex] = (),
        pins: Mapping[str, str] | None = None,
        others: Sequence[PackagesIndex] = (),
    ) -> None:
        self._automatic = tuple(automatic)
        self._reluctant = tuple(reluctant)
        self._lending = tuple(lending)
        self._all = tuple(dict.fromkeys((*automatic, *reluctant, *lending, *others)))
        self._pins = dict(pins or {})
        self._candidates: dict[str, IndexedPackage | None] = {}
        self._lent: dict[str, tuple[IndexedPackage, ...]] = {}
        self._solutions: dict[tuple[AnyOf, str], tuple[Solution, ...]] = {}

    @property
    def indexes(self) -> tuple[PackagesIndex, ...]:
        """All indexes, the automatic ones first."""
        return self._all

    def candidate(self, name: str) -> IndexedPackage | None:
        """The version of ``name`` that is used unless a lending suite has to help out."""
        if name not in self._candidates:
            self._candidates[name] = self._find_candidate(name)
        return self._candidates[name]

    def _find_candidate(self, name: str) -> IndexedPackage | None:
        suite = self._pins.get(name)
        if suite is not None:
            return newest(self.in_suite(name, suite))
        usual = newest(package for index in self._automatic for package in index.versions(name))
        if usual is not None:
            return usual
        return newest(package for index in self._reluctant for package in index.versions(name))

    def in_suite(self, name: str, suite: str) -> list[IndexedPackage]:
        """All versions of ``name`` in ``suite``."""
        return [package for index in self.indexes if index.suite == suite for package in index.versions(name)]

    def versions(self, name: str) -> tuple[IndexedPackage, ...]:
        """The candidate, then what lending suites have of ``name``, best first."""
        candidate = self.candidate(name)
        if candidate is None:
            return self._lent_versions(name)
        others = () if name in self._pins else self._lent_versions(name)
        return (candidate, *others)

    def satisfying(self, relation: Relation, *, parent_suite: str) -> list[Solution]:
        """Packages that satisfy ``relation`` for a package of ``parent_suite``: the named one, then
        providers in apt's order.
        """
        found = [self._good_versions(name, relation, parent_suite) for name in self._targets(relation.name)]
        return [solution for solution in found if solution.versions]

    def solutions(self, group: AnyOf, *, parent_suite: str) -> tuple[Solution, ...]:
        """Packages that satisfy ``group``, in the order in which apt tries them, each once."""
        key = (group, parent_suite)
        if key not in self._solutions:
            merged: dict[str, tuple[IndexedPackage, ...]] = {}
            for relation in group:
                for solution in self.satisfying(relation, parent_suite=parent_suite):
                    known = merged.get(solution.name, ())
                    added = tuple(package for package in solution.versions if package not in known)
                    merged[solution.name] = known + added
            self._solutions[key] = tuple(Solution(name, versions) for name, versions in merged.items())
        return self._solutions[key]

    def matching(self, relation: Relation, *, besides: str) -> list[IndexedPackage]:
        """Every known version of every package other than ``besides`` that ``relation`` speaks of (for
        Conflicts and Breaks).
        """
        return [
            package
            for name in self._targets(relation.name)
            if name != besides
            for package in self.versions(name)
            if satisfies(package, relation)
        ]

    def _targets(self, name: str) -> list[str]:
        names = dict.fromkeys(
            provider
            for index in (*self._automatic, *self._reluctant, *self._lending)
            for provider in index.providers(name)
        )
        names.pop(name, None)
        providers = [provider for provider in names if self.versions(provider)]
        return [name, *sorted(providers, key=self._provider_rank)]

    def _provider_rank(self, name: str) -> tuple[bool, int]:
        """apt prefers essential packages, then a higher priority, then what it met first (Python's sort
        keeps that order).
        """
        package = self.versions(name)[0]
        return (not package.essential, _PRIORITIES.get(package.priority, 5))

    def _good_versions(self, name: str, relation: Relation, parent_suite: str) -> Solution:
        candidate = self.candidate(name)
        usable = candidate is not None and satisfies(candidate, relation)
        lent = [
            package
            for package in (() if name in self._pins else self._lent_versions(name))
            if (usable or package.suite == parent_suite) and satisfies(package, relation)
        ]
        first = [candidate] if usable and candidate is not None else []
        return Solution(name, (*first, *lent))

    def _lent_versions(self, name: str) -> tuple[IndexedPackage, ...]:
        if name not in self._lent:
            found = (newest(index.versions(name)) for index in self._lending)
            self._lent[name] = tuple(package for package in found if package is not None)
        return self._lent[name]


def newest(packages: Iterable[IndexedPackage]) -> IndexedPackage | None:
    """The highest version; of equal ones the first."""
    best: IndexedPackage | None = None
    for package in packages:
        if best is None or compare(package.version, best.version) > 0:
            best = package
    return best


def satisfies(package: IndexedPackage, relation: Relation) -> bool:
    """Whether ``package`` itself, or something that it provides, satisfies ``relation`` (Debian Policy 7.1
    and 7.5).
    """
    if relation.qualifier == "any":
        if package.multi_arch != "allowed":
            return False
    elif relation.qualifier not in ("", package.architecture):
        return False
    if package.name == relation.name and relation.allows(package.version):
        return True
    return any(
        provided.name == relation.name
        and (not relation.operator or (bool(provided.version) and relation.allows(provided.version)))
        for provided in package.provides
    )
