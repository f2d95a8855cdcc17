"""The app disk: one verity volume for each container image, one after another.

Layout of a volume, at a multiple of 4096 bytes: EROFS, then the dm-verity tree (version 1, SHA-256, 4096-byte
blocks, no superblock, so the levels begin right behind the data). The salt is
``SHA-256("keyturn-app-volume/1\\0" ‖ image digest as text)``: fixed, and another for every image.

The root of a container is read-only, so the places where something is mounted have to exist in it; they are
added to the tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from image_builder.app_lock import StoredImage
from image_builder.erofs import ByteSink, write_erofs
from image_builder.oci_image import LAYER_TYPES
from image_builder.oci_layers import LayerBlob, apply_layers
from image_builder.store import Store
from image_builder.tree import BytesContent, Kind, Node, Tree
from image_builder.tree_paths import resolve
from image_builder.verity import BLOCK_SIZE, VerityHasher, VerityStream
from measurements.app_manifest import Volume
from measurements.errors import KeyturnError

SALT_DOMAIN = b"keyturn-app-volume/1\0"
SOCKET = "/run/keyturn.sock"
STANDARD_FOLDERS = ("/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108 - a path inside the container
LAYER_CACHE = "oci-layer-1"


class MountPointError(KeyturnError):
    """A place in a container's root that nothing can be mounted on."""

    code = "mount-point"


def image_tree(image: StoredImage, *, store: Store, limit: int) -> Tree:
    """The root file system of an image; its uncompressed layers have at most ``limit`` bytes."""
    blobs = [
        LayerBlob(
            path=store.verified(layer.sha256, name=layer.digest, size=layer.size),
            compression=LAYER_TYPES[layer.media_type],
            diff_sha256=diff_id.removeprefix("sha256:"),
        )
        for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
    ]
    cache = store.derived(LAYER_CACHE, image.locked.manifest.sha256)
    return apply_layers(blobs, cache=cache, limit=limit)


def with_mount_points(tree: Tree, folders: Iterable[str], *, files: Iterable[str] = ()) -> Tree:
    """``tree`` with the absolute paths ``folders`` and ``files`` in it; those that exist stay as they are.

    Raises ``MountPointError`` where a path has another kind, or leads through a link that leads nowhere.
    """
    grown = dict(tree)
    wanted = [(path, Kind.DIRECTORY) for path in (*STANDARD_FOLDERS, *folders)]
    for path, kind in [*wanted, *((path, Kind.FILE) for path in files)]:
        _grow(grown, path, kind)
    return grown


def _grow(tree: Tree, path: str, kind: Kind) -> None:
    at = ""
    parts = path.strip("/").split("/")
    for number, part in enumerate(parts):
        expected = kind if number == len(parts) - 1 else Kind.DIRECTORY
        here = f"{at}/{part}" if at else part
        if here not in tree:
            content = BytesContent(b"") if expected is Kind.FILE else None
            mode = 0o644 if expected is Kind.FILE else 0o755
            tree[here] = Node(path=here, kind=expected, mode=mode, content=content)
        found = resolve(tree, here)
        if found is None or found.node.kind is not expected:
            what = "leads nowhere" if found is None else f"is a {found.node.kind.value}"
            raise MountPointError(
                f"cannot be mounted on: /{here} of the image {what}",
                subject=path,
                advice="mount it elsewhere, or use another image",
            )
        at = found.node.path


def write_volume(tree: Tree, stream: ByteSink, *, offset: int, image_digest: str) -> Volume:
    """Write one volume to ``stream``, which stands at ``offset``; it ends at a multiple of 4096 bytes."""
    salt = hashlib.sha256(SALT_DOMAIN + image_digest.encode("ascii")).digest()
    hasher = VerityHasher(salt=salt)
    write_erofs(tree, VerityStream(stream, hasher))
    verity = hasher.finish()
    stream.write(verity.levels)
    return Volume(
        offset=offset,
        data_blocks=verity.data_blocks,
        hash_offset=verity.data_bytes,
        root_hash=verity.root_hash,
        salt=salt,
    )


def volume_end(volume: Volume) -> int:
    """Offset right behind a volume."""
    blocks, hashes = volume.data_blocks, 0
    while blocks > 1:
        blocks = -(-blocks // (BLOCK_SIZE // 32))
        hashes += blocks
    return volume.offset + volume.hash_offset + hashes * BLOCK_SIZE


def accounts_file(tree: Tree, path: str) -> tuple[list[str], ...]:
    """The lines of ``/etc/passwd`` or ``/etc/group`` of a root, split at colons; none if it is absent."""
    found = resolve(tree, path)
    if found is None or found.node.content is None or found.node.content.size > 1 << 20:
        return ()
    text = b"".join(found.node.content.chunks()).decode("utf-8", "replace")
    return tuple(line.split(":") for line in text.splitlines() if line.count(":") >= 3)
