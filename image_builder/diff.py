"""Compares two images, or two locks, and says what differs and which input caused it.

Bytes decide, never the manifests: every file of the two image folders is compared. A file that is not the one
its own manifest names was changed after the build, and that is then the cause.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from image_builder.comparison import Cause, CauseKind, Change, Comparison, Difference, follows
from image_builder.diff_artefacts import (
    Artefacts,
    Pair,
    Parts,
    bytes_differ,
    command_line_parts,
    disk_parts,
    initrd_parts,
    json_parts,
    kernel_parts,
    raw_parts,
    root_parts,
    uki_parts,
)
from image_builder.diff_bytes import Buffer
from image_builder.diff_inputs import lock_differences, recipe_changes
from image_builder.diff_origin import CauseFinder, InputFiles, Side
from image_builder.image import Artefact
from image_builder.lockfile import LOCK_NAME, parse_lock
from image_builder.manifest import MANIFEST_NAME, parse_manifest
from image_builder.provenance import PROVENANCE_NAME
from image_builder.recipe import RECIPE_NAME
from image_builder.sbom import SBOM_NAME
from measurements.errors import FormatError, KeyturnError

ORDER: Final = (
    Artefact.CMDLINE,
    Artefact.ROOT,
    Artefact.KERNEL,
    Artefact.INITRD,
    Artefact.UKI,
    Artefact.DISK,
    SBOM_NAME,
    PROVENANCE_NAME,
    MANIFEST_NAME,
)
"""Artefacts in the order of a report: what others are made from comes first."""


class ImageFolderError(KeyturnError):
    """A folder that is not an image."""

    code = "image-folder"


def compare(before: Path, after: Path, *, files: InputFiles) -> Comparison:
    """Compare two image folders or two lock files. Raises ``ImageFolderError`` or ``LockError``."""
    if before.is_dir() and after.is_dir():
        return compare_images(before, after, files=files)
    if before.is_file() and after.is_file():
        return compare_locks(before, after)
    missing = next((path for path in (before, after) if not path.exists()), None)
    if missing is not None:
        raise ImageFolderError(
            "does not exist", subject=str(missing), advice="name two image folders or two lock files"
        )
    raise ImageFolderError(
        "one is a folder and one a file",
        subject=f"{before} and {after}",
        advice="name two image folders or two lock files",
    )


def compare_locks(before: Path, after: Path) -> Comparison:
    """Compare two lock files. Raises ``LockError``."""
    old, new = (parse_lock(path.read_bytes(), name=str(path)) for path in (before, after))
    return Comparison(before=str(before), after=str(after), differences=lock_differences(old, new))


def compare_images(
    before: Path, after: Path, *, files: InputFiles, names: tuple[str, str] | None = None
) -> Comparison:
    """Compare two image folders, called ``names`` in the result (their paths if not given).

    Raises ``ImageFolderError`` or ``LockError``.
    """
    old_name, new_name = names or (str(before), str(after))
    old, new = open_image(before, old_name), open_image(after, new_name)
    if old.keys() == new.keys() and not any(bytes_differ(old[name], new[name]) for name in old):
        return Comparison(before=old_name, after=new_name, differences=())
    sides = (_side(old_name, old), _side(new_name, new))
    finder = CauseFinder(before=sides[0], after=sides[1], files=files)
    pair = Pair(before=old, after=new, finder=finder)
    differences = (*_input_differences(*sides), *_artefact_differences(pair, names=(old_name, new_name)))
    return Comparison(before=old_name, after=new_name, differences=differences)


def open_image(folder: Path, name: str) -> Artefacts:
    """The files of an image folder, mapped.

    Raises ``ImageFolderError`` if a manifest, lock or recipe is missing.
    """
    paths = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    for needed in (MANIFEST_NAME, LOCK_NAME, RECIPE_NAME):
        if needed not in paths:
            raise ImageFolderError(
                f"has no {needed}", subject=name, advice="name an image folder made by `keyturn build`"
            )
    return {name: _mapped(path) for name, path in paths.items()}


def _mapped(path: Path) -> memoryview:
    """The bytes of a file; the mapping lives as long as they are used."""
    if not path.stat().st_size:
        return memoryview(b"")
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _side(name: str, artefacts: Artefacts) -> Side:
    return Side(
        name=name,
        lock=parse_lock(bytes(artefacts[LOCK_NAME]), name=f"{name}/{LOCK_NAME}"),
        recipe=bytes(artefacts[RECIPE_NAME]),
        tool=_tool(artefacts),
    )


def _tool(artefacts: Artefacts) -> str:
    """The version of keyturn in the provenance; it is not trusted, only shown."""
    try:
        provenance = json.loads(bytes(artefacts.get(PROVENANCE_NAME, b"")))
        return str(provenance["predicate"]["runDetails"]["builder"]["version"]["keyturn"])
    except (ValueError, KeyError, TypeError):
        return "unknown"


def _input_differences(before: Side, after: Side) -> tuple[Difference, ...]:
    found = []
    if before.lock != after.lock:
        found.append(Difference(subject=LOCK_NAME, parts=lock_differences(before.lock, after.lock)))
    if before.recipe != after.recipe:
        changes = recipe_changes(before.recipe, after.recipe)
        parts = tuple(replace(change.difference, causes=()) for change in changes)
        text = "" if parts else "only comments or spacing"
        found.append(Difference(subject=RECIPE_NAME, after=text, parts=parts))
    return tuple(found)


def _artefact_differences(pair: Pair, *, names: tuple[str, str]) -> Iterator[Difference]:
    order = [*ORDER, *sorted({*pair.before, *pair.after} - {*ORDER, LOCK_NAME, RECIPE_NAME})]
    for name in order:
        if (name in pair.before) != (name in pair.after):
            change = Change.ADDED if name in pair.after else Change.REMOVED
            yield Difference(subject=name, change=change, causes=pair.finder.unexplained())
        elif name.endswith(".json") and pair.differs(name):
            causes = (
                (follows("the inputs and artefacts"),)
                if pair.documented_differs
                else pair.finder.unexplained()
            )
            yield Difference(subject=name, causes=causes, parts=_parts(name, pair))
        elif pair.differs(name):
            altered = (*_altered(names[0], name, pair.before), *_altered(names[1], name, pair.after))
            difference = Difference(subject=name, causes=altered, parts=_parts(name, pair))
            yield _explained(difference, altered) if altered else difference


def _parts(name: str, pair: Pair) -> Parts:
    """Where inside the artefact ``name`` the images differ."""
    before, after, finder = pair.before[name], pair.after[name], pair.finder
    if name == Artefact.UKI:
        return uki_parts(pair)
    if name == Artefact.DISK:
        return disk_parts(before, after, pair)
    if name.endswith(".json"):
        return json_parts(before, after, finder)
    return _COMPARERS.get(name, raw_parts)(before, after, finder)


_COMPARERS: Final[Mapping[str, Callable[[Buffer, Buffer, CauseFinder], Parts]]] = {
    Artefact.ROOT: root_parts,
    Artefact.INITRD: initrd_parts,
    Artefact.KERNEL: kernel_parts,
    Artefact.CMDLINE: command_line_parts,
}


def _altered(side: str, name: str, artefacts: Artefacts) -> tuple[Cause, ...]:
    """The cause if the artefact ``name`` is not the one that its own manifest names."""
    try:
        named = parse_manifest(bytes(artefacts[MANIFEST_NAME]))["artefacts"]
    except FormatError as error:
        text = f"{side}/{MANIFEST_NAME} is not a manifest ({error.reason}): changed after the build"
        return (Cause(kind=CauseKind.ALTERED, text=text),) if name == MANIFEST_NAME else ()
    if name not in named or named[name].get("sha256") == hashlib.sha256(artefacts[name]).hexdigest():
        return ()
    text = f"{side}/{name} is not the file that its manifest names: changed after the build"
    return (Cause(kind=CauseKind.ALTERED, text=text),)


def _explained(difference: Difference, causes: tuple[Cause, ...]) -> Difference:
    """``difference`` with what no input explains put down to ``causes``."""
    kept = tuple(cause for cause in difference.causes if cause.kind is not CauseKind.BUILD_TOOL)
    parts = tuple(_explained(part, causes) for part in difference.parts)
    return replace(difference, causes=kept if len(kept) == len(difference.causes) else causes, parts=parts)
