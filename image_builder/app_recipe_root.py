"""A container's root from packages: an image recipe and its lock, of which only what the root is made of is
used (packages, wheels, local files, accounts); no kernel, no init, no agent.

Its digest is the SHA-256 of the lock, which names every input.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from image_builder.app_lock import APP_LOCK_NAME, AppLockError, LockedImage
from image_builder.build_root import Inputs, check_root_size, container_tree
from image_builder.bytecode import compile_bytecode
from image_builder.lockfile import (
    LOCK_NAME,
    Lock,
    LockError,
    PackageRole,
    check_lock,
    lock_sha256,
    parse_lock,
)
from image_builder.oci_image import ImageConfig
from image_builder.progress import NoProgress
from image_builder.recipe import RECIPE_NAME, Recipe, read_recipe
from image_builder.store import Store
from image_builder.tree import Kind, Tree
from image_builder.unpack import unpack_all

RECIPE_SOURCE = "recipe"
"""Source of such an image in the app manifest."""

RECIPE_CONFIG = ImageConfig(
    diff_ids=(),
    entrypoint=(),
    command=(),
    env=MappingProxyType({"PATH": "/usr/sbin:/usr/bin"}),
    user="",
    working_dir="/",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeRoot:
    """A recipe with the lock that belongs to it."""

    recipe: Recipe
    lock: Lock


def lock_recipe_root(reference: str, folder: Path) -> LockedImage:
    """The recipe in ``folder`` by the hash of its lock. Raises ``LockError`` or ``RecipeError``."""
    data = _lock_data(folder)
    _parsed(data, folder)
    return LockedImage(reference=reference, digest=f"sha256:{lock_sha256(data)}", size=len(data))


def open_recipe_root(locked: LockedImage, folder: Path) -> RecipeRoot:
    """The recipe whose lock is the one that was locked; another raises ``AppLockError``."""
    data = _lock_data(folder)
    found = f"sha256:{lock_sha256(data)}"
    if found != locked.digest:
        raise AppLockError(
            f"{locked.reference} has a lock with digest {found}, not {locked.digest}",
            subject=APP_LOCK_NAME,
            advice="run `keyturn app lock`, and look at what has changed",
        )
    return _parsed(data, folder)


def recipe_tree(root: RecipeRoot, *, store: Store, limit: int) -> Tree:
    """The tree, with byte code if it has a Python interpreter; its files have at most ``limit`` bytes."""
    jobs = os.cpu_count() or 1
    wanted = [package for package in root.lock.packages if package.role is PackageRole.ROOT]
    packages = unpack_all(wanted, store, jobs=jobs, progress=NoProgress())
    tree = container_tree(Inputs(recipe=root.recipe, lock=root.lock, store=store, packages=packages))
    check_root_size(tree, limit=limit)
    if any(path.startswith("usr/bin/python3") and node.kind is Kind.FILE for path, node in tree.items()):
        tree |= compile_bytecode(tree, store=store, jobs=jobs, progress=NoProgress())
    return tree


def _lock_data(folder: Path) -> bytes:
    try:
        return (folder / LOCK_NAME).read_bytes()
    except OSError as error:
        raise LockError(
            f"cannot be read: {error.strerror}",
            subject=f"{folder.name}/{LOCK_NAME}",
            advice=f"run `keyturn lock {folder.name}/{RECIPE_NAME}` first",
        ) from None


def _parsed(data: bytes, folder: Path) -> RecipeRoot:
    recipe = read_recipe(folder / RECIPE_NAME)
    lock = parse_lock(data)
    check_lock(recipe_sha256=recipe.sha256, lock=lock)
    return RecipeRoot(recipe=recipe, lock=lock)
