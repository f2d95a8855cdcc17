"""Relations between packages (Debian Policy 7.1, 7.5): ``a (>= 1) | b:any, c``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from debian_inspector.deps import parse_relationship

from image_builder.debian_version import holds

_RELATION = re.compile(r"[^\s()\[\]|]+(\s*\((<<|<=|=|>=|>>|<|>)\s*[^\s()]+\s*\))?")


@dataclass(frozen=True, slots=True)
class Relation:
    """One name with an optional version bound; ``qualifier`` is what follows the colon (``any`` or an
    architecture).
    """

    name: str
    operator: str = ""
    version: str = ""
    qualifier: str = ""

    def allows(self, version: str) -> bool:
        """Whether ``version`` is within the bound."""
        return not self.operator or holds(version, self.operator, self.version)

    def __str__(self) -> str:
        name = f"{self.name}:{self.qualifier}" if self.qualifier else self.name
        return f"{name} ({self.operator} {self.version})" if self.operator else name


AnyOf = tuple[Relation, ...]
"""Alternatives in the order of preference; one of them has to hold."""


@dataclass(frozen=True, slots=True)
class Provided:
    """A name that a package provides; only one with a version satisfies a relation with a version."""

    name: str
    version: str = ""


def parse_relations(text: str) -> tuple[AnyOf, ...]:
    """The relations of a field, in order; raises ``ValueError``."""
    groups = (group.strip() for group in text.replace("\n", " ").split(","))
    return tuple(_alternatives(group) for group in groups if group)


def parse_provides(text: str) -> tuple[Provided, ...]:
    """The value of a Provides field, in order; raises ``ValueError``."""
    return tuple(
        Provided(relation.name, relation.version) for group in parse_relations(text) for relation in group
    )


@lru_cache(maxsize=1 << 14)
def _alternatives(text: str) -> AnyOf:
    return tuple(_relation(part.strip()) for part in text.split("|"))


def _relation(text: str) -> Relation:
    if not _RELATION.fullmatch(text):
        raise ValueError(f"bad relation {text!r}")
    parsed = parse_relationship(text)
    name, _, qualifier = parsed.name.partition(":")
    return Relation(
        name=name,
        operator=getattr(parsed, "operator", ""),
        version=getattr(parsed, "version", ""),
        qualifier=qualifier,
    )


def show(group: AnyOf) -> str:
    """``group`` as it is written in a control file."""
    return " | ".join(str(relation) for relation in group)
