"""The resolver's rules, one by one, on small made-up archives."""

from __future__ import annotations

import pytest

from image_builder.release_index import PackagesIndex
from image_builder.resolver import resolve
from image_builder.resolver_errors import ResolveError
from image_builder.universe import Universe

HASH = "ab" * 32


def index(suite: str, *packages: str) -> PackagesIndex:
    """An index of lines such as ``app 1.0; Depends: a, b; Provides: c``."""
    paragraphs = []
    for package in packages:
        head, *fields = (part.strip() for part in package.split(";"))
        name, _, version = head.partition(" ")
        lines = [f"Package: {name}", f"Version: {version or '1'}", "Architecture: amd64", *fields]
        lines += [f"Filename: pool/{name}.deb", "Size: 1", f"SHA256: {HASH}"]
        paragraphs.append("\n".join(lines) + "\n")
    return PackagesIndex("\n".join(paragraphs), suite=suite)


def names(*packages: str, install: str, omit: tuple[str, ...] = ()) -> list[str]:
    universe = Universe(automatic=[index("s", *packages)])
    return [package.name for package in resolve(universe, install.split(), omit=omit).packages]


def test_dependencies_are_followed() -> None:
    assert names("a; Depends: b", "b; Pre-Depends: c", "c", "d", install="a") == ["a", "b", "c"]


def test_recommendations_are_not() -> None:
    assert names("a; Recommends: b; Suggests: b", "b", install="a") == ["a"]


def test_circles_end() -> None:
    assert names("a; Depends: b", "b; Depends: a", install="a") == ["a", "b"]


def test_the_first_alternative_is_taken() -> None:
    assert names("a; Depends: b | c", "b", "c", install="a") == ["a", "b"]


def test_an_alternative_that_is_asked_for_is_taken() -> None:
    assert names("a; Depends: b | c", "b", "c", install="a c") == ["a", "c"]


def test_an_alternative_that_is_already_chosen_is_taken() -> None:
    assert names("a; Depends: c, b | c", "b", "c", install="a") == ["a", "c"]
    assert names("a; Depends: x, b | c", "x; Depends: c", "b", "c", install="a") == ["a", "c", "x"]


def test_a_later_dependency_does_not_change_an_earlier_choice() -> None:
    assert names("a; Depends: b | c, c", "b", "c", install="a") == ["a", "b", "c"]


def test_an_alternative_that_is_not_there_is_passed_over() -> None:
    assert names("a; Depends: absent | c", "c", install="a") == ["a", "c"]
    assert names("a; Depends: b (>= 2) | c", "b 1", "c", install="a") == ["a", "c"]


def test_an_alternative_that_cannot_work_is_passed_over() -> None:
    assert names("a; Depends: b | c", "b; Depends: absent", "c", install="a") == ["a", "c"]


@pytest.mark.parametrize(
    ("relation", "good"),
    [(">= 2", True), (">> 2", False), ("= 2", True), ("<= 2", True), ("<< 2", False), (">= 2.0.1", False)],
)
def test_version_bounds_hold(relation: str, good: bool) -> None:
    packages = (f"a; Depends: b ({relation})", "b 2")
    if good:
        assert names(*packages, install="a") == ["a", "b"]
    else:
        with pytest.raises(ResolveError, match=r"b: 2 in s"):
            names(*packages, install="a")


def test_a_virtual_package_is_provided() -> None:
    assert names("a; Depends: v", "p; Provides: v", install="a") == ["a", "p"]


def test_the_real_package_comes_before_providers() -> None:
    assert names("a; Depends: v", "b; Provides: v", "v", install="a") == ["a", "v"]


def test_among_providers_priority_decides_then_the_order_of_the_index() -> None:
    assert names("a; Depends: v", "p; Provides: v", "q; Provides: v", install="a") == ["a", "p"]
    assert names("a; Depends: v", "p; Provides: v", "q; Provides: v; Priority: important", install="a") == [
        "a",
        "q",
    ]


def test_only_versioned_provides_satisfy_versioned_relations() -> None:
    assert names("a; Depends: v (>= 2)", "p; Provides: v", "q; Provides: v (= 3)", install="a") == ["a", "q"]
    with pytest.raises(ResolveError):
        names("a; Depends: v (>= 2)", "p; Provides: v, v (= 1)", install="a")


def test_any_needs_a_package_that_allows_it() -> None:
    assert names("a; Depends: b:any", "b; Multi-Arch: allowed", install="a") == ["a", "b"]
    with pytest.raises(ResolveError):
        names("a; Depends: b:any", "b; Multi-Arch: foreign", install="a")


def test_the_own_architecture_may_be_named_others_not() -> None:
    assert names("a; Depends: b:amd64", "b", install="a") == ["a", "b"]
    with pytest.raises(ResolveError):
        names("a; Depends: b:i386", "b", install="a")


