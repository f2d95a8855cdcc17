"""Words for resolutions that fail: which package is not there, and by what chain two packages came to
collide.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from image_builder.relations import AnyOf, show
from image_builder.universe import Universe
from measurements.errors import KeyturnError


class ResolveError(KeyturnError):
    """A set of packages that cannot be had."""

    code = "resolve"


def unknown_package(universe: Universe, name: str, *, key: str = "packages.install") -> ResolveError:
    """The error for a package that no suite has."""
    suites = ", ".join(dict.fromkeys(index.suite for index in universe.indexes))
    providers = sorted({provider for index in universe.indexes for provider in index.providers(name)})
    if providers:
        return ResolveError(
            f"{key}: {name} is a virtual package of {suites}",
            subject=name,
            advice=f"name one of the packages that provide it: {', '.join(providers[:8])}",
        )
    known = {other for index in universe.indexes for other in index.names() if other[:2] == name[:2]}
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? Otherwise pin" if near else "correct the name, or pin"
    return ResolveError(
        f"{key}: package {name} is not in {suites}",
        subject=name,
        advice=f"{hint} it to a suite that has it ([[packages.pinned]])",
    )


def chain_text(chain: Sequence[str], *, group: AnyOf, forbidden: bool, available: str) -> str:
    """One cause of a failure: ``chain`` are package names from the recipe down to the one that asks for (or
    against) ``group``.
    """
    who = " → ".join(("recipe", *chain))
    if forbidden:
        return f"{who} conflicts with {show(group)}"
    return f"{who} needs {show(group)}{available}"


def available_text(universe: Universe, group: AnyOf) -> str:
    """What there is of the packages that ``group`` names."""
    found = []
    for relation in group:
        versions = [f"{package.version} in {package.suite}" for package in universe.versions(relation.name)]
        found.append(f"{relation.name}: {', '.join(versions) or 'not in any suite'}")
    return f" ({'; '.join(found)})"
