"""The shared libraries that programs of a tree need, found as the dynamic loader would find them.

Followed: the program interpreter (``PT_INTERP``), and ``DT_NEEDED`` through ``DT_RUNPATH`` or ``DT_RPATH``
with ``$ORIGIN``, then the folders that Debian's loader has built in (ld.so(8)). A cache or a configuration
file is not read, since images have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from image_builder.elf import Dynamic, ElfFormatError, read_dynamic_section
from image_builder.tree import Content, Kind, Tree, read_content
from image_builder.tree_paths import resolve
from measurements.errors import KeyturnError

DEFAULT_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib64",
    "usr/lib",
)


class ElfError(KeyturnError):
    """A program that cannot be read, or that needs a library the image does not have."""

    code = "elf"


def library_closure(tree: Tree, programs: Iterable[str]) -> tuple[str, ...]:
    """Paths in ``tree`` that ``programs`` need to start: libraries, the loader, and the links on the way.

    Sorted; without the programs themselves. Raises ``ElfError`` for a library that is not in the tree.
    """
    found: set[str] = set()
    todo = [(program, program) for program in programs]
    seen: set[str] = set()
    while todo:
        path, wanted_by = todo.pop()
        nodes = resolve(tree, path)
        if nodes is None or nodes.node.content is None:
            raise ElfError(
                f"is needed by /{wanted_by} and is not in the image",
                subject=f"/{path.lstrip('/')}",
                advice="add the package that has it to packages.install of the recipe",
            )
        found.update((*nodes.links, nodes.node.path))
        if nodes.node.path in seen:
            continue
        seen.add(nodes.node.path)
        dynamic = read_dynamic(nodes.node.content, subject=nodes.node.path)
        todo.extend((library, nodes.node.path) for library in _wanted(tree, nodes.node.path, dynamic))
    starts = {resolved.node.path for program in programs if (resolved := resolve(tree, program))}
    return tuple(sorted(found - starts - set(programs)))


def read_dynamic(content: Content, *, subject: str) -> Dynamic:
    """The loader's instructions in an ELF file; raises ``ElfError`` if it is none."""
    try:
        return read_dynamic_section(read_content(content))
    except ElfFormatError as error:
        raise ElfError(
            str(error), subject=f"/{subject}", advice="name a program of the image, or get its package again"
        ) from None


def _wanted(tree: Tree, path: str, dynamic: Dynamic) -> Iterable[str]:
    """Paths of what the file at ``path`` needs; a library that is nowhere is given by its bare name."""
    if dynamic.interpreter:
        yield dynamic.interpreter.lstrip("/")
    origin = path.rpartition("/")[0]
    folders = [entry.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for entry in dynamic.run_path]
    for name in dynamic.needed:
        yield _found(tree, name, [*folders, *DEFAULT_FOLDERS])


def _found(tree: Tree, name: str, folders: Sequence[str]) -> str:
    for folder in folders:
        path = name if "/" in name else f"{folder.strip('/')}/{name}"
        resolved = resolve(tree, path)
        if resolved is not None and resolved.node.kind is Kind.FILE:
            return path
    return name
