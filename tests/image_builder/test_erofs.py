"""The EROFS writer, checked by erofs-utils and by bad input."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.erofs import ContentError, ErofsSummary, write_erofs
from image_builder.erofs_format import BLOCK_SIZE
from image_builder.erofs_layout import TreeError
from image_builder.erofs_xattr import XattrError
from image_builder.tree import BytesContent, FileSlice, Kind, Node, Tree
from tests.image_builder.erofs_trees import (
    BOUNDARY_SIZES,
    directory,
    file,
    noise,
    symlink,
    tree_of,
    trees,
    varied_tree,
)
from tests.support.tools import require_tool


def image_of(tree: Tree) -> bytes:
    """The image of ``tree``."""
    stream = io.BytesIO()
    write_erofs(tree, stream)
    return stream.getvalue()


@pytest.fixture
def varied_image(tmp_path: Path) -> Path:
    """An image with one of everything."""
    path = tmp_path / "varied.erofs"
    path.write_bytes(image_of(varied_tree()))
    return path


def test_fsck_accepts_an_image_with_everything(varied_image: Path) -> None:
    fsck = require_tool("fsck.erofs", package="erofs-utils")
    run = subprocess.run([fsck, "-d9", varied_image], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "No errors found" in run.stdout + run.stderr


def test_fsck_extracts_the_same_files(varied_image: Path, tmp_path: Path) -> None:
    fsck = require_tool("fsck.erofs", package="erofs-utils")
    wanted = {
        path: node
        for path, node in varied_tree().items()
        if node.kind in (Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK)
    }
    out = tmp_path / "out"
    subprocess.run(
        [fsck, f"--extract={out}", "--no-preserve-owner", varied_image], capture_output=True, check=True
    )
    for path, node in wanted.items():
        extracted = os.path.join(os.fsencode(out), path.encode("utf-8", "surrogateescape"))
        if isinstance(node.content, BytesContent):
            assert Path(os.fsdecode(extracted)).read_bytes() == node.content.data
        elif node.kind is Kind.SYMLINK:
            assert os.readlink(extracted) == node.target.encode()
        else:
            assert os.path.isdir(extracted)


def test_dump_shows_superblock_and_inode(varied_image: Path) -> None:
    dump = require_tool("dump.erofs", package="erofs-utils")
    superblock = subprocess.run([dump, varied_image], capture_output=True, text=True, check=True).stdout
    assert f"Filesystem inode count:                       {len(varied_tree())}" in superblock
    assert "00000000-0000-0000-0000-000000000000" in superblock
    assert "Thu Jan  1 00:00:00 1970" in superblock
    inode = subprocess.run(
        [dump, "--path=/ping", varied_image], capture_output=True, text=True, check=True
    ).stdout
    assert "Inode size: 64" in inode
    assert "Layout: 2" in inode
    root = subprocess.run(
        [dump, "--path=/sizes", varied_image], capture_output=True, text=True, check=True
    ).stdout
    assert "Links: 3 " in root


@settings(max_examples=15, deadline=None)
@given(trees())
def test_fsck_accepts_random_trees(tree: Tree) -> None:
    fsck = require_tool("fsck.erofs", package="erofs-utils")
    with tempfile.NamedTemporaryFile() as image:
        write_erofs(tree, image)
        # fsck.erofs 1.5 reads 12 bytes behind every inode, even behind one without xattrs that ends the image
        image.write(bytes(BLOCK_SIZE))
        image.flush()
        run = subprocess.run([fsck, image.name], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@settings(max_examples=30, deadline=None)
@given(trees(), st.data())
def test_insertion_order_does_not_matter(tree: Tree, data: st.DataObject) -> None:
    names = data.draw(st.permutations(sorted(tree)))
    assert image_of({name: tree[name] for name in names}) == image_of(tree)


def test_where_a_node_comes_from_does_not_matter() -> None:
    tree = tree_of([file("a", b"1")])
    other = {path: replace(node, origin="elsewhere") for path, node in tree.items()}
    assert image_of(other) == image_of(tree)


def test_slices_of_an_archive_give_the_same_image_as_bytes(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(b"".join(noise(size) for size in BOUNDARY_SIZES))
    sliced, plain, offset = [], [], 0
    for size in BOUNDARY_SIZES:
        plain.append(file(str(size), noise(size)))
        content = FileSlice(path=archive, offset=offset, size=size)
        sliced.append(replace(plain[-1], content=content))
        offset += size
    assert image_of(tree_of(sliced)) == image_of(tree_of(plain))


def test_many_archives_do_not_run_out_of_open_files(tmp_path: Path) -> None:
    nodes = []
    for number in range(200):
        (tmp_path / str(number)).write_bytes(noise(number))
        content = FileSlice(path=tmp_path / str(number), offset=0, size=number)
        nodes.append(replace(file(str(number)), content=content))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert image_of(tree_of(nodes)) == image_of(tree_of([file(str(n), noise(n)) for n in range(200)]))
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_summary_tells_the_size(size: int) -> None:
    stream = io.BytesIO()
    summary = write_erofs(tree_of([file("f", noise(size))]), stream)
    assert summary == ErofsSummary(
        blocks=len(stream.getvalue()) // BLOCK_SIZE, bytes=len(stream.getvalue()), inodes=2
    )


def test_metadata_are_packed_tightly() -> None:
    small = [file(f"{number}", noise(1000 + 7 * number)) for number in range(400)]
    content = sum(node.content.size + 64 for node in small if node.content)
    assert len(image_of(tree_of(small))) < content * 1.2


@dataclass(frozen=True)
class Generated:
    """Content of ``size`` bytes that yields ``actual`` bytes."""

    size: int
    actual: int

    def chunks(self) -> Iterator[bytes]:
        """Zeros."""
        for start in range(0, self.actual, 1 << 20):
            yield bytes(min(1 << 20, self.actual - start))


def node_with(content: Generated | FileSlice) -> Node:
    """A file with ``content``."""
    return replace(file("odd"), content=content)


@pytest.mark.parametrize(("size", "actual"), [(1, 0), (4096, 4097), (4097, 4096), (9000, 8999), (5000, 5001)])
def test_content_of_another_length_is_refused(size: int, actual: int) -> None:
    with pytest.raises(ContentError, match="early" if actual < size else "goes on"):
        image_of(tree_of([node_with(Generated(size, actual))]))


@pytest.mark.parametrize("size", [10, 4096, 10_000])
def test_archive_that_ends_early_is_refused(size: int, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(bytes(size - 1))
    with pytest.raises(ContentError, match="ends 1 bytes early") as caught:
        image_of(tree_of([node_with(FileSlice(path=archive, offset=0, size=size))]))
    assert caught.value.subject == "/odd"


def test_archive_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="No such file"):
        image_of(tree_of([node_with(FileSlice(path=tmp_path / "gone", offset=0, size=1))]))


BAD_TREES = {
    "no root": ({"a": file("a")}, "root directory is missing"),
    "empty": ({}, "root directory is missing"),
    "root is a file": ({"": file("")}, "root is not a directory"),
    "missing parent": (tree_of([file("a/b")]), "parent directory is missing"),
    "parent is a file": (tree_of([file("a"), file("a/b")]), "parent directory is missing"),
    "parent is a link": (tree_of([symlink("a", "b"), file("a/b")]), "parent directory is missing"),
    "dot": (tree_of([directory(".")]), "not a file name"),
    "dot dot": (tree_of([directory("a"), file("a/..")]), "not a file name"),
    "absolute": (tree_of([file("/a")]), "absolute path"),
    "zero byte": (tree_of([file("a\0b")]), "not a file name"),
    "long name": (tree_of([file("ü" * 128)]), "256 bytes"),
    "other key": ({"": directory(""), "b": file("a")}, "says that its path"),
    "mode": (tree_of([replace(file("a"), mode=0o100644)]), "permission bits"),
    "negative uid": (tree_of([replace(file("a"), uid=-1)]), "out of range"),
    "huge gid": (tree_of([replace(file("a"), gid=1 << 32)]), "out of range"),
    "huge device": (
        tree_of([Node(path="a", kind=Kind.BLOCK_DEVICE, mode=0, device=(4096, 0))]),
        "out of range",
    ),
    "no content": (tree_of([replace(file("a"), content=None)]), "content do not go together"),
    "content": (tree_of([replace(directory("a"), content=BytesContent(b""))]), "content do not go together"),
    "empty target": (tree_of([symlink("a", "")]), "link target"),
    "long target": (tree_of([symlink("a", "t" * 4096)]), "link target"),
    "xattrs": (tree_of([file("a", xattrs=(("user.a", bytes(4096)),))]), "extended attributes take"),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_bad_tree_is_refused_before_the_first_byte(name: str) -> None:
    tree, reason = BAD_TREES[name]
    stream = io.BytesIO()
    with pytest.raises(TreeError, match=reason) as caught:
        write_erofs(tree, stream)
    assert caught.value.advice
    assert not stream.getvalue()


@pytest.mark.parametrize(
    ("xattrs", "reason"),
    [
        ((("system.other", b""),), "not of the user"),
        ((("user.", b""),), "not of the user"),
        ((("user.a", b""), ("user.a", b"1")), "given twice"),
        ((("user." + "a" * 256, b""),), "too long"),
        ((("user.a", bytes(65536)),), "too long"),
    ],
)
def test_bad_xattr_is_refused(xattrs: tuple[tuple[str, bytes], ...], reason: str) -> None:
    with pytest.raises(XattrError, match=reason):
        image_of(tree_of([file("a", xattrs=xattrs)]))


def test_image_over_4_gib_has_64_bit_sizes() -> None:
    size = (5 << 30) + 17

    class Count:
        """Counts."""

        def __init__(self) -> None:
            self.head, self.total = b"", 0

        def write(self, data: bytes | memoryview, /) -> None:
            """Keep the first block, count the rest."""
            self.head = self.head or bytes(data)
            self.total += len(data)

    sink = Count()
    repeated = RepeatedZeros(size)
    summary = write_erofs(tree_of([replace(file("f"), content=repeated)]), sink)
    assert sink.total == summary.bytes == size // 4096 * 4096 + 4096
    assert size.to_bytes(8, "little") in sink.head


@dataclass(frozen=True)
class RepeatedZeros:
    """Zeros without making them anew."""

    size: int

    def chunks(self) -> Iterator[bytes]:
        """Zeros in 64 MiB pieces."""
        zeros = bytes(64 << 20)
        for start in range(0, self.size, len(zeros)):
            yield zeros if self.size - start >= len(zeros) else zeros[: self.size - start]


MEMORY_PROGRAM = """
import sys
from pathlib import Path
from image_builder.erofs import write_erofs
from image_builder.tree import FileSlice, Kind, Node
from image_builder.verity import VerityHasher, VerityStream, write_verity
from tests.support.peak_memory import peak_bytes
archive = Path(sys.argv[1])
with archive.open("wb") as stream:
    stream.truncate(1 << 30)
tree = {"": Node(path="", kind=Kind.DIRECTORY, mode=0o755)}
def add(path, offset, size):
    content = FileSlice(path=archive, offset=offset, size=size)
    tree[path] = Node(path=path, kind=Kind.FILE, mode=0o644, content=content)
for number in range(20_000):
    add(str(number), number * 50_000, 50_000)
add("big", 0, 70 << 20)
hasher = VerityHasher()
with open("/dev/null", "wb") as sink:
    summary = write_erofs(tree, VerityStream(sink, hasher))
    write_verity(hasher.finish(), sink)
print(summary.bytes, peak_bytes())
"""


def test_a_1_gb_root_takes_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY_PROGRAM, str(tmp_path / "archive")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    written, peak = map(int, run.stdout.split())
    assert written > 1 << 30
    assert peak < 100 << 20
