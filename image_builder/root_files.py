"""Files that keyturn itself adds to the root: init's table, mount points, the mount table, the image's facts.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from guest_agent.payload import FOLDER
from image_builder.recipe import Recipe, TmpfsEntry
from image_builder.tree import BytesContent, Kind, Node, Tree
from measurements.errors import KeyturnError
from measurements.image_facts import IMAGE_FACTS, ImageFacts, encode_facts

MOUNT_POINTS: Final = {
    "dev": 0o755,
    "proc": 0o555,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var": 0o755,
}
"""Empty folders of the root that something is mounted on, with their modes."""

_INTERPRETER = re.compile(r"usr/bin/python3\.[0-9]+")
_SAFE: Final = "nosuid,nodev,noexec"
_TABLE: Final = (
    f"securityfs /sys/kernel/security securityfs ro,{_SAFE} 0 0",
    f"tmpfs /run tmpfs {_SAFE},mode=755,size=64m 0 0",
    f"tmpfs /tmp tmpfs {_SAFE},mode=1777,size=256m 0 0",
    f"tmpfs /var tmpfs {_SAFE},mode=755,size=256m 0 0",
)


class RootFilesError(KeyturnError):
    """The root lacks something that the boot chain needs."""

    code = "root-files"


def root_nodes(recipe: Recipe, *, tree: Tree) -> Tree:
    """The nodes to add to (and replace in) the merged ``tree`` of packages, wheels, local and agent files.

    Raises ``RootFilesError`` when there is not exactly one interpreter for the agent.
    """
    facts = ImageFacts(name=recipe.image.name, version=recipe.image.version, dev=recipe.image.dev)
    extra = {entry.path.lstrip("/"): entry.mode for entry in recipe.tmpfs}
    nodes = [
        *(_folder(path, mode) for path, mode in (MOUNT_POINTS | extra).items()),
        *(_folder(path, 0o755) for path in ("etc", "etc/keyturn")),
        _file("etc/inittab", _inittab(interpreter(tree))),
        _file("etc/fstab", "".join(f"{line}\n" for line in (*_TABLE, *_extra_lines(recipe.tmpfs)))),
        _file(IMAGE_FACTS, encode_facts(facts).decode("ascii")),
    ]
    return {node.path: node for node in nodes}


def interpreter(tree: Tree) -> str:
    """Path of the one Python interpreter of the image, without a leading slash (``usr/bin/python3.13``)."""
    found = sorted(
        path for path, node in tree.items() if _INTERPRETER.fullmatch(path) and node.kind is Kind.FILE
    )
    if len(found) != 1:
        raise RootFilesError(
            f"the image has {len(found)} Python interpreters" + "".join(f", /{path}" for path in found),
            subject="guest agent",
            advice="install exactly one of Debian's python3.N-minimal packages (packages.install: python3)",
        )
    return found[0]


def _inittab(path: str) -> str:
    template = files("image_builder.data").joinpath("inittab.tmpl").read_text(encoding="ascii")
    return template.replace("@INTERPRETER@", f"/{path}").replace("@FOLDER@", FOLDER)


def _extra_lines(entries: Iterable[TmpfsEntry]) -> Iterable[str]:
    # Parents come before children, so that a mount never hides another.
    for entry in sorted(entries, key=lambda entry: entry.path):
        yield f"tmpfs {entry.path} tmpfs nosuid,nodev,mode={entry.mode:o},size={entry.size} 0 0"


def _file(path: str, text: str) -> Node:
    return Node(path=path, kind=Kind.FILE, mode=0o644, content=BytesContent(text.encode("ascii")))


def _folder(path: str, mode: int) -> Node:
    return Node(path=path, kind=Kind.DIRECTORY, mode=mode)
