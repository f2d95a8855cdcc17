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
from typing import BinaryIO
from uuid import UUID

from image_builder.fat32 import write_fat32
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


class SparseWriter:
    """Writes to ``stream`` from its position on, but skips over pieces that are all zero.

    The caller sets the file's final length.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._zeros = bytes(CHUNK)

    def write(self, data: bytes, /) -> int:
        """Take ``data`` as the next bytes."""
        if len(data) <= CHUNK and data == self._zeros[: len(data)]:
            self._stream.seek(len(data), os.SEEK_CUR)
        else:
            self._stream.write(data)
        return len(data)


def write_disk(path: Path, *, name: str, esp_files: Mapping[str, Content], root: Path) -> DiskLayout:
    """Write the disk of the image ``name`` to ``path``, replacing it; ``root`` is the root file system with
    its verity tree.

    Raises ``FatError`` for files that do not fit an EFI system partition, and ``OSError`` where ``path``
    cannot be written.
    """
    with path.open("wb") as disk, root.open("rb") as source:
        disk.seek(_ALIGNMENT)
        guid = partition_guid(name, ESP_NAME)
        esp = write_fat32(esp_files, SparseWriter(disk), volume_id=guid.fields[0], label=ESP_LABEL)
        layout = plan_disk(name, esp_size=esp.size, root_size=os.fstat(source.fileno()).st_size)
        disk.truncate(layout.size)
        _copy(source, disk, offset=layout.partitions[1].first_lba * BLOCK)
        table = build_gpt(layout.size // BLOCK, layout.disk_guid, layout.partitions)
        disk.seek(0)
        disk.write(table.primary)
        disk.seek(layout.size - len(table.backup))
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


def _copy(source: BinaryIO, disk: BinaryIO, *, offset: int) -> None:
    """Copy all of ``source`` to ``offset`` of ``disk``."""
    disk.flush()
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
