"""Documents of a container image: index, manifest, configuration.

Source: OCI Image Specification 1.1 (image-index.md, manifest.md, config.md, descriptor.md) and the equal
documents of Docker's "Image Manifest V 2, Schema 2". The documents are JSON; unknown members are allowed
there, so they are ignored here. Digests are ``sha256:`` and 64 lower-case hex digits, sizes are bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn

from measurements.errors import KeyturnError
from measurements.json_text import json_text

MAX_DOCUMENT = 4 << 20
"""Bytes of one document (the limit that the distribution specification recommends for manifests)."""

MAX_LAYERS = 512
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
MANIFEST_TYPES = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)


class OciError(KeyturnError):
    """A container image that cannot be used."""

    code = "oci-image"


class Compression(Enum):
    """How a layer's tar is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


LAYER_TYPES = {
    "application/vnd.oci.image.layer.v1.tar": Compression.NONE,
    "application/vnd.oci.image.layer.v1.tar+gzip": Compression.GZIP,
    "application/vnd.oci.image.layer.v1.tar+zstd": Compression.ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": Compression.GZIP,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A blob by type, digest and size."""

    media_type: str
    digest: str
    size: int

    @property
    def sha256(self) -> str:
        """The digest's hex digits."""
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageManifest:
    """An image of one platform: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """How a container of the image is run, and the digests of the uncompressed layers."""

    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    user: str
    working_dir: str


def oci_error(reason: str, *, subject: str, advice: str = "get the image again from its source") -> OciError:
    """An error about the image or blob ``subject``."""
    return OciError(reason, subject=subject, advice=advice)


def parse_document(data: bytes, *, subject: str) -> Mapping[str, Any]:
    """A JSON object without duplicate keys."""
    if len(data) > MAX_DOCUMENT:
        _refuse(subject, f"has {len(data)} bytes, more than {MAX_DOCUMENT}")
    try:
        document = json.loads(json_text(data), object_pairs_hook=_object)
    except ValueError as error:
        _refuse(subject, f"is not JSON: {error}")
    if not isinstance(document, dict):
        _refuse(subject, "is not a JSON object")
    return document


def read_descriptor(value: object, *, subject: str) -> Descriptor:
    """A descriptor; its digest must be SHA-256."""
    if not isinstance(value, dict):
        _refuse(subject, "a descriptor is not an object")
    media_type, digest, size = (value.get(key) for key in ("mediaType", "digest", "size"))
    if not isinstance(media_type, str) or not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        _refuse(subject, f"a descriptor has digest {str(digest)[:80]!r}, not sha256 in lower-case hex")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        _refuse(subject, "a descriptor has no size")
    if value.get("urls"):
        _refuse(subject, f"blob {digest} lies elsewhere (urls), which is not followed")
    return Descriptor(media_type=media_type, digest=digest, size=size)


def select_platform(data: bytes, *, subject: str) -> Descriptor:
    """The one manifest of an index that is for linux/amd64."""
    found = [
        read_descriptor(entry, subject=subject)
        for entry in _list(parse_document(data, subject=subject), "manifests", subject)
        if isinstance(entry, dict) and _is_ours(entry.get("platform"))
    ]
    if len(found) != 1:
        _refuse(subject, f"has {len(found)} manifests for linux/amd64, not one")
    return found[0]


def parse_image_manifest(data: bytes, *, subject: str) -> ImageManifest:
    """A manifest whose layers can all be read."""
    document = parse_document(data, subject=subject)
    if document.get("schemaVersion") != 2:
        _refuse(subject, "is not a manifest of schema version 2")
    layers = tuple(read_descriptor(entry, subject=subject) for entry in _list(document, "layers", subject))
    if not 1 <= len(layers) <= MAX_LAYERS:
        _refuse(subject, f"has {len(layers)} layers, not 1 to {MAX_LAYERS}")
    for layer in layers:
        if layer.media_type not in LAYER_TYPES:
            _refuse(subject, f"layer {layer.digest} has unknown type {layer.media_type[:80]!r}")
    return ImageManifest(config=read_descriptor(document.get("config"), subject=subject), layers=layers)


def parse_image_config(data: bytes, *, layers: int, subject: str) -> ImageConfig:
    """The configuration of an image with that many ``layers``, for linux/amd64."""
    document = parse_document(data, subject=subject)
    if document.get("os") != "linux" or document.get("architecture") != "amd64":
        _refuse(subject, f"is for {document.get('os')}/{document.get('architecture')}, not linux/amd64")
    rootfs = document.get("rootfs")
    diff_ids = _texts(rootfs.get("diff_ids") if isinstance(rootfs, dict) else None, "diff_ids", subject)
    if len(diff_ids) != layers or not all(DIGEST.fullmatch(each) for each in diff_ids):
        _refuse(subject, f"names {len(diff_ids)} layers by SHA-256; its manifest has {layers}")
    settings = document.get("config") or {}
    if not isinstance(settings, dict):
        _refuse(subject, "config is not an object")
    return ImageConfig(
        diff_ids=diff_ids,
        entrypoint=_texts(settings.get("Entrypoint"), "Entrypoint", subject),
        command=_texts(settings.get("Cmd"), "Cmd", subject),
        env=_environment(_texts(settings.get("Env"), "Env", subject), subject),
        user=_text(settings.get("User"), "User", subject),
        working_dir=_text(settings.get("WorkingDir"), "WorkingDir", subject) or "/",
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _is_ours(platform: object) -> bool:
    return (
        isinstance(platform, dict)
        and platform.get("os") == "linux"
        and platform.get("architecture") == "amd64"
        and platform.get("variant") in (None, "", "v1")
    )


def _list(document: Mapping[str, Any], key: str, subject: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        _refuse(subject, f"{key} is not a list")
    return value


def _texts(value: object, what: str, subject: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        _refuse(subject, f"{what} is not a list of texts")
    return tuple(value)


def _text(value: object, what: str, subject: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        _refuse(subject, f"{what} is not a text")
    return value


def _environment(entries: tuple[str, ...], subject: str) -> Mapping[str, str]:
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            _refuse(subject, f"Env holds {entry[:80]!r}, which is not NAME=value")
        found[name] = value
    return found


def _refuse(subject: str, reason: str) -> NoReturn:
    raise oci_error(reason, subject=subject)
