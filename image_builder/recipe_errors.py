"""Turns what is wrong with a recipe into one error that names the key and, for an unknown key, the nearest
known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from image_builder.recipe_tables import Problem, ProblemKind
from measurements.errors import KeyturnError


class RecipeError(KeyturnError):
    """A recipe that cannot be used."""

    code = "recipe"


def recipe_error(problems: Sequence[Problem], *, name: str) -> RecipeError:
    """One error for all ``problems`` of the recipe called ``name``."""
    told = [_told(problem) for problem in problems]
    return RecipeError(
        "; ".join(reason for reason, _ in told),
        subject=name,
        advice="; ".join(dict.fromkeys(advice for _, advice in told)),
    )


def _told(problem: Problem) -> tuple[str, str]:
    """Reason and advice."""
    key = _dotted(problem.location)
    if problem.kind is ProblemKind.UNKNOWN:
        near = difflib.get_close_matches(str(problem.location[-1]), problem.known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(problem.known)}"
        return f"unknown key {key}", advice
    if problem.kind is ProblemKind.MISSING:
        return f"key {key} is missing", f"add {key}"
    return (
        f"{key}: {problem.reason}" if key else problem.reason,
        f"correct {key}" if key else "correct the recipe",
    )


def _dotted(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
