"""Builds the app folder: ``app.disk``, ``app-manifest.json`` and ``app.lock``; the same inputs give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from image_builder.app_lock import (
    APP_LOCK_NAME,
    AppLock,
    BlobSource,
    LockedImage,
    StoredImage,
    encode_lock,
    fetch_image,
    lock_image,
)
from image_builder.app_normalise import BuiltImage, Pins, app_manifest
from image_builder.app_recipe import AppRecipe
from image_builder.app_volume import SOCKET, image_tree, volume_end, with_mount_points, write_volume
from image_builder.oci_image import Descriptor
from image_builder.oci_layout import OciLayout
from image_builder.oci_reference import LayoutReference, parse_reference
from image_builder.oci_registry import RegistrySource
from image_builder.output_folder import new_folder
from image_builder.store import Store, StoreError
from measurements.app_manifest import app_hash

DISK_NAME = "app.disk"
MANIFEST_NAME = "app-manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltApp:
    """A finished app folder: its manifest's bytes and the app hash (32 bytes)."""

    folder: Path
    manifest: bytes
    app_hash: bytes


def lock_app(recipe: AppRecipe, *, folder: Path, store: Store) -> bytes:
    """The bytes of the lock; every image is in ``store`` afterwards. ``folder`` is the recipe's."""
    return encode_lock(_locked(reference, folder=folder, store=store) for reference in recipe.images)


def _locked(reference: str, *, folder: Path, store: Store) -> LockedImage:
    source, found = _source(reference, folder)
    return lock_image(reference, found(), source=source, store=store)


def _source(reference: str, folder: Path) -> tuple[BlobSource, Callable[[], Descriptor]]:
    """Where an image comes from, and how to find what its reference stands for now."""
    parsed = parse_reference(reference)
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
    stored = {
        reference: _stored(lock.find(reference), folder=folder, store=store) for reference in recipe.images
    }
    with new_folder(output, marker=MANIFEST_NAME) as partial:
        images = _write_disk(recipe, stored, path=partial / DISK_NAME, store=store)
        manifest = app_manifest(recipe, images, pins)
        (partial / MANIFEST_NAME).write_bytes(manifest)
        (partial / APP_LOCK_NAME).write_bytes(encode_lock(image.locked for image in stored.values()))
    return BuiltApp(folder=output, manifest=manifest, app_hash=app_hash(manifest))


def _stored(locked: LockedImage, *, folder: Path, store: Store) -> StoredImage:
    try:
        return fetch_image(locked, source=None, store=store)
    except StoreError:
        source, _ = _source(locked.reference, folder)
        return fetch_image(locked, source=source, store=store)


def _write_disk(
    recipe: AppRecipe, stored: dict[str, StoredImage], *, path: Path, store: Store
) -> dict[str, BuiltImage]:
    """The app disk, one volume for each image (several references may name the same one)."""
    by_digest: dict[str, BuiltImage] = {}
    offset = 0
    with path.open("xb", buffering=1 << 20) as stream:
        for image in stored.values():
            if image.locked.digest in by_digest:
                continue
            digest = image.locked.digest
            users = [entry for entry in recipe.containers if stored[entry.image].locked.digest == digest]
            places = [mount.path for entry in users for mount in entry.mounts]
            places += [tmpfs.path for entry in users for tmpfs in entry.tmpfs]
            tree = with_mount_points(
                image_tree(image, store=store, limit=recipe.app.size_limit),
                places,
                files=[SOCKET] if any(entry.socket for entry in users) else [],
            )
            volume = write_volume(tree, stream, offset=offset, image_digest=digest)
            by_digest[digest] = BuiltImage(digest=digest, config=image.config, tree=tree, volume=volume)
            offset = volume_end(volume)
    return {reference: by_digest[image.locked.digest] for reference, image in stored.items()}
