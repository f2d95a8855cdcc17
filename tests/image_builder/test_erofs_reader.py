"""The EROFS reader: round trips, images of mkfs.erofs, and malformed images."""

from __future__ import annotations

import io
import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from image_builder.erofs import write_erofs
from image_builder.erofs_format import BLOCK_SIZE
from image_builder.erofs_reader import ErofsEntry, ErofsReader, open_erofs
from image_builder.tree import BytesContent, Kind, Tree, raw_name
from measurements.errors import FormatError
from tests.image_builder.erofs_trees import directory, file, noise, symlink, tree_of, trees, varied_tree
from tests.support.tools import require_tool


def image_of(tree: Tree) -> bytes:
    """The image of ``tree``."""
    stream = io.BytesIO()
    write_erofs(tree, stream)
    return stream.getvalue()


def assert_same(tree: Tree, image: bytes) -> None:
    """``image`` holds ``tree``, all of it, in order."""
    reader = ErofsReader(image)
    entries = list(reader.entries())
    assert [entry.path for entry in entries] == sorted(
        tree, key=lambda path: raw_name(path).replace(b"/", b"\0")
    )
    for entry in entries:
        node = tree[entry.path]
        shared = ("path", "kind", "mode", "uid", "gid", "target", "device")
        assert [getattr(entry, name) for name in shared] == [getattr(node, name) for name in shared]
        assert entry.xattrs == tuple(sorted(node.xattrs))
        assert entry.mtime == 0
        if isinstance(node.content, BytesContent):
            assert reader.content(entry) == node.content.data
        if entry.kind is Kind.DIRECTORY:
            subfolders = [
                n for n in tree.values() if n.path and n.parent == entry.path and n.kind is Kind.DIRECTORY
            ]
            assert entry.links == 2 + len(subfolders)


def test_varied_tree_round_trips() -> None:
    assert_same(varied_tree(), image_of(varied_tree()))


@settings(max_examples=60, deadline=None)
@given(trees())
def test_random_trees_round_trip(tree: Tree) -> None:
    assert_same(tree, image_of(tree))


def test_ranges_never_overlap_and_stay_inside() -> None:
    reader = ErofsReader(image_of(varied_tree()))
    ranges = sorted((part.offset, part.offset + part.length) for e in reader.entries() for part in e.ranges)
    for (_, end), (start, _) in pairwise(ranges):
        assert end <= start
    assert ranges[-1][1] <= reader.length


def test_hash_tree_after_the_image_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "image"
    image = image_of(tree_of([file("a", b"1")]))
    path.write_bytes(image + bytes(8192))
    with open_erofs(path) as reader:
        assert reader.length == len(image)
        assert [entry.path for entry in reader.entries()] == ["", "a"]


def test_images_of_mkfs_are_read(tmp_path: Path) -> None:
    mkfs = require_tool("mkfs.erofs", package="erofs-utils")
    source = tmp_path / "source"
    (source / "usr" / "lib").mkdir(parents=True)
    for number in range(500):
        (source / "usr" / f"{number}").write_bytes(noise(number * 37))
    (source / "link").symlink_to("usr/lib")
    os.link(source / "usr" / "7", source / "hard-link")
    subprocess.run([mkfs, tmp_path / "image", source], capture_output=True, check=True)
    with open_erofs(tmp_path / "image") as reader:
        found: dict[str, ErofsEntry] = {entry.path: entry for entry in reader.entries()}
        assert len(found) == 505
        for number in range(500):
            assert reader.content(found[f"usr/{number}"]) == noise(number * 37)
    assert found["link"].target == "usr/lib"
    assert found["hard-link"].links == 2
    assert found["hard-link"].nid == found["usr/7"].nid


def read_all(image: bytes) -> None:
    """Read everything; only ``FormatError`` may come out."""
    try:
        reader = ErofsReader(image)
        for entry in reader.entries():
            if entry.size <= len(image):
                reader.content(entry)
    except FormatError:
        return


SMALL = image_of(
    tree_of(
        [
            directory("d"),
            directory("d/e"),
            file("d/f", noise(9000), xattrs=(("user.a", b"1"), ("security.capability", b"22"))),
            symlink("l", "d/f"),
            *[file(f"d/e/{'n' * 200}{number}") for number in range(30)],
        ]
    )
)
METADATA = st.integers(1024, 3 * BLOCK_SIZE)


@settings(max_examples=400, deadline=2000)
@given(st.lists(st.tuples(METADATA, st.integers(0, 255)), min_size=1, max_size=8))
@example([(1038, 0xFF), (1039, 0xFF)])
def test_changed_bytes_give_an_image_or_a_format_error(changes: list[tuple[int, int]]) -> None:
    image = bytearray(SMALL)
    for at, value in changes:
        image[at] = value
    read_all(bytes(image))


