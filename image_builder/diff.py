"""Compares two images, or two locks, and says what differs and which input caused it.

Bytes decide, never the manifests: every file of the two image folders is compared. A file that is not the one
its own manifest names was changed after the build, and that is then the cause.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import tomllib
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
    initrd_parts,
    json_parts,
    kernel_parts,
    raw_parts,
    root_parts,
    uki_parts,
)
from image_builder.diff_bytes import Buffer
from image_builder.diff_disk import disk_parts
from image_builder.diff_inputs import lock_differences, recipe_changes
from image_builder.diff_origin import CauseFinder, InputFiles, Side
from image_builder.image import Artefact
from image_builder.lockfile import LOCK_NAME, parse_lock
from image_builder.manifest import MANIFEST_NAME, parse_manifest
from image_builder.provenance import PROVENANCE_NAME
from image_builder.recipe import RECIPE_NAME
from image_builder.sbom import SBOM_NAME
from measurements.errors import FormatError, KeyturnError
from measurements.json_text import json_text

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
    data = [path.read_bytes() for path in (before, after)]
    old, new = (parse_lock(each, name=str(path)) for each, path in zip(data, (before, after), strict=True))
    differences = lock_differences(old, new)
    if not differences and data[0] != data[1]:
        differences = (Difference(subject=LOCK_NAME, after="only comments or spacing"),)
    return Comparison(before=str(before), after=str(after), differences=differences)


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
    shown = (old_name, new_name)
    differences = (*_input_differences(pair, names=shown), *_artefact_differences(pair, names=shown))
    return Comparison(before=old_name, after=new_name, differences=differences)


def open_image(folder: Path, name: str) -> Artefacts:
    """The files of an image folder, mapped; folders in it (reference values) are results, not part of the
    image.

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
    try:
        recipe = tomllib.loads(bytes(artefacts[RECIPE_NAME]).decode())
    except ValueError as error:
        raise ImageFolderError(
            f"is not TOML: {error}", subject=f"{name}/{RECIPE_NAME}", advice="build the image again"
        ) from None
    return Side(
        name=name,
        lock=parse_lock(bytes(artefacts[LOCK_NAME]), name=f"{name}/{LOCK_NAME}"),
        recipe=recipe,
        tool=_tool(artefacts),
    )


def _tool(artefacts: Artefacts) -> str:
    """The version of keyturn in the provenance; it is not trusted, only shown."""
    try:
        provenance = json.loads(json_text(bytes(artefacts.get(PROVENANCE_NAME, b""))))
        return str(provenance["predicate"]["runDetails"]["builder"]["version"]["keyturn"])
    except (ValueError, KeyError, TypeError):
        return "unknown"


def _input_differences(pair: Pair, *, names: tuple[str, str]) -> Iterator[Difference]:
    before, after = pair.finder.before, pair.finder.after
    found = {
        LOCK_NAME: lock_differences(before.lock, after.lock),
        RECIPE_NAME: tuple(
            replace(change.difference, causes=()) for change in recipe_changes(before.recipe, after.recipe)
        ),
    }
    for name, parts in found.items():
        if pair.differs(name):
            text = "" if parts else "only comments or spacing"
            yield Difference(subject=name, after=text, causes=_altered(pair, name, names), parts=parts)


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
            altered = _altered(pair, name, names)
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


def _altered(pair: Pair, name: str, names: tuple[str, str]) -> tuple[Cause, ...]:
    """One cause for each side whose file ``name`` is not the one that its own manifest names."""
    sides = zip(names, (pair.before, pair.after), strict=True)
    return tuple(
        Cause(
            kind=CauseKind.ALTERED,
            text=f"{side}/{name} is not the file that its manifest names: changed after the build",
        )
        for side, artefacts in sides
        if _named_hash(artefacts, name) not in (None, hashlib.sha256(artefacts[name]).hexdigest())
    )


def _named_hash(artefacts: Artefacts, name: str) -> str | None:
    """The hash that the manifest has for ``name``; ``None`` where it is damaged or says nothing."""
    try:
        manifest = parse_manifest(bytes(artefacts[MANIFEST_NAME]))
        if name in (LOCK_NAME, RECIPE_NAME):
            return str(manifest["lock_sha256" if name == LOCK_NAME else "recipe_sha256"])
        return str(manifest["artefacts"][name]["sha256"])
    except (FormatError, KeyError, TypeError):
        return None


def _explained(difference: Difference, causes: tuple[Cause, ...]) -> Difference:
    """``difference`` with what no input explains put down to ``causes``."""
    kept = tuple(cause for cause in difference.causes if cause.kind is not CauseKind.BUILD_TOOL)
    parts = tuple(_explained(part, causes) for part in difference.parts)
    return replace(difference, causes=kept if len(kept) == len(difference.causes) else causes, parts=parts)
