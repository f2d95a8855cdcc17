"""The disk image: a GUID partition table with the EFI system partition and the root partition.

Layout, partitions starting and ending at multiples of 1 MiB: partition table (``measurements.gpt``);
partition 1 ``esp``, FAT32 with the UKI as ``EFI/BOOT/BOOTX64.EFI``; partition 2 ``root``, the EROFS file
system with its dm-verity tree right behind it; copy of the partition table in the last 33 blocks. The root
partition has the type "root of x86-64" of the Discoverable Partitions Specification (UAPI.2) and its flags
"read-only" and "do not mount automatically": the guest finds it by GUID and checks it against a measured
table, and nothing else should touch it.

Bytes that are zero are left as holes where the file system can, and the root is copied by the kernel where it
can; the bytes are the same.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import UUID

from image_builder.fat32 import fat32_size, write_fat32
from image_builder.gpt import ALIGNMENT_BLOCKS, BACKUP_SIZE, build_gpt, disk_guid, partition_guid
from image_builder.tree import CHUNK, Content
from measurements.gpt import BLOCK, Partition

ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT_TYPE = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
READ_ONLY = 1 << 60
NO_AUTO = 1 << 63
ESP_NAME = "esp"
ROOT_NAME = "root"
ESP_LABEL = "KEYTURN"
_ALIGNMENT = ALIGNMENT_BLOCKS * BLOCK
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskLayout:
    """What is where on the disk; ``size`` in bytes."""

    size: int
    disk_guid: UUID
    partitions: tuple[Partition, ...]


class Follower(Protocol):
    """Something that is given the disk's bytes from front to back while they are written."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""

    def read(self, path: Path) -> None:
        """Take the content of the file ``path`` as the next bytes."""


class DiskWriter:
    """Writes a disk from front to back; ``follower``, if given, gets the same bytes.

    The caller sets the file's final length.
    """

    def __init__(self, stream: BinaryIO, follower: Follower | None) -> None:
        self._stream = stream
        self._follower = follower
        self._zeros = bytes(CHUNK)

    def write(self, data: bytes, /) -> int:
        """Take ``data`` as the next bytes; what is all zero becomes a hole."""
        if len(data) <= CHUNK and data == self._zeros[: len(data)]:
            self._stream.seek(len(data), os.SEEK_CUR)
        else:
            self._stream.write(data)
        if self._follower is not None:
            self._follower.write(data)
        return len(data)

    def fill(self, end: int) -> None:
        """Zeros up to the offset ``end``."""
        while (missing := end - self._stream.tell()) > 0:
            self.write(self._zeros[: min(missing, CHUNK)])

    def copy(self, path: Path) -> None:
        """Take the content of the file ``path`` as the next bytes."""
        if self._follower is not None:
            self._follower.read(path)
        with path.open("rb") as source:
            _copy(source, self._stream)


def write_disk(
    path: Path,
    *,
    name: str,
    esp_files: Mapping[str, Content],
    root: Path,
    follower: Follower | None = None,
) -> DiskLayout:
    """Write the disk of the image ``name`` to ``path``, replacing it; ``root`` is the root file system with
    its verity tree.

    Raises ``FatError`` for files that do not fit an EFI system partition, and ``OSError`` where ``path``
    cannot be written.
    """
    layout = plan_disk(name, esp_size=fat32_size(esp_files), root_size=root.stat().st_size)
    esp, root_partition = layout.partitions
    table = build_gpt(layout.size // BLOCK, layout.disk_guid, layout.partitions)
    with path.open("wb") as stream:
        stream.truncate(layout.size)
        disk = DiskWriter(stream, follower)
        disk.write(table.primary)
        disk.fill(esp.first_lba * BLOCK)
        write_fat32(esp_files, disk, volume_id=esp.guid.fields[0], label=ESP_LABEL)
        disk.fill(root_partition.first_lba * BLOCK)
        disk.copy(root)
        disk.fill(layout.size - len(table.backup))
        disk.write(table.backup)
    return layout


def plan_disk(name: str, *, esp_size: int, root_size: int) -> DiskLayout:
    """Places of both partitions, whose contents have ``esp_size`` and ``root_size`` bytes."""
    esp = _partition(name, ESP_NAME, ESP_TYPE, start=_ALIGNMENT, size=esp_size)
    root_start = (esp.last_lba + 1) * BLOCK
    root = _partition(
        name, ROOT_NAME, ROOT_TYPE, start=root_start, size=root_size, attributes=READ_ONLY | NO_AUTO
    )
    size = _aligned((root.last_lba + 1) * BLOCK + BACKUP_SIZE)
    return DiskLayout(size=size, disk_guid=disk_guid(name), partitions=(esp, root))


def _partition(
    image: str, name: str, type_guid: UUID, *, start: int, size: int, attributes: int = 0
) -> Partition:
    return Partition(
        name=name,
        type_guid=type_guid,
        guid=partition_guid(image, name),
        first_lba=start // BLOCK,
        last_lba=_aligned(start + size) // BLOCK - 1,
        attributes=attributes,
    )


def _copy(source: BinaryIO, disk: BinaryIO) -> None:
    """Copy all of ``source`` to where ``disk`` is."""
    disk.flush()
    offset = disk.tell()
    done = _kernel_copy(source.fileno(), disk.fileno(), offset=offset)
    source.seek(done)
    disk.seek(offset + done)
    shutil.copyfileobj(source, disk, CHUNK)


def _kernel_copy(source: int, target: int, *, offset: int) -> int:
    """Copy as much as the kernel does by itself (nothing, on many systems) and return the number of bytes."""
    if not hasattr(os, "copy_file_range"):
        return 0
    done = 0
    try:
        while count := os.copy_file_range(source, target, 1 << 30, offset_src=done, offset_dst=offset + done):
            done += count
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    return done


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
