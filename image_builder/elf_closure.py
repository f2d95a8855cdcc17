"""The shared libraries that programs of a tree need, found as the dynamic loader would find them.

Followed: the program interpreter (``PT_INTERP``), and ``DT_NEEDED`` through ``DT_RUNPATH`` or ``DT_RPATH``
with ``$ORIGIN``, then the folders that Debian's loader has built in (ld.so(8)). A cache or a configuration
file is not read, since images have none.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from image_builder.kept import NO_FACTS, KeptFacts
from image_builder.tree import Content, Kind, Tree, read_content
from image_builder.tree_paths import resolve
from measurements.errors import KeyturnError

KIND = "elf-1"
_TEXT_TAGS = {"DT_NEEDED": "needed", "DT_RUNPATH": "runpath", "DT_RPATH": "rpath"}
"""Tags that hold text, with the attribute under which pyelftools gives it."""

DEFAULT_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib64",
    "usr/lib",
)
_ELF_MAGIC = b"\x7fELF"


class ElfError(KeyturnError):
    """A program that cannot be read, or that needs a library the image does not have."""

    code = "elf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dynamic:
    """What a program asks the loader for."""

    interpreter: str
    needed: tuple[str, ...]
    run_path: tuple[str, ...]


def library_closure(tree: Tree, programs: Iterable[str], *, facts: KeptFacts = NO_FACTS) -> tuple[str, ...]:
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
        dynamic = read_dynamic(nodes.node.content, subject=nodes.node.path, facts=facts)
        todo.extend((library, nodes.node.path) for library in _wanted(tree, nodes.node.path, dynamic))
    starts = {resolved.node.path for program in programs if (resolved := resolve(tree, program))}
    return tuple(sorted(found - starts - set(programs)))


def read_dynamic(content: Content, *, subject: str, facts: KeptFacts = NO_FACTS) -> Dynamic:
    """The loader's instructions in an ELF file; raises ``ElfError`` if it is none."""
    data = read_content(content)
    found = facts.of(KIND, hashlib.sha256(data).hexdigest(), lambda: _find_dynamic(data, subject))
    interpreter, needed, run_path = found
    return Dynamic(interpreter=interpreter, needed=tuple(needed), run_path=tuple(run_path))


def _find_dynamic(data: bytes, subject: str) -> tuple[str, list[str], list[str]]:
    """Interpreter, needed libraries and folders."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    if not data.startswith(_ELF_MAGIC):
        raise ElfError("is not an ELF file", subject=f"/{subject}", advice="name a program of the image")
    interpreter = ""
    values: dict[str, list[str]] = {attribute: [] for attribute in _TEXT_TAGS.values()}
    try:
        for segment in ELFFile(io.BytesIO(data)).iter_segments():
            if isinstance(segment, InterpSegment):
                interpreter = segment.get_interp_name()
            elif isinstance(segment, DynamicSegment):
                for tag in segment.iter_tags():
                    if attribute := _TEXT_TAGS.get(tag.entry.d_tag):
                        values[attribute].append(str(getattr(tag, attribute)))
    except ELFError as error:
        raise ElfError(str(error), subject=f"/{subject}", advice="get its package again") from None
    run_path = values["runpath"] + values["rpath"]
    return interpreter, values["needed"], [part for entry in run_path for part in entry.split(":") if part]


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
