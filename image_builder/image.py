"""Reads an image folder: the manifest, the image id, and artefacts that are what the manifest says."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from image_builder.manifest import MANIFEST_NAME, image_id, parse_manifest
from image_builder.store import file_sha256
from measurements.errors import KeyturnError


class Artefact(StrEnum):
    """Files of an image folder that the manifest names by hash."""

    DISK = "disk.raw"
    UKI = "uki.efi"
    KERNEL = "kernel"
    INITRD = "initrd"
    CMDLINE = "cmdline"
    ROOT = "root.erofs"


class ImageError(KeyturnError):
    """A folder that is not an image, or an artefact that is not what the manifest says."""

    code = "image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image folder. ``id`` is the image id in lower-case hex."""

    folder: Path
    manifest: Mapping[str, Any]
    id: str

    @property
    def name(self) -> str:
        """The image's name."""
        return str(self.manifest["name"])

    @property
    def command_line(self) -> str:
        """The kernel command line."""
        return str(self.manifest["cmdline"])

    def path(self, artefact: Artefact) -> Path:
        """Where an artefact is."""
        return self.folder / artefact.value

    def size(self, artefact: Artefact) -> int:
        """Size of an artefact in bytes, as the manifest says."""
        return int(self.manifest["artefacts"][artefact.value]["size"])


def load_image(folder: Path, *, verify: bool = True) -> Image:
    """The image in ``folder``; with ``verify`` every artefact is hashed and compared with the manifest.

    Raises ``ImageError`` or ``FormatError``.
    """
    try:
        data = (folder / MANIFEST_NAME).read_bytes()
    except OSError as error:
        raise ImageError(
            f"{MANIFEST_NAME} cannot be read: {error.strerror}",
            subject=str(folder),
            advice="name a folder that `keyturn build` has written",
        ) from None
    image = Image(folder=folder, manifest=parse_manifest(data), id=image_id(data))
    if verify:
        _check_artefacts(image)
    return image


def _check_artefacts(image: Image) -> None:
    listed = image.manifest["artefacts"]
    names = [artefact.value for artefact in Artefact]
    if sorted(listed) != sorted(names):
        raise _damaged(image, f"lists artefacts {sorted(listed)}, not {sorted(names)}")
    missing = [name for name in names if not (image.folder / name).is_file()]
    if missing:
        raise _damaged(image, f"{missing[0]} is missing")
    with ThreadPoolExecutor() as pool:
        found = dict(zip(names, pool.map(lambda name: file_sha256(image.folder / name), names), strict=True))
    for name in names:
        expected = listed[name]["sha256"]
        if found[name] != expected:
            raise _damaged(image, f"{name} was altered: expected SHA-256 {expected}, found {found[name]}")


def _damaged(image: Image, reason: str) -> ImageError:
    return ImageError(reason, subject=str(image.folder), advice="build the image again from its lock")