@settings(max_examples=200, deadline=2000)
@given(METADATA.map(lambda at: at & ~7), st.binary(min_size=8, max_size=24))
def test_changed_fields_give_an_image_or_a_format_error(at: int, value: bytes) -> None:
    read_all(SMALL[:at] + value + SMALL[at + len(value) :])


@settings(max_examples=100, deadline=2000)
@given(st.integers(0, len(SMALL)))
def test_cut_image_is_refused(length: int) -> None:
    if length < len(SMALL):
        with pytest.raises(FormatError):
            list(ErofsReader(SMALL[:length]).entries())


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=3 * BLOCK_SIZE))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        ErofsReader(data)


def patched(at: int, value: bytes) -> bytes:
    """The small image with ``value`` at ``at``."""
    return SMALL[:at] + value + SMALL[at + len(value) :]


ENTRIES = {entry.path: entry for entry in ErofsReader(SMALL).entries()}


def inode(path: str, offset: int, value: bytes) -> bytes:
    """The small image with ``value`` in the inode of ``path``."""
    return patched(ENTRIES[path].ranges[0].offset + offset, value)


def looped() -> bytes:
    """The small image with the entry of ``d/e`` pointing at the root."""
    tail = ENTRIES["d"].ranges[-1].offset
    return patched(tail + 2 * 12, ENTRIES[""].nid.to_bytes(8, "little"))


MALFORMED = {
    "empty": (b"", "too short"),
    "magic": (patched(1024, b"\0"), "no EROFS superblock"),
    "block size": (patched(1036, b"\x09"), "block size"),
    "compressed": (patched(1104, b"\x01"), "features"),
    "root nid": (patched(1038, b"\xff\xff"), "outside"),
    "root is a file": (patched(1038, ENTRIES["d/f"].nid.to_bytes(2, "little")), "root is not a directory"),
    "layout": (inode("d/f", 0, b"\x07\x00"), "data layout 3"),
    "kind": (inode("d/f", 4, b"\x00\x00"), "unknown type"),
    "size": (inode("d/f", 8, b"\xff" * 8), "outside the image"),
    "data block": (inode("d/f", 16, b"\xff\xff\xff\x7f"), "outside the image"),
    "xattrs": (inode("d/f", 2, b"\xff\xff"), "more than a block"),
    "xattr length": (inode("d/f", 64 + 12, b"\xff\xff\xff\xff"), "cut off"),
    "xattr prefix": (inode("d/f", 64 + 13, b"\x63"), "unknown prefix"),
    "shared xattrs": (inode("d/f", 64 + 4, b"\x01"), "shared xattrs"),
    "loop": (looped(), "reachable twice"),
    "type": (patched(ENTRIES["d"].ranges[-1].offset + 2 * 12 + 10, b"\x01"), "different file types"),
    "name offset": (patched(ENTRIES["d"].ranges[-1].offset + 8, b"\x07"), "name offset"),
    "name outside": (patched(ENTRIES["d"].ranges[-1].offset + 12 + 8, b"\xff\xff"), "outside its block"),
    "name with slash": (patched(ENTRIES["d"].ranges[-1].offset + 4 * 12 + 3, b"/"), "impossible name"),
    "unsorted": (patched(ENTRIES["d"].ranges[-1].offset + 4 * 12 + 3, b"z"), "not sorted"),
    "long target": (inode("l", 8, b"\x00\x20\x00\x00"), "outside|too long|crosses"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_image_is_refused(name: str) -> None:
    image, reason = MALFORMED[name]
    with pytest.raises(FormatError, match=reason):
        list(ErofsReader(image, subject="bad.erofs").entries())


def test_many_names_of_one_directory_block_end_soon() -> None:
    nodes = [directory(f"{number}") for number in range(200)]
    big = [file(f"big-{'x' * 200}{number}") for number in range(3000)]
    image = bytearray(image_of(tree_of([*nodes, *big])))
    entries = {entry.path: entry for entry in ErofsReader(bytes(image)).entries()}
    root = entries[""].ranges[0].offset
    whole_blocks = (entries[""].size // BLOCK_SIZE * BLOCK_SIZE).to_bytes(8, "little")
    for number in range(200):
        at = entries[f"{number}"].ranges[0].offset
        image[at : at + 20] = b"\1" + image[root + 1 : root + 8] + whole_blocks + image[root + 16 : root + 20]
    with pytest.raises(FormatError, match="inodes and directories overlap"):
        list(ErofsReader(bytes(image)).entries())


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    with pytest.raises(FormatError, match="empty"), open_erofs(tmp_path / "image"):
        pass
