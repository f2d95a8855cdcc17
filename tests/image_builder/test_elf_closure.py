"""Shared libraries that programs need, in the loader's order."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from image_builder.elf_closure import ElfError, library_closure, read_dynamic
from image_builder.tree import BytesContent, FileSlice, Kind, Node, Tree
from tests.image_builder.elf_files import program
from tests.support.tools import require_tool

LIB = "usr/lib/x86_64-linux-gnu"
LOADER = "/lib64/ld-linux-x86-64.so.2"


def tree(files: dict[str, bytes], links: dict[str, str] | None = None) -> Tree:
    nodes = {
        path: Node(path=path, kind=Kind.FILE, mode=0o755, content=BytesContent(data))
        for path, data in files.items()
    }
    for path, target in {"lib64": "usr/lib64", "lib": "usr/lib", **(links or {})}.items():
        nodes[path] = Node(path=path, kind=Kind.SYMLINK, mode=0o777, target=target)
    for path in list(nodes):
        while path := path.rpartition("/")[0]:
            nodes.setdefault(path, Node(path=path, kind=Kind.DIRECTORY, mode=0o755))
    return nodes


def test_libraries_of_libraries_with_links_and_loader() -> None:
    files = {
        "usr/bin/tool": program("liba.so.1", interpreter=LOADER),
        f"{LIB}/liba.so.1.2": program("libb.so", "libc.so.6"),
        f"{LIB}/libb.so": program("liba.so.1"),
        f"{LIB}/libc.so.6": program(),
        f"{LIB}/ld-linux-x86-64.so.2": program(),
        f"{LIB}/unused.so": program(),
    }
    links = {
        f"{LIB}/liba.so.1": "liba.so.1.2",
        "usr/lib64/ld-linux-x86-64.so.2": "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    }
    assert set(library_closure(tree(files, links), ["usr/bin/tool"])) == {
        "lib64",
        "usr/lib64/ld-linux-x86-64.so.2",
        *(
            f"{LIB}/{name}"
            for name in ("ld-linux-x86-64.so.2", "liba.so.1", "liba.so.1.2", "libb.so", "libc.so.6")
        ),
    }


@pytest.mark.parametrize("key", ["runpath", "rpath"])
@pytest.mark.parametrize("origin", ["$ORIGIN", "${ORIGIN}"])
def test_own_folders_come_first(key: str, origin: str) -> None:
    files = {
        "opt/app/tool": program("liba.so", **{key: f"{origin}/../lib"}),
        "opt/lib/liba.so": program(),
        f"{LIB}/liba.so": program(),
    }
    assert library_closure(tree(files), ["opt/app/tool"]) == ("opt/lib/liba.so",)


def test_a_missing_library_names_who_needs_it() -> None:
    with pytest.raises(ElfError, match=r"/libz\.so: is needed by /usr/bin/tool"):
        library_closure(tree({"usr/bin/tool": program("libz.so")}), ["usr/bin/tool"])
    with pytest.raises(ElfError, match="/usr/bin/ghost"):
        library_closure(tree({}), ["usr/bin/ghost"])


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", program("a")[:70]])
def test_refuses_what_is_no_program(data: bytes) -> None:
    with pytest.raises(ElfError, match="/usr/bin/tool"):
        library_closure(tree({"usr/bin/tool": data}), ["usr/bin/tool"])


def test_agrees_with_readelf() -> None:
    readelf = require_tool("readelf", package="binutils")
    path = Path(readelf).resolve()
    shown = subprocess.run([readelf, "-dl", str(path)], capture_output=True, text=True, check=True).stdout
    found = read_dynamic(FileSlice(path=path, offset=0, size=path.stat().st_size), subject="readelf")
    assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", shown)
    assert [found.interpreter] == re.findall(r"interpreter: (.*)\]", shown)
    assert found.needed
