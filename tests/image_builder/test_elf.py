"""Reading ELF files: real ones as readelf reads them, damaged ones with one kind of error."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_builder.elf import ElfFormatError, read_dynamic_section, read_section
from tests.image_builder.elf_files import module, program
from tests.support.tools import require_tool

PROGRAM = program("liba.so", interpreter="/ld.so", runpath="/a:/b", rpath="/c")
MODULE = module(depends="b", name="a")


def real_files() -> list[Path]:
    """The running interpreter and libraries that it has loaded."""
    mapped = re.findall(r"\s(/\S+\.so[.0-9]*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return [Path(sys.executable).resolve(), *sorted(map(Path, set(mapped)))[:12]]


@pytest.mark.apt
@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.name)
def test_real_files_are_read_as_readelf_reads_them(path: Path) -> None:
    readelf = require_tool("readelf", package="binutils")
    shown = subprocess.run([readelf, "-dlW", str(path)], capture_output=True, text=True, check=True).stdout
    data = path.read_bytes()
    found = read_dynamic_section(data)
    assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", shown)
    assert [found.interpreter] == (re.findall(r"interpreter: (.*)\]", shown) or [""])
    paths = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", shown)
    assert list(found.run_path) == [folder for path in paths for folder in path.split(":")]
    comment = subprocess.run([readelf, "-SW", str(path)], capture_output=True, text=True, check=True).stdout
    for name in (".dynstr", ".rodata", ".nothing"):
        section = read_section(data, name)
        sizes = re.findall(rf" {re.escape(name)} +\S+ +\S+ +\S+ +(\S+) ", comment)
        assert ([] if section is None else [len(section)]) == [int(size, 16) for size in sizes]


def test_what_a_program_asks_for() -> None:
    found = read_dynamic_section(PROGRAM)
    assert (found.interpreter, found.needed, found.run_path) == ("/ld.so", ("liba.so",), ("/a", "/b", "/c"))


def test_a_section_by_name() -> None:
    assert read_section(MODULE, ".modinfo") == b"depends=b\0name=a\0"
    assert read_section(MODULE, ".text") is None


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + PROGRAM[6:]])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ElfFormatError):
        read_dynamic_section(data)
    with pytest.raises(ElfFormatError):
        read_section(data, ".modinfo")


@given(data=st.sampled_from([PROGRAM, MODULE]), at=st.integers(0), value=st.binary(max_size=8))
def test_damage_raises_nothing_else(data: bytes, at: int, value: bytes) -> None:
    at %= len(data)
    for damaged in (data[:at], data[:at] + value + data[at + len(value) :]):
        with contextlib.suppress(ElfFormatError):
            read_dynamic_section(damaged)
        with contextlib.suppress(ElfFormatError):
            read_section(damaged, ".modinfo")
