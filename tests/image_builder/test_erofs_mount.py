"""The kernel's own EROFS reads our images: needs the right to mount, and skips without it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_builder.erofs import write_erofs
from image_builder.erofs_format import MODE_TYPES
from image_builder.erofs_reader import open_erofs
from image_builder.tree import BytesContent, Kind, Node, Tree, raw_name
from tests.image_builder.erofs_trees import CAPABILITY, varied_tree
from tests.support.tools import require_tool


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """Where the varied tree is mounted, as a raw path."""
    mount, umount = (require_tool(name, package="mount") for name in ("mount", "umount"))
    folder = tmp_path_factory.mktemp("erofs")
    with (folder / "image").open("wb") as stream:
        write_erofs(varied_tree(), stream)
    (folder / "root").mkdir()
    command = [mount, "-t", "erofs", "-o", "loop,ro", str(folder / "image"), str(folder / "root")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"an EROFS image cannot be mounted here: {done.stderr.strip()}")
    try:
        yield os.fsencode(folder / "root")
    finally:
        subprocess.run([umount, str(folder / "root")], check=True)


def found_below(root: bytes) -> set[bytes]:
    """Relative raw paths of everything below ``root``, the root itself included."""
    found = {b""}
    for folder, folders, files in os.walk(root):
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in (*folders, *files)}
    return found


def test_kernel_sees_every_node_as_it_is_in_the_tree(mounted: bytes) -> None:
    tree = varied_tree()
    assert found_below(mounted) == {raw_name(path) for path in tree}
    for path, node in tree.items():
        check(os.path.join(mounted, raw_name(path)) if path else mounted, node, tree)


def check(path: bytes, node: Node, tree: Tree) -> None:
    """The node as the kernel shows it."""
    found = os.lstat(path)
    assert found.st_mode == MODE_TYPES[node.kind] | node.mode
    assert (found.st_uid, found.st_gid) == (node.uid, node.gid)
    assert found.st_mtime_ns == 0
    if node.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == node.device
    if node.kind is Kind.DIRECTORY:
        inside = [each for each in tree.values() if each.path and each.parent == node.path]
        assert found.st_nlink == 2 + sum(each.kind is Kind.DIRECTORY for each in inside)
    if node.kind is Kind.SYMLINK:
        assert os.readlink(path) == raw_name(node.target)
    if isinstance(node.content, BytesContent):
        assert stat.S_ISREG(found.st_mode)
        with open(path, "rb") as stream:
            assert stream.read() == node.content.data


def test_kernel_sees_capabilities_and_user_attributes(mounted: bytes) -> None:
    ping = os.path.join(mounted, b"ping")
    assert os.getxattr(ping, "security.capability") == CAPABILITY
    assert os.getxattr(ping, "user.note") == b"x" * 1001
    assert os.getxattr(os.path.join(mounted, b"acl"), "trusted.t") == b""


def test_attributes_of_mkfs_are_read(tmp_path: Path) -> None:
    mkfs = require_tool("mkfs.erofs", package="erofs-utils")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"1")
    try:
        os.setxattr(source / "file", "user.note", b"abc")
        os.setxattr(source / "file", "user.empty", b"")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error.strerror}")
    subprocess.run([mkfs, "-x", "1000", tmp_path / "image", source], capture_output=True, check=True)
    with open_erofs(tmp_path / "image") as reader:
        (entry,) = (entry for entry in reader.entries() if entry.path == "file")
    assert {("user.empty", b""), ("user.note", b"abc")} <= set(entry.xattrs)
