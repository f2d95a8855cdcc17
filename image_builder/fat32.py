"""FAT32 file systems: the EFI system partition that firmware reads the boot program from.

Layout (Microsoft FAT specification of 2000, sections 3 to 7; little endian), in sectors of 512 bytes and
clusters of one sector:

- 0: boot sector: jump, OEM name, BIOS parameter block (36 bytes), FAT32 part (u32 FAT size at 36, u32 root
cluster at 44, u16 FSInfo sector at 48,
  u16 backup boot sector at 50, u8 drive 64, u8 0x29 at 66, u32 volume id at 67, label at 71, ``FAT32   `` at
  82), 0x55 0xaa at 510;
- 1: FSInfo: ``RRaA`` at 0, ``rrAa`` at 484, u32 free clusters at 488, u32 next free cluster at 492,
0xaa550000 at 508; 6 and 7: copies of 0 and 1;
- 32: two FATs, u32 per cluster (28 bits used), entries 0 and 1 reserved, 0x0fffffff ends a chain;
- then the clusters from number 2 on, here: the directories (root first), then the files, each in one
contiguous run.

A directory entry has 32 bytes: name in 8+3 upper-case characters, u8 attributes, u8 0, u8 0, u16 time, u16
date, u16 date, u16 high half of the first cluster, u16 time, u16 date, u16 low half, u32 size. Every date is
1980-01-01 and every time 00:00. Long names are refused: they would need further entries, and nothing that
firmware looks for has one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from image_builder.tree import Content
from measurements.errors import KeyturnError

SECTOR = 512
RESERVED_SECTORS = 32
FAT_COUNT = 2
MIN_CLUSTERS = 65525
"""Fewer clusters would make it a FAT16 file system, whatever its header says (specification, section 3.5)."""
MAX_CLUSTERS = 0x0FFFFFF4
_END_OF_CHAIN = 0x0FFFFFFF
_MEDIA = 0xF8
_DATE = (0 << 9) | (1 << 5) | 1
_ENTRY = struct.Struct("<11sBBBHHHHHHHI")
_DIRECTORY, _ARCHIVE, _VOLUME_LABEL = 0x10, 0x20, 0x08
_NAME = re.compile(r"([A-Z0-9_-]{1,8})(?:\.([A-Z0-9_-]{1,3}))?")
_LABEL = re.compile(r"[A-Z0-9_-][A-Z0-9 _-]{0,10}")
_ROOT_CLUSTER = 2
_CHUNK_ENTRIES = 1 << 18


class Sink(Protocol):
    """Where the bytes go, front to back: any binary file open for writing."""

    def write(self, data: bytes, /) -> int:
        """Take ``data`` as the next bytes."""


class FatError(KeyturnError):
    """Files that do not make a FAT32 file system."""

    code = "fat32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fat32Summary:
    """What was written: the size in bytes, and the number of clusters (of 512 bytes) in all and free."""

    size: int
    clusters: int
    free_clusters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Object:
    """A file or directory with its place; ``content`` is ``None`` for directories.

    An empty file has cluster 0 and no clusters.
    """

    path: str
    content: Content | None
    size: int
    first_cluster: int
    clusters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Geometry:
    sectors: int
    fat_sectors: int
    clusters: int
    free_clusters: int

    @property
    def next_free(self) -> int:
        return _ROOT_CLUSTER + self.clusters - self.free_clusters if self.free_clusters else 0xFFFFFFFF


def write_fat32(
    files: Mapping[str, Content], stream: Sink, *, size: int | None = None, volume_id: int, label: str
) -> Fat32Summary:
    """Write a file system with ``files`` (by path such as ``EFI/BOOT/BOOTX64.EFI``) to ``stream``, front to
    back, without seeking.

    ``size`` is in bytes, a multiple of 512; ``None`` takes the smallest that holds the files. ``volume_id``
    has 32 bits; ``label`` has up to 11 upper-case characters. Raises ``FatError`` for names that are not
    upper-case 8.3, and for a size that is too small or too large.
    """
    if not _LABEL.fullmatch(label) or not 0 <= volume_id <= 0xFFFFFFFF:
        _refuse(
            f"label {label!r}",
            "the label or volume id does not fit",
            "use up to 11 of A-Z 0-9 _ - and 32 bits",
        )
    objects = _place(files)
    geometry = _geometry(sum(item.clusters for item in objects), size)
    _write_reserved(stream, geometry, volume_id=volume_id, label=label)
    for _ in range(FAT_COUNT):
        _write_fat(stream, objects, geometry)
    for item in objects:
        _write_object(stream, item, objects, label)
    _write_zeros(stream, geometry.free_clusters * SECTOR)
    tail = geometry.sectors - RESERVED_SECTORS - FAT_COUNT * geometry.fat_sectors - geometry.clusters
    _write_zeros(stream, tail * SECTOR)
    return Fat32Summary(
        size=geometry.sectors * SECTOR, clusters=geometry.clusters, free_clusters=geometry.free_clusters
    )


def fat32_size(files: Mapping[str, Content]) -> int:
    """Bytes of the smallest file system that holds ``files``; raises ``FatError``."""
    return _geometry(sum(item.clusters for item in _place(files)), None).sectors * SECTOR


def _place(files: Mapping[str, Content]) -> list[_Object]:
    """All objects in the order of their clusters: directories (root first), then files, both by path."""
    directories = {""}
    for path in files:
        parts = path.split("/")
        for part in parts:
            if not _NAME.fullmatch(part):
                advice = "use upper-case names of 8+3 characters (A-Z 0-9 _ -)"
                _refuse(f"file {path}", f"the name {part!r} is not in 8.3 form", advice)
        directories.update("/".join(parts[:end]) for end in range(1, len(parts)))
    for path in directories & files.keys():
        _refuse(f"file {path}", "is also the directory of another file", "rename one of the two")
    placed = []
    cluster = _ROOT_CLUSTER
    for path in [*sorted(directories), *sorted(files)]:
        content = None if path in directories else files[path]
        size = _directory_size(path, directories, files) if content is None else content.size
        if size > 0xFFFFFFFF:
            _refuse(f"file {path}", f"has {size} bytes", "a file on FAT32 has less than 4 GiB")
        clusters = -(-size // SECTOR)
        first = cluster if clusters else 0
        placed.append(_Object(path=path, content=content, size=size, first_cluster=first, clusters=clusters))
        cluster += clusters
    return placed


def _directory_size(path: str, directories: set[str], files: Mapping[str, Content]) -> int:
    """Bytes of a directory's entries: its children, and ``.`` and ``..`` (in the root, the volume label)."""
    own = 2 if path else 1
    children = sum(1 for other in [*directories, *files] if other and _parent(other) == path)
    return (own + children) * _ENTRY.size


