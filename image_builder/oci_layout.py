"""A container image in a folder.

Source: OCI Image Specification 1.1, image-layout.md. ``oci-layout`` holds
``{"imageLayoutVersion": "1.0.0"}``; ``index.json`` is an image index whose entries may carry a name in the
annotation ``org.opencontainers.image.ref.name``; ``blobs/sha256/<64 hex digits>`` are the blobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from image_builder.oci_image import (
    MAX_DOCUMENT,
    Descriptor,
    OciError,
    oci_error,
    parse_document,
    read_descriptor,
)

CHUNK = 1 << 20
REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_FILE = "oci-layout"


class OciLayout:
    """Reads one layout folder; every blob is checked by size and digest while it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        document = parse_document(self._read(LAYOUT_FILE), subject=LAYOUT_FILE)
        if document.get("imageLayoutVersion") != "1.0.0":
            raise oci_error("is not an image layout of version 1.0.0", subject=folder.name)

    def find(self, tag: str) -> Descriptor:
        """What the tag stands for; without a tag, the only entry of the index."""
        index = parse_document(self._read("index.json"), subject="index.json")
        entries = index.get("manifests")
        if not isinstance(entries, list):
            raise oci_error("manifests is not a list", subject="index.json")
        found = {
            each.digest: each
            for each in (
                read_descriptor(entry, subject="index.json") for entry in entries if _has_tag(entry, tag)
            )
        }
        if len(found) != 1:
            what = f"tagged {tag!r}" if tag else "in the index"
            raise oci_error(
                f"has {len(found)} images {what}, not one",
                subject=self.folder.name,
                advice="name a tag of the layout: oci:FOLDER:TAG",
            )
        return next(iter(found.values()))

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes; a wrong length or digest raises ``OciError`` at its end."""
        with self.path(descriptor).open("rb") as stream:
            yield from checked_chunks(iter(lambda: stream.read(CHUNK), b""), descriptor)

    def path(self, descriptor: Descriptor) -> Path:
        """Where the blob is; says nothing about its bytes."""
        return self._path(f"blobs/sha256/{descriptor.sha256}")

    def _read(self, name: str) -> bytes:
        with self._path(name).open("rb") as stream:
            data = stream.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise oci_error(f"has more than {MAX_DOCUMENT} bytes", subject=name)
        return data

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise oci_error(
                f"has no file {name}", subject=self.folder.name, advice="name a complete OCI image layout"
            )
        return path


def checked_chunks(chunks: Iterator[bytes], descriptor: Descriptor) -> Iterator[bytes]:
    """``chunks`` as they come; ``OciError`` as soon as they cannot be the blob."""
    digest = hashlib.sha256()
    size = 0
    for piece in chunks:
        size += len(piece)
        if size > descriptor.size:
            raise _wrong(descriptor, f"goes on after its {descriptor.size} bytes")
        digest.update(piece)
        yield piece
    if size != descriptor.size:
        raise _wrong(descriptor, f"has {size} bytes, expected {descriptor.size}")
    if digest.hexdigest() != descriptor.sha256:
        raise _wrong(descriptor, f"has SHA-256 {digest.hexdigest()}")


def _wrong(descriptor: Descriptor, reason: str) -> OciError:
    return oci_error(f"the blob {reason}", subject=descriptor.digest)


def _has_tag(entry: object, tag: str) -> bool:
    if not isinstance(entry, dict):
        return False
    annotations = entry.get("annotations") or {}
    return not tag or (isinstance(annotations, dict) and annotations.get(REF_NAME) == tag)
