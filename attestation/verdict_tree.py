"""Verdict trees: the checks of a whole verification, in groups, where a check that was not made has failed.

A group lists the names of its checks beforehand. Whatever is on that list and was not made, because an
earlier check failed, stands in the tree as failed with ``NOT_CHECKED`` as what was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attestation.verdict import Check, Verdict

NOT_CHECKED = "not checked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Checks that belong together. ``name`` is stable, ``title`` is for people."""

    name: str
    title: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether there are checks and all passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The group as ``--json`` shows it."""
        return {
            "name": self.name,
            "title": self.title,
            "passed": self.passed,
            "checks": [check.as_json() for check in self.checks],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """A whole verification. It cannot be used as a truth value by accident."""

    groups: tuple[Group, ...]

    @property
    def passed(self) -> bool:
        """Whether there are groups and all passed."""
        return bool(self.groups) and all(group.passed for group in self.groups)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that were made and failed; what was not checked because of them is left out."""
        return tuple(
            check
            for group in self.groups
            for check in group.checks
            if not check.passed and check.found != NOT_CHECKED
        )

    def as_json(self) -> dict[str, Any]:
        """The tree as ``--json`` shows it."""
        return {
            "passed": self.passed,
            "groups": [group.as_json() for group in self.groups],
            "failures": [check.name for check in self.failures],
        }

    def __bool__(self) -> bool:
        raise TypeError("ask for .passed")


def group_of(name: str, title: str, expected: Sequence[str], verdict: Verdict) -> Group:
    """The group of the ``expected`` names, with what the verdict says of each."""
    return groups_of([(name, title, expected)], verdict)[0]


def groups_of(names: Iterable[tuple[str, str, Sequence[str]]], verdict: Verdict) -> tuple[Group, ...]:
    """As ``group_of``, for (name, title, expected) of several groups at once."""
    made = {check.name: check for check in verdict.checks}
    groups = []
    for name, title, expected in names:
        checks = [made[one] if one in made else _not_checked(one) for one in expected]
        groups.append(Group(name=name, title=title, checks=tuple(checks)))
    return tuple(groups)


def renamed(groups: Sequence[Group], *, prefix: str, when: str) -> tuple[Group, ...]:
    """The groups of a second piece of evidence in one tree: names with ``prefix``, titles with ``when``."""
    return tuple(
        Group(
            name=f"{prefix}{group.name}",
            title=f"{group.title}, {when}",
            checks=tuple(replace(check, name=f"{prefix}{check.name}") for check in group.checks),
        )
        for group in groups
    )


def _not_checked(name: str) -> Check:
    return Check(
        name=name,
        passed=False,
        expected="to be checked",
        found=NOT_CHECKED,
        reason="an earlier check failed, or what it needs is absent",
        advice="see the first check that failed",
    )
