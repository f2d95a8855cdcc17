"""The lock ``app.lock``: the container images of an app by digest.

TOML 1.0, in the order of the recipe::

    version = 1

    [[image]]
    reference = "oci:image"          as the recipe names it
    digest = "sha256:…"              of the manifest for linux/amd64, never of an index
    size = 1234                      bytes of the manifest

The manifest names configuration and layers by digest, so it is all that has to be kept.
"""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import tomli_w

from image_builder.oci_image import (
    DIGEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    Descriptor,
    ImageConfig,
    ImageManifest,
    oci_error,
    parse_image_config,
    parse_image_manifest,
    select_platform,
)
from image_builder.oci_reference import image_reference
from image_builder.recipe_errors import recipe_error
from image_builder.recipe_tables import ProblemsError, number, read_table, tables, text
from image_builder.store import Store
from measurements.errors import KeyturnError

APP_LOCK_NAME = "app.lock"
LOCK_VERSION = 1
_HEADER = "# Made by `keyturn app lock`; every container image by digest.\n\n"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class AppLockError(KeyturnError):
    """A lock that cannot be used, or does not fit its recipe."""

    code = "app-lock"


class BlobSource(Protocol):
    """Where the blobs of one image come from."""

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes, checked at their end."""


def _digest(value: str) -> str:
    if not DIGEST.fullmatch(value):
        raise ValueError(f"{value!r} is not a digest (sha256: and 64 lower-case hex digits)")
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedImage:
    """One image: ``reference`` as in the recipe, ``digest`` and ``size`` of its manifest."""

    reference: Annotated[str, text(image_reference)]
    digest: Annotated[str, text(_digest)]
    size: Annotated[int, number(1, MAX_DOCUMENT)]

    @property
    def manifest(self) -> Descriptor:
        """The manifest's descriptor."""
        return Descriptor(media_type=_MANIFEST_TYPE, digest=self.digest, size=self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class AppLock:
    """All images of an app."""

    version: Annotated[int, number(LOCK_VERSION, LOCK_VERSION)]
    image: Annotated[tuple[LockedImage, ...], tables(LockedImage)]

    def find(self, reference: str) -> LockedImage:
        """The image that the recipe calls ``reference``; raises ``AppLockError`` if it is not locked."""
        found = [image for image in self.image if image.reference == reference]
        if len(found) != 1:
            raise AppLockError(
                f"locks {len(found)} images called {reference}, not one; without a digest nothing is built",
                subject=APP_LOCK_NAME,
                advice="run `keyturn app lock`",
            )
        return found[0]


def encode_lock(images: Iterable[LockedImage]) -> bytes:
    """The file's bytes."""
    entries = [{"reference": each.reference, "digest": each.digest, "size": each.size} for each in images]
    return (_HEADER + tomli_w.dumps({"version": LOCK_VERSION, "image": entries})).encode()


def parse_lock(data: bytes) -> AppLock:
    """The lock from its bytes; raises ``AppLockError`` or ``RecipeError``."""
    try:
        return read_table(AppLock, tomllib.loads(data.decode()))
    except ProblemsError as error:
        raise recipe_error(error.problems, name=APP_LOCK_NAME) from None
    except ValueError as error:
        raise AppLockError(
            f"not valid TOML: {error}", subject=APP_LOCK_NAME, advice="run `keyturn app lock`"
        ) from None


def read_lock(path: Path) -> AppLock:
    """The lock in the file ``path``."""
    try:
        return parse_lock(path.read_bytes())
    except OSError as error:
        raise AppLockError(
            f"cannot be read: {error.strerror}", subject=path.name, advice="run `keyturn app lock`"
        ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """An image whose blobs are all in the store."""

    locked: LockedImage
    manifest: ImageManifest
    config: ImageConfig


def lock_image(reference: str, found: Descriptor, *, source: BlobSource, store: Store) -> LockedImage:
    """Put the image that ``found`` (index or manifest) stands for into ``store``, and name it by digest."""
    descriptor = found
    if found.media_type in INDEX_TYPES:
        index = _document(found, source=source, store=store)
        descriptor = select_platform(index, subject=reference)
    if descriptor.media_type not in MANIFEST_TYPES:
        raise oci_error(f"is of unknown type {descriptor.media_type[:80]!r}", subject=reference)
    locked = LockedImage(reference=reference, digest=descriptor.digest, size=descriptor.size)
    fetch_image(locked, source=source, store=store)
    return locked


def fetch_image(locked: LockedImage, *, source: BlobSource | None, store: Store) -> StoredImage:
    """The image with every blob in ``store``; what is absent there comes from ``source``.

    Raises ``OciError`` for an image that cannot be used, ``StoreError`` for what is absent without a source.
    """
    name = locked.reference
    manifest = parse_image_manifest(_document(locked.manifest, source=source, store=store), subject=name)
    config = parse_image_config(
        _document(manifest.config, source=source, store=store), layers=len(manifest.layers), subject=name
    )
    for layer in manifest.layers:
        _fetch(layer, source=source, store=store)
    return StoredImage(locked=locked, manifest=manifest, config=config)


def _document(descriptor: Descriptor, *, source: BlobSource | None, store: Store) -> bytes:
    if descriptor.size > MAX_DOCUMENT:
        raise oci_error(f"has {descriptor.size} bytes, more than {MAX_DOCUMENT}", subject=descriptor.digest)
    _fetch(descriptor, source=source, store=store)
    return store.verified(descriptor.sha256, name=descriptor.digest, size=descriptor.size).read_bytes()


def _fetch(descriptor: Descriptor, *, source: BlobSource | None, store: Store) -> None:
    if source is None or store.has(descriptor.sha256):
        store.verified(descriptor.sha256, name=descriptor.digest, size=descriptor.size)
        return
    with store.writer(descriptor.sha256, name=descriptor.digest) as stream:
        for piece in source.chunks(descriptor):
            stream.write(piece)
