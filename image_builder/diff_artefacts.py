"""Compares the artefacts of two images: root file system, initrd, PE files, documents.

Each function takes the bytes of both sides, gives the parts that differ with their causes, and never fails on
a damaged artefact: it then says so and falls back to byte ranges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from image_builder.comparison import Cause, CauseKind, Change, Difference, follows
from image_builder.diff_bytes import Buffer, byte_differences
from image_builder.diff_origin import CauseFinder
from image_builder.diff_trees import cpio_views, erofs_views, tree_differences
from image_builder.erofs_reader import ErofsReader
from image_builder.image import Artefact
from image_builder.tree import CHUNK
from measurements.errors import FormatError
from measurements.json_text import json_text
from measurements.pe import PeFile, PeSection, parse_pe

Parts = tuple[Difference, ...]
Artefacts = Mapping[str, Buffer]
"""Bytes of an image's files by name."""

_RECIPE_COMMAND_LINE: Final = ("kernel.command-line", "image.dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both images' artefacts and the finder of causes."""

    before: Artefacts
    after: Artefacts
    finder: CauseFinder

    def differs(self, name: str) -> bool:
        """Whether an artefact that both have is not the same."""
        return (
            name in self.before and name in self.after and bytes_differ(self.before[name], self.after[name])
        )

    @property
    def documented_differs(self) -> bool:
        """Whether anything differs that the JSON documents speak of."""
        names = {*self.before, *self.after}
        return any(
            name not in self.before or name not in self.after or self.differs(name)
            for name in names
            if not name.endswith(".json")
        )


def bytes_differ(before: Buffer, after: Buffer) -> bool:
    """Whether two buffers hold different bytes."""
    if len(before) != len(after):
        return True
    # Copies of pieces compare with memcmp, memory views byte by byte.
    pieces = range(0, len(before), CHUNK)
    return any(bytes(before[at : at + CHUNK]) != bytes(after[at : at + CHUNK]) for at in pieces)


def root_parts(
    before: Buffer, after: Buffer, finder: CauseFinder, *, container: str = Artefact.ROOT
) -> Parts:
    """Differences of two root file systems with their hash trees."""
    try:
        readers = [ErofsReader(data, subject=container) for data in (before, after)]
        views = [erofs_views(reader) for reader in readers]
    except FormatError as error:
        return unreadable_parts(error, before, after, finder)
    old, new = readers
    found = tree_differences(views[0], views[1], container=container, cause_of=finder)
    data = [memoryview(before)[: old.length], memoryview(after)[: new.length]]
    if not found and bytes_differ(data[0], data[1]):
        unused = byte_differences(data[0], data[1], container=container)
        found = (Difference(subject="bytes of no file", causes=finder.unexplained(), parts=unused),)
    trees = [memoryview(before)[old.length :], memoryview(after)[new.length :]]
    if bytes_differ(trees[0], trees[1]):
        found = (*found, _hash_tree(trees, new.length, container, finder, data_differ=bool(found)))
    return found


def _hash_tree(
    trees: list[memoryview], base: int, container: str, finder: CauseFinder, *, data_differ: bool
) -> Difference:
    if data_differ:
        return Difference(subject="dm-verity hash tree", causes=(follows("the file system"),))
    parts = byte_differences(trees[0], trees[1], base=base, container=container)
    return Difference(subject="dm-verity hash tree", causes=finder.unexplained(), parts=parts)


def initrd_parts(before: Buffer, after: Buffer, finder: CauseFinder) -> Parts:
    """Differences of two initrds."""
    try:
        old, new = (cpio_views(bytes(data), subject=Artefact.INITRD) for data in (before, after))
    except FormatError as error:
        return unreadable_parts(error, before, after, finder)
    found = tree_differences(old, new, container=Artefact.INITRD, cause_of=finder)
    return found or raw_parts(before, after, finder)


def command_line_parts(before: Buffer, after: Buffer, finder: CauseFinder) -> Parts:
    """Words of the kernel command line that only one side has."""
    old, new = (bytes(data).decode("utf-8", "replace").split() for data in (before, after))
    causes = finder.of_recipe(*_RECIPE_COMMAND_LINE) or finder.unexplained()
    removed = [
        Difference(subject=word, change=Change.REMOVED, causes=causes) for word in old if word not in new
    ]
    added = [Difference(subject=word, change=Change.ADDED, causes=causes) for word in new if word not in old]
    return (*removed, *added) or raw_parts(before, after, finder)


def kernel_parts(before: Buffer, after: Buffer, finder: CauseFinder) -> Parts:
    """Sections of two kernels that differ."""
    causes = finder.of_role("kernel") or finder.unexplained()
    return pe_parts(before, after, cause_of=lambda _: causes, finder=finder)


def uki_parts(pair: Pair) -> Parts:
    """Sections of two UKIs that differ; those made from another artefact refer to it."""
    return pe_parts(
        pair.before[Artefact.UKI],
        pair.after[Artefact.UKI],
        cause_of=lambda name: _section_causes(name, pair),
        finder=pair.finder,
    )


def _section_causes(name: str, pair: Pair) -> tuple[Cause, ...]:
    sources = {".linux": Artefact.KERNEL, ".initrd": Artefact.INITRD, ".cmdline": Artefact.CMDLINE}
    finder = pair.finder
    if name in sources:
        return (follows(sources[name]),) if pair.differs(sources[name]) else finder.unexplained()
    if name == ".osrel":
        return finder.of_recipe("image") or finder.of_package("base-files") or finder.unexplained()
    return finder.of_role("kernel" if name == ".uname" else "stub") or finder.unexplained()


def pe_parts(
    before: Buffer, after: Buffer, *, cause_of: Callable[[str], tuple[Cause, ...]], finder: CauseFinder
) -> Parts:
    """Headers and sections of two PE files that differ."""
    try:
        old, new = (
            parse_pe(memoryview(before), subject="PE file"),
            parse_pe(memoryview(after), subject="PE file"),
        )
    except FormatError as error:
        return unreadable_parts(error, before, after, finder)
    sections = tuple(_section_differences(old, new, before, after, cause_of))
    heads = [memoryview(before)[: old.size_of_headers], memoryview(after)[: new.size_of_headers]]
    headers: Parts = ()
    if bytes_differ(heads[0], heads[1]):
        causes = (follows("the sections"),) if sections else finder.unexplained()
        headers = (Difference(subject="headers", causes=causes, parts=byte_differences(heads[0], heads[1])),)
    return (*headers, *sections) or raw_parts(before, after, finder)


def _section_differences(
    old: PeFile, new: PeFile, before: Buffer, after: Buffer, cause_of: Callable[[str], tuple[Cause, ...]]
) -> Iterator[Difference]:
    left, right = _sections_by_key(old), _sections_by_key(new)
    for key in dict.fromkeys((*left, *right)):
        one, other = left.get(key), right.get(key)
        subject = f"section {key}"
        if one is None or other is None:
            change = Change.ADDED if one is None else Change.REMOVED
            yield Difference(subject=subject, change=change, causes=cause_of(key))
            continue
        data = [_section_bytes(one, before), _section_bytes(other, after)]
        if bytes_differ(data[0], data[1]):
            causes = cause_of(key)
            yield Difference(
                subject=subject,
                before=f"{len(data[0])} bytes",
                after=f"{len(data[1])} bytes",
                causes=causes,
                parts=()
                if all(cause.kind is CauseKind.DERIVED for cause in causes)
                else byte_differences(data[0], data[1], base=other.raw_offset, container="the file"),
            )


def _sections_by_key(pe: PeFile) -> dict[str, PeSection]:
    """Sections by name; a name that comes again is numbered."""
    found: dict[str, PeSection] = {}
    for section in pe.sections:
        again = sum(1 for key in found if key.partition("#")[0] == section.name)
        found[f"{section.name}#{again + 1}" if again else section.name] = section
    return found


def _section_bytes(section: PeSection, data: Buffer) -> memoryview:
    return memoryview(data)[
        section.raw_offset : section.raw_offset + min(section.raw_size, section.virtual_size)
    ]


def json_parts(before: Buffer, after: Buffer, finder: CauseFinder) -> Parts:
    """Leaves of two JSON documents that differ: they repeat what the artefacts and inputs are."""
    try:
        old, new = (dict(_leaves(json.loads(json_text(bytes(data))), "")) for data in (before, after))
    except ValueError:
        return raw_parts(before, after, finder)
    found = [
        Difference(
            subject=key, before=old.get(key, ""), after=new.get(key, ""), change=_change(key, old, new)
        )
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    ]
    return tuple(found) or raw_parts(before, after, finder)


def _change(key: str, old: Mapping[str, str], new: Mapping[str, str]) -> Change:
    if key not in old:
        return Change.ADDED
    return Change.CHANGED if key in new else Change.REMOVED


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{prefix}[{_item_name(item, number)}]")
    else:
        yield prefix, str(value)


def _item_name(item: Any, number: int) -> str:
    """What stays the same when items are added before this one."""
    if isinstance(item, dict):
        return str(next((item[key] for key in ("bom-ref", "ref", "uri", "name") if key in item), number))
    return str(item) if isinstance(item, str) else str(number)


def raw_parts(before: Buffer, after: Buffer, finder: CauseFinder) -> Parts:
    """Byte ranges of something without known structure, or outside of what is known of it."""
    parts = byte_differences(before, after)
    return (Difference(subject="bytes of no known part", causes=finder.unexplained(), parts=parts),)


def unreadable_parts(error: FormatError, before: Buffer, after: Buffer, finder: CauseFinder) -> Parts:
    """Why an artefact cannot be looked into, and the byte ranges that differ."""
    parts = byte_differences(before, after)
    return (Difference(subject=f"not readable: {error.reason}", causes=finder.unexplained(), parts=parts),)
