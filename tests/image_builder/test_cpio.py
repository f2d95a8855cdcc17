"""cpio archives against GNU cpio, and archives that are not right."""

from __future__ import annotations

import io
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.cpio import CpioEntry, CpioError, cpio_bytes, read_cpio, write_cpio
from image_builder.tree import BytesContent, FileSlice, Kind, Node, Tree
from measurements.errors import FormatError
from tests.support.tools import require_tool

HEADER = 110


def tree_of(*nodes: Node) -> Tree:
    """The tree with ``nodes``."""
    return {node.path: node for node in nodes}


def directory(path: str, mode: int = 0o755) -> Node:
    return Node(path=path, kind=Kind.DIRECTORY, mode=mode)


def file(path: str, data: bytes, mode: int = 0o644) -> Node:
    return Node(path=path, kind=Kind.FILE, mode=mode, content=BytesContent(data))


def sample() -> Tree:
    """A tree with every kind of node, whose order by string differs from that by path component."""
    return tree_of(
        directory(""),
        directory("dev"),
        Node(path="dev/console", kind=Kind.CHARACTER_DEVICE, mode=0o600, device=(5, 1)),
        Node(path="dev/vda", kind=Kind.BLOCK_DEVICE, mode=0o660, device=(254, 0), gid=6),
        Node(path="dev/pipe", kind=Kind.FIFO, mode=0o600),
        directory("bin", 0o1777),
        file("bin/sh", b"#!", 0o4755),
        file("bin-x", b"before the children of bin"),
        Node(path="init", kind=Kind.SYMLINK, mode=0o777, target="bin/sh"),
        file("empty", b""),
        file("größe", b"12345"),
        Node(path="raw\udcff", kind=Kind.FILE, mode=0o644, content=BytesContent(b"x"), uid=1000, gid=1000),
    )


def test_gnu_cpio_lists_every_member() -> None:
    cpio = require_tool("cpio", package="cpio")
    command = [cpio, "--list", "--quiet"]
    listing = subprocess.run(command, input=cpio_bytes(sample()), check=True, capture_output=True)
    names = sorted(os.fsencode(path) for path in sample() if path)
    assert listing.stderr == b""
    assert listing.stdout == b"".join(name + b"\n" for name in names)


def test_gnu_cpio_unpacks_the_same_tree(tmp_path: Path) -> None:
    cpio = require_tool("cpio", package="cpio")
    tree = {path: node for path, node in sample().items() if "DEVICE" not in node.kind.name}
    command = [cpio, "--extract", "--quiet", "--no-preserve-owner"]
    unpacked = subprocess.run(command, input=cpio_bytes(tree), cwd=tmp_path, check=True, capture_output=True)
    assert unpacked.stderr == b""
    for path, node in tree.items():
        found = tmp_path / path
        if not path:
            continue
        assert stat.S_IMODE(found.lstat().st_mode) == node.mode
        if isinstance(node.content, BytesContent):
            assert found.read_bytes() == node.content.data
        elif node.kind is Kind.SYMLINK:
            assert str(found.readlink()) == node.target
        else:
            assert found.is_dir() or found.is_fifo()


def test_reader_gives_back_what_was_written() -> None:
    data = cpio_bytes(sample())
    entries = list(read_cpio(data))
    tree = {os.fsencode(path): node for path, node in sample().items() if path}
    assert [entry.name for entry in entries] == sorted(tree)
    assert [entry.inode for entry in entries] == list(range(1, len(entries) + 1))
    for entry in entries:
        node = tree[entry.name]
        assert stat.S_IMODE(entry.mode) == node.mode
        assert (entry.uid, entry.gid, entry.mtime, entry.device) == (node.uid, node.gid, 0, node.device)
        assert entry.nlink == (2 if stat.S_ISDIR(entry.mode) else 1)
        expected = node.content.data if isinstance(node.content, BytesContent) else os.fsencode(node.target)
        assert data[entry.offset : entry.offset + entry.size] == expected


def test_exact_bytes_of_a_small_archive() -> None:
    fields = "00000001 000081a4 00000000 00000000 00000001 00000000 00000003"
    rest = "00000000 00000000 00000000 00000000 00000002 00000000"
    member = b"070701" + f"{fields} {rest}".replace(" ", "").encode() + b"a\0" + b"abc\0"
    zeros = "00000000 " * 4 + "00000001 " + "00000000 " * 6 + "0000000b 00000000"
    trailer = b"070701" + zeros.replace(" ", "").encode() + b"TRAILER!!!\0" + bytes(3)
    assert cpio_bytes(tree_of(file("a", b"abc"))) == (member + trailer).ljust(512, b"\0")


