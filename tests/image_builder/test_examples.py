"""The recipes in ``examples/`` are valid, and their local files are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_builder.local_files import local_path
from image_builder.recipe import read_recipe

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/keyturn.toml"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def test_an_example_is_valid(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.image.name == path.parent.name
    for entry in recipe.files:
        assert local_path(path.parent, entry.source).is_file()