def _geometry(used: int, size: int | None) -> _Geometry:
    if size is None:
        clusters = max(used, MIN_CLUSTERS)
        fat_sectors = _fat_sectors(clusters)
        sectors = RESERVED_SECTORS + FAT_COUNT * fat_sectors + clusters
    else:
        if size % SECTOR:
            _refuse(f"size {size}", "is not a multiple of 512", "give whole sectors")
        sectors = size // SECTOR
        fat_sectors = _fat_sectors(max(sectors - RESERVED_SECTORS, 0))
        clusters = sectors - RESERVED_SECTORS - FAT_COUNT * fat_sectors
    if not max(used, MIN_CLUSTERS) <= clusters <= MAX_CLUSTERS or sectors > 0xFFFFFFFF:
        smallest = _geometry(used, None).sectors * SECTOR if size is not None else 0
        _refuse(
            f"size {sectors * SECTOR}",
            "does not fit FAT32",
            f"take at least {smallest} bytes, at most 128 GiB",
        )
    return _Geometry(
        sectors=sectors, fat_sectors=fat_sectors, clusters=clusters, free_clusters=clusters - used
    )


def _fat_sectors(clusters: int) -> int:
    return -(-(clusters + _ROOT_CLUSTER) * 4 // SECTOR)


def _write_reserved(stream: Sink, geometry: _Geometry, *, volume_id: int, label: str) -> None:
    boot = bytearray(SECTOR)
    # Sector and cluster size, FATs, no FAT12 root entries or sizes, media, geometry (unused), hidden sectors.
    common = (SECTOR, 1, RESERVED_SECTORS, FAT_COUNT, 0, 0, _MEDIA, 0, 63, 255, 0, geometry.sectors)
    struct.pack_into("<3s8sHBHBHHBHHHII", boot, 0, b"\xeb\x58\x90", b"KEYTURN ", *common)
    fat32 = (geometry.fat_sectors, 0, 0, _ROOT_CLUSTER, 1, 6, 0x80, 0, 0x29, volume_id)
    struct.pack_into("<IHHIHH12xBBBI", boot, 36, *fat32)
    struct.pack_into("<11s8s", boot, 71, label.ljust(11).encode("ascii"), b"FAT32   ")
    struct.pack_into("<H", boot, 510, 0xAA55)
    info = bytearray(SECTOR)
    struct.pack_into("<I", info, 0, 0x41615252)
    struct.pack_into("<III", info, 484, 0x61417272, geometry.free_clusters, geometry.next_free)
    struct.pack_into("<I", info, 508, 0xAA550000)
    both = bytes(boot + info)
    stream.write(both + bytes(4 * SECTOR) + both + bytes((RESERVED_SECTORS - 8) * SECTOR))


def _write_fat(stream: Sink, objects: list[_Object], geometry: _Geometry) -> None:
    entries = [0x0FFFFF00 | _MEDIA, _END_OF_CHAIN]
    for item in objects:
        if item.clusters:
            entries += range(item.first_cluster + 1, item.first_cluster + item.clusters)
            entries.append(_END_OF_CHAIN)
    for start in range(0, len(entries), _CHUNK_ENTRIES):
        piece = entries[start : start + _CHUNK_ENTRIES]
        stream.write(struct.pack(f"<{len(piece)}I", *piece))
    _write_zeros(stream, geometry.fat_sectors * SECTOR - len(entries) * 4)


def _write_object(stream: Sink, item: _Object, objects: list[_Object], label: str) -> None:
    pieces = item.content.chunks() if item.content is not None else _directory_entries(item, objects, label)
    written = 0
    for piece in pieces:
        stream.write(piece)
        written += len(piece)
    if written != item.size:
        _refuse(
            f"file {item.path}",
            f"gave {written} bytes, not its {item.size}",
            "do not change inputs meanwhile",
        )
    stream.write(bytes(-written % SECTOR))


def _directory_entries(item: _Object, objects: list[_Object], label: str) -> Iterator[bytes]:
    if item.path:
        parent = next(other for other in objects if other.path == _parent(item.path))
        yield _entry(b".".ljust(11), _DIRECTORY, item.first_cluster, 0)
        # The specification gives the root the number 0 here, wherever it is.
        yield _entry(b"..".ljust(11), _DIRECTORY, parent.first_cluster if parent.path else 0, 0)
    else:
        yield _entry(label.ljust(11).encode("ascii"), _VOLUME_LABEL, 0, 0)
    for child in sorted(objects, key=lambda other: other.path):
        if child.path and _parent(child.path) == item.path:
            is_file = child.content is not None
            attributes = _ARCHIVE if is_file else _DIRECTORY
            yield _entry(
                _short_name(child.path), attributes, child.first_cluster, child.size if is_file else 0
            )


def _entry(name: bytes, attributes: int, cluster: int, size: int) -> bytes:
    return _ENTRY.pack(
        name, attributes, 0, 0, 0, _DATE, _DATE, cluster >> 16, 0, _DATE, cluster & 0xFFFF, size
    )


def _short_name(path: str) -> bytes:
    stem, _, extension = path.rpartition("/")[2].partition(".")
    return (stem.ljust(8) + extension.ljust(3)).encode("ascii")


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _write_zeros(stream: Sink, count: int) -> None:
    zeros = bytes(1 << 20)
    while count:
        piece = min(count, len(zeros))
        stream.write(zeros[:piece])
        count -= piece


def _refuse(subject: str, reason: str, advice: str) -> NoReturn:
    raise FatError(reason, subject=f"EFI system partition, {subject}", advice=advice)
