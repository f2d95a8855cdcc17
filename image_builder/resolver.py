"""Which packages an installation needs: the same set as ``apt-get install --no-install-recommends`` in an
empty root.

``resolvelib`` does the search. What makes the result apt's is the order (depth first, dependencies as
listed), and the choice among alternatives: one that is already chosen, else the first that works. Absence of
a package is a candidate of its own, so that Conflicts and Breaks are requirements like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from resolvelib import AbstractProvider, BaseReporter, Resolver
from resolvelib.resolvers import ResolutionImpossible, ResolutionTooDeep

from image_builder.relations import AnyOf, Relation, show
from image_builder.release_index import IndexedPackage
from image_builder.resolver_errors import ResolveError, available_text, chain_text, unknown_package
from image_builder.universe import Solution, Universe

_MAX_ROUNDS = 200_000
_LAST = (1 << 30,)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A decision: for a package name one version or absence (``package`` is None), for a group of
    alternatives one solution.
    """

    identifier: str
    package: IndexedPackage | None = None
    solution: Solution | None = None

    @property
    def present(self) -> bool:
        """Whether this decision installs a package."""
        return self.package is not None


@dataclass(frozen=True, slots=True)
class Requirement:
    """``identifier`` must be decided as one of ``allowed`` (versions); with ``forbidden``, as absent or
    none of those.
    """

    identifier: str
    group: AnyOf
    parent: Candidate | None
    place: int
    allowed: tuple[IndexedPackage, ...] = ()
    choices: tuple[Solution, ...] = ()
    optional: bool = False
    forbidden: tuple[IndexedPackage, ...] = ()

    def accepts(self, candidate: Candidate) -> bool:
        """Whether ``candidate`` meets this requirement."""
        if self.optional:
            return candidate.package not in self.forbidden
        if self.choices:
            return candidate.solution in self.choices
        return candidate.package in self.allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """The packages of an installation, sorted by name, and which omitted ones were really asked for."""

    packages: tuple[IndexedPackage, ...]
    omitted: frozenset[str]


def resolve(universe: Universe, install: Sequence[str], *, omit: Iterable[str] = ()) -> Resolution:
    """The packages that ``install`` needs, itself included.

    A package in ``omit`` is never taken and counts as present. Raises :class:`ResolveError` with the chain
    of conflict.
    """
    provider = _Provider(universe, install=install, omit=frozenset(omit))
    resolver: Resolver[Requirement, Candidate, str] = Resolver(provider, BaseReporter())
    try:
        result = resolver.resolve(provider.roots(), max_rounds=_MAX_ROUNDS)
    except ResolutionImpossible as error:
        causes = [information.requirement for information in error.causes]
        raise ResolveError(
            "the packages cannot be installed together: " + "; ".join(_explained(provider, causes)),
            subject="packages",
            advice="change packages.install, pin a package to another suite, or omit a dependency",
        ) from None
    except ResolutionTooDeep:
        raise ResolveError(
            "the search for a set of packages does not end",
            subject="packages",
            advice="install fewer alternatives",
        ) from None
    chosen = [candidate.package for candidate in result.mapping.values() if candidate.package is not None]
    return Resolution(
        packages=tuple(sorted(chosen, key=lambda package: package.name)), omitted=frozenset(provider.omitted)
    )


class _Matches(Sequence[Candidate]):
    """Candidates in the order that holds when they are looked at: what is already chosen changes during the
    search, and ``resolvelib`` keeps the first order it sees of anything but a sequence.
    """

    def __init__(self, matches: Callable[[], Iterator[Candidate]]) -> None:
        self._matches = matches

    def __iter__(self) -> Iterator[Candidate]:
        return self._matches()

    def __len__(self) -> int:
        return sum(1 for _ in self._matches())

    def __bool__(self) -> bool:
        return next(self._matches(), None) is not None

    @overload
    def __getitem__(self, index: int) -> Candidate: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Candidate]: ...

    def __getitem__(self, index: int | slice) -> Candidate | Sequence[Candidate]:
        return list(self._matches())[index]


_END = Requirement("end", (), None, 0, optional=True)
"""Stays undecided until everything else is decided, so that the search always asks what to decide next."""


