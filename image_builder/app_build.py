"""Builds the app folder: ``app.disk``, ``app-manifest.json`` and ``app.lock``; the same inputs give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from image_builder.app_lock import (
    APP_LOCK_NAME,
    AppLock,
    BlobSource,
    LockedImage,
    encode_lock,
    fetch_image,
    lock_image,
)
from image_builder.app_normalise import BuiltImage, Pins, app_manifest
from image_builder.app_recipe import AppRecipe, ContainerEntry
from image_builder.app_recipe_root import (
    RECIPE_CONFIG,
    RECIPE_SOURCE,
    lock_recipe_root,
    open_recipe_root,
    recipe_tree,
)
from image_builder.app_volume import SOCKET, image_tree, volume_end, with_mount_points, write_volume
from image_builder.oci_image import Descriptor, ImageConfig
from image_builder.oci_layout import OciLayout
from image_builder.oci_reference import LayoutReference, RecipeReference, RegistryReference, parse_reference
from image_builder.oci_registry import RegistrySource
from image_builder.output_folder import new_folder
from image_builder.store import Store, StoreError
from image_builder.tree import Tree
from measurements.app_manifest import app_hash

DISK_NAME = "app.disk"
MANIFEST_NAME = "app-manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltApp:
    """A finished app folder: its manifest's bytes and the app hash (32 bytes)."""

    folder: Path
    manifest: bytes
    app_hash: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Root:
    """A container's root before it is written: ``tree`` makes it."""

    locked: LockedImage
    source: str
    config: ImageConfig
    tree: Callable[[], Tree]


def lock_app(recipe: AppRecipe, *, folder: Path, store: Store) -> bytes:
    """The bytes of the lock; every image is in ``store`` afterwards. ``folder`` is the recipe's."""
    return encode_lock(_locked(reference, folder=folder, store=store) for reference in recipe.images)


def _locked(reference: str, *, folder: Path, store: Store) -> LockedImage:
    parsed = parse_reference(reference)
    if isinstance(parsed, RecipeReference):
        return lock_recipe_root(reference, folder / parsed.folder)
    source, found = _source(parsed, folder)
    return lock_image(reference, found(), source=source, store=store)


def _source(
    parsed: LayoutReference | RegistryReference, folder: Path
) -> tuple[BlobSource, Callable[[], Descriptor]]:
    """Where an image comes from, and how to find what its reference stands for now."""
    if isinstance(parsed, LayoutReference):
        layout = OciLayout(folder / parsed.folder)
        return layout, lambda: layout.find(parsed.tag)
    registry = RegistrySource(parsed)
    return registry, registry.find


def build_app(
    recipe: AppRecipe, lock: AppLock, *, pins: Pins, folder: Path, store: Store, output: Path
) -> BuiltApp:
    """Write the app folder ``output``; ``folder`` is the recipe's.

    Images that ``store`` lacks are fetched by their locked digest. Raises ``AppLockError``, ``OciError``,
    ``AppError``, ``MountPointError`` or ``ManifestError``.
    """
    roots = {
        reference: _root(lock.find(reference), folder=folder, store=store, limit=recipe.app.size_limit)
        for reference in recipe.images
    }
    with new_folder(output, marker=MANIFEST_NAME) as partial:
        images = _write_disk(recipe, roots, path=partial / DISK_NAME)
        manifest = app_manifest(recipe, images, pins)
        (partial / MANIFEST_NAME).write_bytes(manifest)
        (partial / APP_LOCK_NAME).write_bytes(encode_lock(root.locked for root in roots.values()))
    return BuiltApp(folder=output, manifest=manifest, app_hash=app_hash(manifest))


def _root(locked: LockedImage, *, folder: Path, store: Store, limit: int) -> _Root:
    parsed = parse_reference(locked.reference)
    if isinstance(parsed, RecipeReference):
        root = open_recipe_root(locked, folder / parsed.folder)
        return _Root(
            locked=locked,
            source=RECIPE_SOURCE,
            config=RECIPE_CONFIG,
            tree=lambda: recipe_tree(root, store=store, limit=limit),
        )
    try:
        image = fetch_image(locked, source=None, store=store)
    except StoreError:
        image = fetch_image(locked, source=_source(parsed, folder)[0], store=store)
    return _Root(
        locked=locked,
        source=locked.reference,
        config=image.config,
        tree=lambda: image_tree(image, store=store, limit=limit),
    )


def _write_disk(recipe: AppRecipe, roots: dict[str, _Root], *, path: Path) -> dict[str, BuiltImage]:
    """The app disk, one volume for each image (several references may name the same one)."""
    by_digest: dict[str, BuiltImage] = {}
    offset = 0
    with path.open("xb", buffering=1 << 20) as stream:
        for root in roots.values():
            digest = root.locked.digest
            if digest in by_digest:
                continue
            users = [entry for entry in recipe.containers if roots[entry.image].locked.digest == digest]
            tree = _mountable(root.tree(), users)
            volume = write_volume(tree, stream, offset=offset, image_digest=digest)
            by_digest[digest] = BuiltImage(
                source=root.source, digest=digest, config=root.config, tree=tree, volume=volume
            )
            offset = volume_end(volume)
    return {reference: by_digest[root.locked.digest] for reference, root in roots.items()}


def _mountable(tree: Tree, users: Sequence[ContainerEntry]) -> Tree:
    """``tree`` with the places that its containers mount something on."""
    places = [mount.path for entry in users for mount in entry.mounts]
    places += [tmpfs.path for entry in users for tmpfs in entry.tmpfs]
    return with_mount_points(tree, places, files=[SOCKET] if any(entry.socket for entry in users) else [])
