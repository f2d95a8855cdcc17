"""Makes container images by hand: layers, configuration, manifest, layout folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member of a layer; ``fields`` are attributes of ``TarInfo``."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    """A folder."""
    return member(name, type=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A symbolic link."""
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A hard link."""
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar_bytes(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def packed(data: bytes, compression: str) -> bytes:
    """``data`` as a layer of type ``tar`` plus ``compression`` ("", "gzip" or "zstd")."""
    if compression == "gzip":
        return gzip.compress(data, mtime=0)
    return zstandard.compress(data) if compression == "zstd" else data


def digest_of(data: bytes) -> str:
    """``sha256:…``"""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class HandMadeImage:
    """Blobs by digest, and the manifest's descriptor."""

    blobs: dict[str, bytes]
    manifest: dict[str, Any]

    def add(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Keep ``data`` as a blob; its descriptor."""
        self.blobs[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def make_image(
    layers: Sequence[bytes],
    *,
    compression: str = "gzip",
    settings: dict[str, Any] | None = None,
    **config_changes: Any,
) -> HandMadeImage:
    """An image of uncompressed tar ``layers``."""
    image = HandMadeImage({}, {})
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": settings or {"Entrypoint": ["/bin/web"], "Env": ["MODE=image"], "User": "1000"},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
    } | config_changes
    suffix = f"+{compression}" if compression else ""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": image.add(json.dumps(config).encode(), CONFIG_TYPE),
        "layers": [image.add(packed(layer, compression), LAYER_TYPE + suffix) for layer in layers],
    }
    image.manifest = image.add(json.dumps(document).encode(), MANIFEST_TYPE)
    return image


def write_layout(image: HandMadeImage, path: Path, *, tag: str = "1") -> Path:
    """An OCI image layout whose index has the image through a nested index for two platforms."""
    other = {"architecture": "arm64", "os": "linux"}
    ours = {"architecture": "amd64", "os": "linux"}
    nested = {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [
            {"mediaType": MANIFEST_TYPE, "digest": "sha256:" + "0" * 64, "size": 1, "platform": other},
            image.manifest | {"platform": ours},
        ],
    }
    descriptor = image.add(json.dumps(nested).encode(), INDEX_TYPE)
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, data in image.blobs.items():
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    annotations = {"org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "manifests": [descriptor | {"annotations": annotations}]}
    (path / "index.json").write_text(json.dumps(index))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path