class _Provider(AbstractProvider[Requirement, Candidate, str]):
    def __init__(self, universe: Universe, *, install: Sequence[str], omit: frozenset[str]) -> None:
        self.universe = universe
        self._install = tuple(install)
        self._omit = omit
        self.omitted: set[str] = set()
        self._chosen: Mapping[str, Candidate] = {}
        self._places: dict[str, tuple[int, ...]] = {}
        self.brought_by: dict[str, Requirement] = {}

    def roots(self) -> list[Requirement]:
        """The requirements of the installation itself."""
        requirements = [_END]
        for place, name in enumerate(self._install):
            versions = self.universe.versions(name)[:1]
            if not versions or self.universe.candidate(name) is None:
                raise unknown_package(self.universe, name)
            requirements.append(
                Requirement(
                    identifier=name, group=(Relation(name),), parent=None, place=place, allowed=versions
                )
            )
        return requirements

    def identify(self, requirement_or_candidate: Requirement | Candidate) -> str:
        return requirement_or_candidate.identifier

    def get_preference(self, *_: Any, **__: Any) -> int:
        return 0  # narrow_requirement_selection leaves one

    def narrow_requirement_selection(
        self,
        identifiers: Iterable[str],
        resolutions: Mapping[str, Candidate],
        candidates: Mapping[str, Iterator[Candidate]],
        information: Mapping[str, Iterator[Any]],
        backtrack_causes: Sequence[Any],
    ) -> Iterable[str]:
        """The one to decide next: depth first."""
        self._chosen = resolutions
        places = {
            identifier: min(self._place(item.requirement) for item in information[identifier])
            for identifier in identifiers
        }
        first = min(places, key=lambda identifier: places[identifier])
        self._places[first] = places[first]
        return [first]

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Requirement]],
        incompatibilities: Mapping[str, Iterator[Candidate]],
    ) -> Sequence[Candidate]:
        wanted = list(requirements[identifier])
        refused = list(incompatibilities[identifier])

        def matches() -> Iterator[Candidate]:
            for candidate in self._ordered(identifier, wanted):
                if candidate not in refused and all(each.accepts(candidate) for each in wanted):
                    yield candidate

        return _Matches(matches)

    def is_satisfied_by(self, requirement: Requirement, candidate: Candidate) -> bool:
        return requirement.accepts(candidate)

    def get_dependencies(self, candidate: Candidate) -> Iterable[Requirement]:
        if candidate.solution is not None:
            yield self._remembered(
                Requirement(
                    identifier=candidate.solution.name,
                    group=self.brought_by[candidate.identifier].group,
                    parent=candidate,
                    place=0,
                    allowed=candidate.solution.versions,
                )
            )
        elif candidate.package is not None:
            yield from self._depends(candidate, candidate.package)
            yield from self._conflicts(candidate, candidate.package)

    def _depends(self, parent: Candidate, package: IndexedPackage) -> Iterator[Requirement]:
        for place, group in enumerate(package.depends):
            solutions = self.universe.solutions(group, parent_suite=package.suite)
            names = {relation.name for relation in group} | {solution.name for solution in solutions}
            if names & self._omit:
                self.omitted |= names & self._omit
                continue
            if len(solutions) > 1:
                identifier = f"one of {show(group)}"
                requirement = Requirement(identifier, group, parent, place, choices=solutions)
            else:
                name = solutions[0].name if solutions else group[0].name
                allowed = solutions[0].versions if solutions else ()
                requirement = Requirement(name, group, parent, place, allowed=allowed)
            yield self._remembered(requirement)

    def _conflicts(self, parent: Candidate, package: IndexedPackage) -> Iterator[Requirement]:
        for group in package.conflicts:
            by_name: dict[str, list[IndexedPackage]] = {}
            for other in self.universe.matching(group[0], besides=package.name):
                by_name.setdefault(other.name, []).append(other)
            for name, forbidden in by_name.items():
                yield Requirement(name, group, parent, 0, optional=True, forbidden=tuple(forbidden))

    def _ordered(self, identifier: str, wanted: Sequence[Requirement]) -> Iterator[Candidate]:
        positive = next((requirement for requirement in wanted if not requirement.optional), None)
        if positive is None:
            yield Candidate(identifier)
        elif positive.choices:
            taken = [solution for solution in positive.choices if self._is_taken(solution)]
            others = [solution for solution in positive.choices if solution not in taken]
            for solution in (*taken, *others):
                yield Candidate(identifier, solution=solution)
        else:
            for package in positive.allowed:
                yield Candidate(identifier, package=package)

    def _is_taken(self, solution: Solution) -> bool:
        if solution.name in self._install:
            return True
        chosen = self._chosen.get(solution.name)
        return chosen is not None and chosen.package in solution.versions

    def _place(self, requirement: Requirement) -> tuple[int, ...]:
        if requirement.optional:
            return _LAST
        if requirement.parent is None:
            return (requirement.place,)
        return (*self._places[requirement.parent.identifier], requirement.place)

    def _remembered(self, requirement: Requirement) -> Requirement:
        self.brought_by[requirement.identifier] = requirement
        return requirement


def _explained(provider: _Provider, causes: Sequence[Requirement]) -> list[str]:
    """One line for every cause, naming the packages from the recipe down to the one that asks."""
    lines = []
    for cause in causes:
        available = "" if cause.allowed or cause.choices else available_text(provider.universe, cause.group)
        lines.append(
            chain_text(
                _chain(provider, cause),
                group=cause.group,
                forbidden=cause.optional,
                available=available,
            )
        )
    return list(dict.fromkeys(lines))


def _chain(provider: _Provider, cause: Requirement) -> list[str]:
    """Package names from the installation down to the package whose requirement ``cause`` is."""
    names: list[str] = []
    parent = cause.parent
    while parent is not None:
        if parent.package is not None:
            if parent.package.name in names:
                break
            names.append(parent.package.name)
        above = provider.brought_by.get(parent.identifier)
        parent = above.parent if above is not None else None
    return names[::-1]
