"""Turns what is wrong with a recipe into one error that names the key and, for an unknown key, the nearest
known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from measurements.errors import KeyturnError


class RecipeError(KeyturnError):
    """A recipe that cannot be used."""

    code = "recipe"


def recipe_error(error: ValidationError, *, model: type[BaseModel], name: str) -> RecipeError:
    """One error for all problems that ``error`` found in the recipe called ``name``."""
    problems = [_problem(details, model=model) for details in error.errors(include_url=False)]
    return RecipeError(
        "; ".join(reason for reason, _ in problems),
        subject=name,
        advice="; ".join(dict.fromkeys(advice for _, advice in problems)),
    )


def _problem(details: ErrorDetails, *, model: type[BaseModel]) -> tuple[str, str]:
    location = [part for part in details["loc"] if part != "[key]"]
    key = _dotted(location)
    if details["type"] == "extra_forbidden":
        known = sorted(_known_keys(model, location[:-1]))
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key {key}", advice
    if details["type"] == "missing":
        return f"key {key} is missing", f"add {key}"
    message = details["msg"].removeprefix("Value error, ")
    return (f"{key}: {message}" if key else message), f"correct {key}" if key else "correct the recipe"


def _dotted(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> set[str]:
    """Keys of the table at ``location`` below ``model``."""
    table = model
    for part in location:
        if isinstance(part, int):
            continue
        table = _table_of(_fields(table)[part])
    return {alias for alias in _fields(table) if alias != "sha256"}


def _fields(model: type[BaseModel]) -> Mapping[str, object]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _table_of(annotation: object) -> type[BaseModel]:
    """The model in ``annotation``, which is a model or a tuple of one."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    raise TypeError(f"{annotation} holds no table")
