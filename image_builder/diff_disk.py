"""Compares the disks of two images: partition table, partitions, and what is inside of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from image_builder.comparison import Cause, Change, Difference, follows
from image_builder.diff_artefacts import (
    Pair,
    Parts,
    bytes_differ,
    raw_parts,
    root_parts,
    uki_parts,
    unreadable_parts,
)
from image_builder.diff_bytes import Buffer, byte_differences
from image_builder.diff_origin import CauseFinder
from image_builder.disk import ESP_NAME, ROOT_NAME
from image_builder.fat32 import SECTOR
from image_builder.image import Artefact
from measurements.errors import FormatError
from measurements.gpt import BLOCK, PRIMARY_SIZE, Partition, PartitionTable, parse_gpt

_PROGRAM: Final = "EFI/BOOT/BOOTX64.EFI"
_PROGRAM_ENTRIES: Final = (b"EFI        ", b"BOOT       ", b"BOOTX64 EFI")
_ENTRY_SIZE: Final = 32
_ROOT_CLUSTER: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    """Bytes ``start`` up to but without ``stop`` of a partition."""

    name: str
    start: int
    stop: int


def disk_parts(before: Buffer, after: Buffer, pair: Pair) -> Parts:
    """Partition table entries and partitions of two disks that differ."""
    finder = pair.finder
    try:
        old, new = (parse_gpt(bytes(data[:PRIMARY_SIZE]), subject=Artefact.DISK) for data in (before, after))
    except FormatError as error:
        return unreadable_parts(error, before, after, finder)
    table = _table_parts(old, new, finder)
    left, right = ({each.name: each for each in found.partitions} for found in (old, new))
    partitions = tuple(
        difference
        for name in left
        if name in right
        for difference in _partition_parts(
            name, _partition_bytes(left[name], before), _partition_bytes(right[name], after), pair
        )
    )
    return (*table, *partitions) or raw_parts(before, after, finder)


def _table_parts(old: PartitionTable, new: PartitionTable, finder: CauseFinder) -> Parts:
    by_name = finder.of_recipe("image.name") or finder.unexplained()
    found = []
    if old.disk_guid != new.disk_guid:
        pair = (str(old.disk_guid), str(new.disk_guid))
        found.append(Difference(subject="disk GUID", before=pair[0], after=pair[1], causes=by_name))
    left, right = ({each.name: each for each in table.partitions} for table in (old, new))
    for name in dict.fromkeys((*left, *right)):
        one, other = left.get(name), right.get(name)
        if one is None or other is None:
            change = Change.ADDED if one is None else Change.REMOVED
            found.append(Difference(subject=f"partition {name}", change=change, causes=finder.unexplained()))
        elif one != other:
            found.append(
                Difference(subject=f"entry of partition {name}", parts=_entry_parts(one, other, by_name))
            )
    return tuple(found)


def _entry_parts(one: Partition, other: Partition, by_name: tuple[Cause, ...]) -> Parts:
    by_size = (follows("the sizes of the partitions' contents"),)
    return tuple(
        Difference(
            subject=field.name.replace("_", " "),
            before=str(getattr(one, field.name)),
            after=str(getattr(other, field.name)),
            causes=by_size if field.name.endswith("lba") else by_name,
        )
        for field in fields(Partition)
        if getattr(one, field.name) != getattr(other, field.name)
    )


def _partition_bytes(partition: Partition, disk: Buffer) -> memoryview:
    return memoryview(disk)[partition.first_lba * BLOCK : (partition.last_lba + 1) * BLOCK]


def _partition_parts(name: str, old: memoryview, new: memoryview, pair: Pair) -> Iterator[Difference]:
    if not bytes_differ(old, new):
        return
    artefact = {ESP_NAME: Artefact.UKI, ROOT_NAME: Artefact.ROOT}.get(name)
    subject = f"partition {name}"
    if artefact is not None and pair.differs(artefact) and _holds(old, new, artefact, pair):
        yield Difference(subject=subject, causes=(follows(artefact),))
    elif artefact == Artefact.ROOT:
        yield Difference(subject=subject, parts=root_parts(old, new, pair.finder, container="the partition"))
    else:
        regions = _esp_regions(old, new) if artefact == Artefact.UKI else ()
        parts = tuple(_region_parts(regions, old, new, pair))
        yield Difference(subject=subject, parts=parts or raw_parts(old, new, pair.finder))


def _esp_regions(old: memoryview, new: memoryview) -> tuple[_Region, ...]:
    """What is where in both file systems, or in the intact one; nothing if they are laid out differently."""
    layouts = {layout for layout in (_fat_layout(old), _fat_layout(new)) if layout is not None}
    if len(layouts) != 1:
        return ()
    tables, clusters, program, end = layouts.pop()
    return (
        _Region(name="boot sectors", start=0, stop=tables),
        _Region(name="file allocation tables", start=tables, stop=clusters),
        _Region(name="directories", start=clusters, stop=program),
        _Region(name=_PROGRAM, start=program, stop=end),
        _Region(name="free space", start=end, stop=len(new)),
    )


def _fat_layout(region: memoryview) -> tuple[int, int, int, int] | None:
    """Offsets of the tables, of the clusters, of the boot program and of its end, in a file system that
    ``fat32`` wrote (clusters of one sector, files in one run); ``None`` if this is another one.
    """
    if len(region) < SECTOR:
        return None
    reserved, fats = struct.unpack_from("<HB", region, 14)
    (fat_size,) = struct.unpack_from("<I", region, 36)
    tables = reserved * SECTOR
    clusters = tables + fats * fat_size * SECTOR
    at, size = clusters, SECTOR
    for name in _PROGRAM_ENTRIES:
        found = _directory_entry(region[at : at + SECTOR], name)
        if found is None:
            return None
        at, size = clusters + (found[0] - _ROOT_CLUSTER) * SECTOR, found[1]
    return (tables, clusters, at, at + size) if tables < clusters < at < at + size <= len(region) else None


def _directory_entry(sector: memoryview, name: bytes) -> tuple[int, int] | None:
    """(first cluster, size) of the entry ``name`` in the first sector of a directory."""
    for start in range(0, len(sector) - _ENTRY_SIZE + 1, _ENTRY_SIZE):
        entry = sector[start : start + _ENTRY_SIZE]
        if bytes(entry[:11]) == name:
            high, low, size = struct.unpack_from("<H4xHI", entry, 20)
            return high << 16 | low, size
    return None


def _region_parts(
    regions: tuple[_Region, ...], old: memoryview, new: memoryview, pair: Pair
) -> Iterator[Difference]:
    for region in regions:
        left, right = old[region.start : region.stop], new[region.start : region.stop]
        if not bytes_differ(left, right):
            continue
        if region.name == _PROGRAM:
            inside = Pair(
                before={**pair.before, Artefact.UKI: left},
                after={**pair.after, Artefact.UKI: right},
                finder=pair.finder,
            )
            yield Difference(subject=region.name, parts=uki_parts(inside))
        else:
            parts = byte_differences(left, right, base=region.start, container="the partition")
            yield Difference(subject=region.name, causes=pair.finder.unexplained(), parts=parts)


def _holds(old: memoryview, new: memoryview, artefact: str, pair: Pair) -> bool:
    """Whether both partitions hold the artefact of their own image."""
    sides = ((old, pair.before[artefact]), (new, pair.after[artefact]))
    if artefact == Artefact.ROOT:
        return all(not bytes_differ(region[: len(data)], data) for region, data in sides)
    return all(bytes(data) in bytes(region) for region, data in sides)