def test_order_of_the_tree_makes_no_difference() -> None:
    assert cpio_bytes(dict(reversed(sample().items()))) == cpio_bytes(sample())


def test_parents_come_before_children() -> None:
    seen: set[bytes] = set()
    for entry in read_cpio(cpio_bytes(sample())):
        parent = entry.name.rpartition(b"/")[0]
        assert not parent or parent in seen
        seen.add(entry.name)


def test_length_is_reported_and_a_multiple_of_512(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"0123456789")
    content = FileSlice(path=path, offset=2, size=5)
    stream = io.BytesIO()
    length = write_cpio(tree_of(Node(path="a", kind=Kind.FILE, mode=0o644, content=content)), stream)
    assert length == len(stream.getvalue())
    assert length % 512 == 0
    assert b"23456" in stream.getvalue()


def test_longest_name_is_taken() -> None:
    data = cpio_bytes(tree_of(file("x" * 4095, b"end")))
    assert [entry.name for entry in read_cpio(data)] == [b"x" * 4095]


class LyingContent:
    """Content that has fewer bytes than it says."""

    size = 10

    def chunks(self) -> Iterator[bytes]:
        yield b"short"


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (file("no/parent", b""), "no parent directory"),
        (file("TRAILER!!!", b""), "cannot hold"),
        (file("a\0b", b""), "cannot hold"),
        (file("x" * 4096, b""), "cannot hold"),
        (replace(file("a", b""), xattrs=(("security.capability", b"x"),)), "extended attributes"),
        (
            replace(file("a", b""), content=FileSlice(path=Path("x"), offset=0, size=1 << 32)),
            "less than 4 GiB",
        ),
        (replace(file("a", b""), content=LyingContent()), "gave 5 bytes, not its 10"),
    ],
)
def test_what_cpio_cannot_hold_is_refused(node: Node, reason: str) -> None:
    with pytest.raises(CpioError, match=reason):
        cpio_bytes(tree_of(node))


def test_child_of_a_file_is_refused() -> None:
    with pytest.raises(CpioError, match="no parent directory"):
        cpio_bytes(tree_of(file("a", b""), file("a/b", b"")))


def changed(at: int, value: bytes) -> bytes:
    """The small archive with ``value`` at ``at``."""
    data = bytearray(cpio_bytes(tree_of(file("a", b"abc"))))
    data[at : at + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no member header at byte 0"),
        (changed(0, b"070702"), "no member header at byte 0"),
        (changed(6, b"0x000001"), "not hexadecimal"),
        (changed(6, b"+0000001"), "not hexadecimal"),
        (changed(6, b" 1_00000"), "not hexadecimal"),
        (changed(6 + 8 * 6, b"ffffffff"), "ends inside a member"),
        (changed(6 + 8 * 11, b"ffffffff"), "bad member name"),
        (changed(6 + 8 * 11, b"00000000"), "bad member name"),
        (changed(6 + 8 * 11, b"00000001" + b"00000000" + b"\0\0"), "bad member name"),
        (changed(HEADER + 1, b"b"), "bad member name"),
        (changed(HEADER, b"\0"), "bad member name"),
        (changed(HEADER + 2 + 3, b"x"), "not zero in the padding"),
        (changed(511, b"x"), "not zero in the padding"),
        (cpio_bytes({})[:100], "no member header"),
        (cpio_bytes(tree_of(file("a", b"abc")))[: HEADER + 6], "no member header"),
        (changed(116 + 6 + 8 * 6, b"00000001"), "ends inside a member|its trailer has data"),
    ],
)
def test_archives_that_are_not_right_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        list(read_cpio(data))


def consume(data: bytes) -> list[CpioEntry]:
    """The members, or none where the reader refuses the archive."""
    entries: list[CpioEntry] = []
    with suppress(FormatError):
        entries.extend(read_cpio(data))
    return entries


@given(st.binary(max_size=600))
def test_garbage_gives_only_format_errors(data: bytes) -> None:
    consume(data)
    consume(b"070701" + data)


@settings(max_examples=200)
@given(st.integers(0, 511), st.binary(min_size=1, max_size=8))
def test_changed_archives_give_only_format_errors(at: int, value: bytes) -> None:
    consume(changed(at, value))


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(
    st.dictionaries(names.filter(lambda name: name not in {".", ".."}), st.binary(max_size=20), max_size=8)
)
def test_any_files_come_back(files: dict[str, bytes]) -> None:
    data = cpio_bytes(tree_of(*(file(name, content) for name, content in files.items())))
    found = {os.fsdecode(e.name): data[e.offset : e.offset + e.size] for e in read_cpio(data)}
    assert found == files
