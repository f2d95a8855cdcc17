"""Roots of containers from packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_builder.app_build import build_app, lock_app
from image_builder.app_lock import AppLockError, parse_lock
from image_builder.app_normalise import Pins
from image_builder.app_recipe import read_app_recipe
from image_builder.app_recipe_root import lock_recipe_root, open_recipe_root, recipe_tree
from image_builder.lockfile import LockError
from image_builder.oci_reference import RecipeReference, parse_reference
from measurements.app_manifest import parse_manifest
from tests.support.locked_project import Project, locked_project

PINS = Pins(app_id="0x" + "11" * 20, chain_id=1, contract="0x" + "22" * 20, kms_root="33" * 32)
RECIPE = """
[app]
name = "hello"
version = "1"

[[container]]
name = "web"
image = "recipe:root"
entrypoint = ["/usr/bin/python3.13"]
user = "900:900"
"""


@pytest.fixture(scope="module")
def project() -> Project:
    return locked_project()


def test_references() -> None:
    assert parse_reference("recipe:root") == RecipeReference(folder="root")
    with pytest.raises(ValueError, match="plain path"):
        parse_reference("recipe:../root")


def test_without_a_lock_nothing_is_locked(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="cannot be read"):
        lock_recipe_root("recipe:root", tmp_path)


@pytest.mark.network
def test_tree_has_the_packages_and_nothing_of_the_guest(project: Project, tmp_path: Path) -> None:
    project.write(tmp_path / "root")
    locked = lock_recipe_root("recipe:root", tmp_path / "root")
    root = open_recipe_root(locked, tmp_path / "root")
    tree = recipe_tree(root, store=project.store, limit=1 << 30)
    assert "usr/bin/python3.13" in tree
    assert not [path for path in tree if "keyturn" in path or path == "etc/inittab"]
    assert any(path.endswith(".pyc") for path in tree)


@pytest.mark.network
def test_attack_lock_changed_after_locking(project: Project, tmp_path: Path) -> None:
    project.write(tmp_path / "root")
    locked = lock_recipe_root("recipe:root", tmp_path / "root")
    lock = tmp_path / "root" / "keyturn.lock"
    lock.write_bytes(lock.read_bytes() + b"\n")
    with pytest.raises(AppLockError, match="digest"):
        open_recipe_root(locked, tmp_path / "root")


@pytest.mark.network
def test_an_app_of_packages(project: Project, tmp_path: Path) -> None:
    project.write(tmp_path / "root")
    (tmp_path / "app.toml").write_text(RECIPE)
    recipe = read_app_recipe(tmp_path / "app.toml")
    lock = parse_lock(lock_app(recipe, folder=tmp_path, store=project.store))
    built = [
        build_app(recipe, lock, pins=PINS, folder=tmp_path, store=project.store, output=tmp_path / name)
        for name in ("first", "second")
    ]
    (container,) = parse_manifest(built[0].manifest).containers
    assert container.image.source == "recipe"
    assert container.image.digest == lock.image[0].digest
    assert (tmp_path / "first/app.disk").read_bytes() == (tmp_path / "second/app.disk").read_bytes()
    assert built[0].app_hash == built[1].app_hash
