"""What a comparison finds: a tree of differences, each with its causes, as values, as text and as JSON.

A difference is nested from the outside in: artefact, then package or section, then file, then byte range. A
cause names the input that is behind it (a line of the lock, a key of the recipe); many differences share few
causes, so a comparison lists those first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SHOWN = 12
"""Differences of one level that the text shows; the JSON has them all."""
SHOWN_RANGES = 4
"""Byte ranges of one level that the text shows."""
LONGEST = 72
"""Characters of a value that the text shows."""


class Change(StrEnum):
    """How the second side differs from the first."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class CauseKind(StrEnum):
    """Which kind of input is behind a difference."""

    PACKAGE = "package"
    WHEEL = "wheel"
    LOCAL_FILE = "local-file"
    AGENT = "agent"
    RECIPE = "recipe"
    INDEX = "index"
    BUILD_TOOL = "build-tool"
    ALTERED = "altered-after-build"
    DERIVED = "follows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One input that differs, in words: ``package openssl 3.5.1-1 → 3.5.2-1``."""

    kind: CauseKind
    text: str

    def as_json(self) -> dict[str, str]:
        """The cause as JSON shows it."""
        return {"kind": self.kind.value, "text": plain(self.text)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs.

    ``before`` and ``after`` say what it is on each side, ``parts`` where inside.
    """

    subject: str
    change: Change = Change.CHANGED
    before: str = ""
    after: str = ""
    causes: tuple[Cause, ...] = ()
    parts: tuple[Difference, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The difference with everything inside it; empty fields are left out."""
        document: dict[str, Any] = {"subject": plain(self.subject), "change": self.change.value}
        sides = (("before", self.before), ("after", self.after))
        document |= {key: plain(value) for key, value in sides if value}
        if self.causes:
            document["causes"] = [cause.as_json() for cause in self.causes]
        if self.parts:
            document["parts"] = [part.as_json() for part in self.parts]
        return document

    @property
    def is_range(self) -> bool:
        """Whether this is a run of bytes and nothing else."""
        return self.subject.startswith("bytes 0x")

    def walk(self) -> Iterator[Difference]:
        """This difference and all inside it."""
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of comparing ``before`` with ``after`` (both are names for people)."""

    before: str
    after: str
    differences: tuple[Difference, ...]

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Every input that is behind a difference, once, in the order of appearance."""
        found = (cause for top in self.differences for each in top.walk() for cause in each.causes)
        return tuple(dict.fromkeys(cause for cause in found if cause.kind is not CauseKind.DERIVED))

    def as_json(self) -> dict[str, Any]:
        """The whole comparison."""
        return {
            "identical": self.identical,
            "before": self.before,
            "after": self.after,
            "causes": [cause.as_json() for cause in self.causes],
            "differences": [difference.as_json() for difference in self.differences],
        }

    def lines(self) -> Iterator[str]:
        """The comparison as text; what an image holds cannot write to a terminal through it."""
        return map(plain, self._lines())

    def _lines(self) -> Iterator[str]:
        if self.identical:
            yield f"identical: {self.before} and {self.after}"
            return
        yield f"different: {self.before} and {self.after}"
        numbers = {cause: number for number, cause in enumerate(self.causes, start=1)}
        if numbers:
            yield "caused by:"
            yield from (f"  {number}. {cause.text}" for cause, number in numbers.items())
        yield "differences:"
        yield from _lines(self.differences, numbers, indent="  ")


_SIGNS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~"}


def _lines(differences: Sequence[Difference], numbers: Mapping[Cause, int], *, indent: str) -> Iterator[str]:
    most = SHOWN_RANGES if any(each.is_range for each in differences) else SHOWN
    for difference in differences[:most]:
        text = f"{difference.subject}{_sides(difference)}{_reason(difference, numbers)}"
        yield f"{indent}{_SIGNS[difference.change]} {text}"
        yield from _lines(difference.parts, numbers, indent=indent + "  ")
    if len(differences) > most:
        yield f"{indent}… {len(differences) - most} more (see --json)"


def _sides(difference: Difference) -> str:
    before, after = _short(difference.before), _short(difference.after)
    if before and after:
        return f": {before} → {after}"
    return f": {before or after}" if before or after else ""


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _reason(difference: Difference, numbers: Mapping[Cause, int]) -> str:
    """The causes: by their numbers in the list, or in words where they are no input."""
    listed = [str(numbers[cause]) for cause in difference.causes if cause in numbers]
    words = [cause.text for cause in difference.causes if cause not in numbers]
    by_number = [f"cause {', '.join(listed)}"] if listed else []
    return f"  ({'; '.join((*by_number, *words))})" if difference.causes else ""


def plain(text: str) -> str:
    """``text`` with control characters and undecodable bytes written as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def follows(what: str) -> Cause:
    """The cause of something that is computed from another artefact: ``what`` says from which."""
    return Cause(kind=CauseKind.DERIVED, text=f"follows from {what}")
