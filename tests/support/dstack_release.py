"""A dstack release folder for tests: as small as one can be, and consistent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

METADATA = {
    "bios": "ovmf.fd",
    "kernel": "bzImage",
    "initrd": "initramfs.cpio.gz",
    "rootfs": "rootfs.img",
    "cmdline": "console=ttyS0 init=/init dstack.rootfs_hash=" + "ab" * 32,
    "version": "0.5.5",
    "git_revision": "0" * 40,
    "shared_ro": True,
    "is_dev": False,
}
FILES = {
    "ovmf.fd": b"firmware",
    "bzImage": b"kernel",
    "initramfs.cpio.gz": b"initrd",
    "rootfs.img": b"root",
    "metadata.json": json.dumps(METADATA).encode(),
}


def write_release(
    folder: Path, files: Mapping[str, bytes] | None = None, *, listed: Sequence[str] | None = None
) -> bytes:
    """Write a release, and return its image hash; ``listed`` are the names in its checksum file."""
    contents = FILES if files is None else files
    folder.mkdir(exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    names = list(contents) if listed is None else listed
    lines = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in names)
    (folder / "sha256sum.txt").write_text(lines)
    image_hash = hashlib.sha256(lines.encode()).digest()
    (folder / "digest.txt").write_text(image_hash.hex() + "\n")
    return image_hash
