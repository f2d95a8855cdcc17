"""The default recipe, locked and fetched once per test run, as the archive is today."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from image_builder.build import BuildRequest
from image_builder.lockfile import Lock, parse_lock
from image_builder.recipe import Recipe, parse_recipe
from image_builder.store import Store, default_store_root

_OFFLINE_CODES = ("mirror", "transport")


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """Bytes of a recipe and its lock, whose inputs are all in ``store``."""

    recipe_data: bytes
    lock_data: bytes
    store: Store

    @property
    def recipe(self) -> Recipe:
        """The parsed recipe."""
        return parse_recipe(self.recipe_data)

    @property
    def lock(self) -> Lock:
        """The parsed lock."""
        return parse_lock(self.lock_data)

    def request(self, *, jobs: int = 2) -> BuildRequest:
        """What ``build_image`` is asked."""
        return BuildRequest(
            recipe=self.recipe,
            recipe_data=self.recipe_data,
            lock=self.lock,
            lock_data=self.lock_data,
            jobs=jobs,
        )

    def write(self, folder: Path) -> Path:
        """Write recipe and lock to ``folder``; the recipe's path."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "keyturn.lock").write_bytes(self.lock_data)
        recipe = folder / "keyturn.toml"
        recipe.write_bytes(self.recipe_data)
        return recipe


@functools.cache
def locked_project() -> Project:
    """The default recipe's project; without a mirror the test skips (and fails in CI)."""
    with tempfile.TemporaryDirectory(prefix="keyturn-project-") as folder:
        for verb in ("init", "lock", "fetch"):
            _run(verb, Path(folder))
        return Project(
            recipe_data=Path(folder, "keyturn.toml").read_bytes(),
            lock_data=Path(folder, "keyturn.lock").read_bytes(),
            store=Store(default_store_root()),
        )


def _run(verb: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keyturn", verb], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    if any(f"({code})" in done.stderr for code in _OFFLINE_CODES) and not os.environ.get("CI"):
        pytest.skip(f"no package archive: {done.stderr.strip()}")
    pytest.fail(f"keyturn {verb}: {done.stderr}")
