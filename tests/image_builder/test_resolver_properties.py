"""The resolver on random archives, against a search through all sets of packages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from image_builder.release_index import IndexedPackage
from image_builder.resolver import resolve
from image_builder.resolver_errors import ResolveError
from image_builder.universe import Universe, satisfies
from tests.image_builder.test_resolver import index

NAMES = ("a", "b", "c", "d", "e", "f")
BOUNDS = ("", "", "", " (>= 2)", " (<< 2)", " (= 1)")
TARGETS = st.builds("{}{}".format, st.sampled_from((*NAMES, "v", "w", "absent")), st.sampled_from(BOUNDS))


@st.composite
def archives(draw: st.DrawFn) -> list[str]:
    """Lines of an archive of up to six packages in one or two versions of the numbers 1 and 2."""
    lines = []
    for name in NAMES[: draw(st.integers(2, len(NAMES)))]:
        fields = []
        groups = draw(st.lists(st.lists(TARGETS, min_size=1, max_size=3), max_size=3))
        if groups:
            fields.append("Depends: " + ", ".join(" | ".join(group) for group in groups))
        conflicts = draw(st.lists(TARGETS, max_size=1))
        if conflicts:
            fields.append("Conflicts: " + ", ".join(conflicts))
        provides = draw(st.lists(st.sampled_from(("v", "w", "v (= 2)")), max_size=1))
        if provides:
            fields.append("Provides: " + ", ".join(provides))
        lines.append("; ".join([f"{name} {draw(st.integers(1, 2))}", *fields]))
    return lines


def is_consistent(packages: tuple[IndexedPackage, ...]) -> bool:
    """Whether every dependency is met and nothing collides."""
    return all(
        any(satisfies(other, relation) for relation in group for other in packages)
        for package in packages
        for group in package.depends
    ) and not any(
        satisfies(other, relation)
        for package in packages
        for group in package.conflicts
        for relation in group
        for other in packages
        if other.name != package.name
    )


def all_sets(packages: list[IndexedPackage], *, wanted: list[str]) -> Iterator[tuple[IndexedPackage, ...]]:
    """Every set of packages that has all wanted ones."""
    for size in range(len(packages) + 1):
        for chosen in combinations(packages, size):
            if {package.name for package in chosen} >= set(wanted):
                yield chosen


@settings(max_examples=200, deadline=None)
@given(lines=archives(), data=st.data())
def test_a_set_is_found_exactly_when_there_is_one(lines: list[str], data: st.DataObject) -> None:
    archive = index("s", *lines)
    packages = [package for name in archive.names() for package in archive.versions(name)]
    wanted = data.draw(st.lists(st.sampled_from(archive.names()), min_size=1, max_size=2, unique=True))
    possible = any(is_consistent(chosen) for chosen in all_sets(packages, wanted=wanted))
    event(f"possible: {possible}")
    try:
        found = resolve(Universe(automatic=[archive]), wanted).packages
    except ResolveError:
        assert not possible
        return
    assert is_consistent(found)
    assert {package.name for package in found} >= set(wanted)


@settings(max_examples=100, deadline=None)
@given(lines=archives(), data=st.data())
def test_nothing_is_installed_without_need(lines: list[str], data: st.DataObject) -> None:
    """Every package is wanted, or named (or provided) by a dependency of another one of the set."""
    archive = index("s", *lines)
    wanted = [data.draw(st.sampled_from(archive.names()))]
    try:
        found = resolve(Universe(automatic=[archive]), wanted).packages
    except ResolveError:
        return
    for package in found:
        assert package.name in wanted or any(
            satisfies(package, relation)
            for other in found
            if other.name != package.name
            for group in other.depends
            for relation in group
        )