@pytest.mark.parametrize("field", ["Conflicts", "Breaks"])
def test_conflicts_choose_another_alternative(field: str) -> None:
    assert names("a; Depends: x, b | c", f"x; {field}: b", "b", "c", install="a") == ["a", "c", "x"]
    assert names("a; Depends: x, b | c", "x", f"b; {field}: x", "c", install="a") == ["a", "c", "x"]


def test_conflicts_have_bounds() -> None:
    assert names("a; Depends: b; Breaks: b (<< 2)", "b 2", install="a") == ["a", "b"]


def test_a_package_does_not_conflict_with_itself() -> None:
    assert names("a; Provides: mta; Conflicts: mta", install="a") == ["a"]


def test_a_conflict_with_a_virtual_package_hits_its_providers() -> None:
    with pytest.raises(ResolveError, match="conflicts with mta"):
        names("a; Depends: b; Conflicts: mta", "b; Provides: mta", install="a")


def test_an_unsatisfiable_set_shows_the_chain() -> None:
    with pytest.raises(ResolveError) as caught:
        names(
            "top; Depends: middle",
            "middle; Depends: low",
            "low; Conflicts: other",
            "other",
            install="top other",
        )
    assert "recipe → top → middle → low conflicts with other" in caught.value.reason
    assert caught.value.exit_status == 2


def test_a_missing_dependency_shows_the_chain_and_what_there_is() -> None:
    with pytest.raises(ResolveError) as caught:
        names("top; Depends: middle", "middle; Depends: low (>= 5) | lower", "low 4", install="top")
    assert "recipe → top → middle needs low (>= 5) | lower" in caught.value.reason
    assert "low: 4 in s" in caught.value.reason
    assert "lower: not in any suite" in caught.value.reason


def test_a_package_that_no_suite_has_names_near_ones() -> None:
    with pytest.raises(ResolveError) as caught:
        names("python3", "python3-yaml", install="pyhton3")
    assert caught.value.subject == "pyhton3"
    with pytest.raises(ResolveError) as caught:
        names("python3", "python3-yaml", install="python")
    assert "python3" in caught.value.advice


def test_a_virtual_package_cannot_be_installed_by_name() -> None:
    with pytest.raises(ResolveError) as caught:
        names("p; Provides: v", install="v")
    assert "p" in caught.value.advice


def test_omitted_packages_count_as_present() -> None:
    universe = Universe(automatic=[index("s", "a; Depends: b | c, d", "b", "c", "d; Depends: e", "e")])
    resolution = resolve(universe, ["a"], omit=["c", "d", "zzz"])
    assert [package.name for package in resolution.packages] == ["a"]
    assert resolution.omitted == {"c", "d"}


def test_an_omitted_provider_counts_for_its_virtual_package() -> None:
    assert names("a; Depends: v", "p; Provides: v", "q; Provides: v", install="a", omit=("q",)) == ["a"]


def test_the_highest_version_of_all_suites_is_taken() -> None:
    universe = Universe(automatic=[index("s", "a 1", "b 3"), index("s-security", "a 2", "b 2")])
    found = {
        package.name: (package.version, package.suite) for package in resolve(universe, ["a", "b"]).packages
    }
    assert found == {"a": ("2", "s-security"), "b": ("3", "s")}


def test_of_equal_versions_the_first_suite_is_taken() -> None:
    universe = Universe(automatic=[index("s", "a 1"), index("t", "a 1")])
    assert resolve(universe, ["a"]).packages[0].suite == "s"


def backports(*, pins: dict[str, str]) -> Universe:
    base = index("s", "a 1; Depends: lib (>= 1), tool", "lib 1", "tool 1", "b 1; Depends: lib")
    newer = index("bpo", "a 2; Depends: lib (>= 2), tool", "lib 2", "tool 2", "b 2; Depends: lib")
    return Universe(automatic=[base], lending=[newer], pins=pins)


def test_a_pin_takes_from_the_other_suite_only_what_it_needs() -> None:
    found = {
        package.name: package.version for package in resolve(backports(pins={"a": "bpo"}), ["a"]).packages
    }
    assert found == {"a": "2", "lib": "2", "tool": "1"}


def test_a_pin_leaves_others_alone() -> None:
    found = {
        package.name: package.version for package in resolve(backports(pins={"a": "bpo"}), ["b"]).packages
    }
    assert found == {"b": "1", "lib": "1"}


def test_a_shared_dependency_is_raised_for_the_pinned_package() -> None:
    universe = backports(pins={"a": "bpo"})
    found = {package.name: package.version for package in resolve(universe, ["b", "a"]).packages}
    assert found == {"a": "2", "b": "1", "lib": "2", "tool": "1"}


def test_a_suite_that_is_not_automatic_counts_last() -> None:
    universe = Universe(automatic=[index("s", "a 1")], reluctant=[index("exp", "a 2", "only 1")])
    found = {package.name: package.suite for package in resolve(universe, ["a", "only"]).packages}
    assert found == {"a": "s", "only": "exp"}
