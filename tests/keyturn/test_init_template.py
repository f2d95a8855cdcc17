"""``keyturn init --template``: which recipes there are."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import pytest

from image_builder.recipe import Recipe, parse_recipe
from keyturn.cli import main


def init(folder: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(("init", str(folder), *words))
    return int(caught.value.code or 0)


def apps_recipe(folder: Path) -> Recipe:
    assert init(folder, "--template", "apps") == 0
    return parse_recipe((folder / "keyturn.toml").read_bytes())


def test_without_a_template_the_default_recipe_is_written(tmp_path: Path) -> None:
    assert init(tmp_path) == 0
    default = resources.files("image_builder").joinpath("data/recipe_default.toml").read_bytes()
    assert (tmp_path / "keyturn.toml").read_bytes() == default


def test_an_unknown_template_is_a_usage_error(tmp_path: Path) -> None:
    assert init(tmp_path, "--template", "desktop") == 2
    assert not (tmp_path / "keyturn.toml").exists()


def test_the_apps_recipe_has_what_runs_apps(tmp_path: Path) -> None:
    recipe = apps_recipe(tmp_path)
    assert {"crun", "dmsetup", "e2fsprogs", "python3-tpm2-pytss"} <= set(recipe.packages.install)
    assert {"dm_crypt", "dm_integrity", "authenc", "brd", "ext4", "overlay"} <= set(recipe.kernel.modules)
    assert [wheel for wheel in recipe.python.wheels if wheel.startswith("cryptography==")]
    assert not recipe.image.dev
    assert recipe.image.root_size_limit == 120 << 20


def test_the_apps_recipe_extends_the_default_one(tmp_path: Path) -> None:
    assert init(tmp_path / "apps", "--template", "apps") == 0
    assert init(tmp_path / "default") == 0
    apps = tomllib.loads((tmp_path / "apps/keyturn.toml").read_text())
    default = tomllib.loads((tmp_path / "default/keyturn.toml").read_text())
    assert set(default["packages"]["install"]) < set(apps["packages"]["install"])
    assert default["kernel"]["modules"] == apps["kernel"]["modules"][: len(default["kernel"]["modules"])]
    assert default["packages"]["omit"].items() < apps["packages"]["omit"].items()
