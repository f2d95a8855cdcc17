"""Comparisons of damaged artefacts: always a result, and never "nothing differs"."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_builder.comparison import Comparison
from image_builder.diff import compare
from image_builder.diff_artefacts import (
    Pair,
    Parts,
    command_line_parts,
    initrd_parts,
    json_parts,
    kernel_parts,
    root_parts,
    uki_parts,
)
from image_builder.diff_disk import disk_parts
from image_builder.diff_origin import CauseFinder, Side
from measurements.gpt import PRIMARY_SIZE
from tests.image_builder.image_folders import FakeFiles, FakeImage, tool_package

Change = tuple[int, bytes]
CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
)
CUTS = st.floats(0, 1)


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Bytes of a small image, with a disk that ends soon behind its partition table."""
    folder = FakeImage().write(tmp_path_factory.mktemp("image") / "image")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**found, "disk.raw": found["disk.raw"][: PRIMARY_SIZE + 4096]}


@pytest.fixture(scope="module")
def finder() -> CauseFinder:
    """Causes for two images with the same inputs."""
    image = FakeImage()
    side = Side(name="image", lock=image.lock, recipe=tomllib.loads(image.recipe.decode()), tool="0.1.0")
    return CauseFinder(before=side, after=side, files=FakeFiles(tool_package()))


Comparer = Callable[[bytes, bytes, CauseFinder, Mapping[str, bytes]], Parts]


def uki(before: bytes, after: bytes, finder: CauseFinder, rest: Mapping[str, bytes]) -> Parts:
    """UKIs with the same other artefacts."""
    old, new = {**rest, "uki.efi": before}, {**rest, "uki.efi": after}
    return uki_parts(Pair(before=old, after=new, finder=finder))


def disk(before: bytes, after: bytes, finder: CauseFinder, rest: Mapping[str, bytes]) -> Parts:
    """Disks with the same other artefacts."""
    pair = Pair(before=rest, after=rest, finder=finder)
    return disk_parts(before, after, pair)


COMPARERS: dict[str, Comparer] = {
    "root.erofs": lambda before, after, finder, _: root_parts(before, after, finder),
    "initrd": lambda before, after, finder, _: initrd_parts(before, after, finder),
    "kernel": lambda before, after, finder, _: kernel_parts(before, after, finder),
    "cmdline": lambda before, after, finder, _: command_line_parts(before, after, finder),
    "manifest.json": lambda before, after, finder, _: json_parts(before, after, finder),
    "uki.efi": uki,
    "disk.raw": disk,
}


def changed(data: bytes, changes: list[Change], cut: float) -> bytes:
    """``data`` with some bytes overwritten, and its end cut off if ``cut`` is small."""
    result = bytearray(data)
    for at, value in changes:
        at %= len(data)
        result[at : at + len(value)] = value[: len(data) - at]
    return bytes(result[: int(len(result) * cut * 4)] if cut < 0.25 else result)


@pytest.mark.parametrize("name", COMPARERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, cut=CUTS)
def test_damaged_artefact_gives_a_result(
    name: str, artefacts: Mapping[str, bytes], finder: CauseFinder, changes: list[Change], cut: float
) -> None:
    before = artefacts[name]
    after = changed(before, changes, cut)
    for old, new in ((before, after), (after, before)):
        parts = COMPARERS[name](old, new, finder, artefacts)
        assert bool(parts) == (before != after)
        result = Comparison(before="a", after="b", differences=parts)
        assert all(line.isprintable() for line in result.lines())
        json.dumps(result.as_json(), ensure_ascii=False).encode()


def test_empty_artefacts_give_a_result(artefacts: Mapping[str, bytes], finder: CauseFinder) -> None:
    for name, comparer in COMPARERS.items():
        assert comparer(artefacts[name], b"", finder, artefacts)
        assert comparer(b"", artefacts[name], finder, artefacts)


def test_names_cannot_write_to_the_terminal(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    hostile = "etc/\x1b[2Jcleared\nline\udcff"
    before, after = FakeImage().write(folder / "a"), FakeImage(extra={hostile: b"x"}).write(folder / "b")
    result = compare(before, after, files=FakeFiles())
    assert any("/etc/\\x1b[2Jcleared\\nline\\udcff" in line for line in result.lines())
    assert "\x1b" not in "".join(result.lines())
    json.dumps(result.as_json(), ensure_ascii=False).encode()
