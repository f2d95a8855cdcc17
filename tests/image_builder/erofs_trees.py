"""Trees for the tests of the EROFS writer and reader."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hypothesis import strategies as st

from image_builder.tree import BytesContent, Kind, Node, Tree

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""``cap_net_raw+ep`` as the kernel stores it (``struct vfs_cap_data``, revision 2)."""


def tree_of(nodes: Iterable[Node]) -> Tree:
    """A tree with the root directory and ``nodes``."""
    root = directory("")
    return {node.path: node for node in (root, *nodes)}


def directory(path: str, *, mode: int = 0o755) -> Node:
    """A directory."""
    return Node(path=path, kind=Kind.DIRECTORY, mode=mode)


def file(path: str, data: bytes = b"", *, xattrs: tuple[tuple[str, bytes], ...] = ()) -> Node:
    """A regular file."""
    return Node(path=path, kind=Kind.FILE, mode=0o644, content=BytesContent(data), xattrs=xattrs)


def symlink(path: str, target: str) -> Node:
    """A symbolic link."""
    return Node(path=path, kind=Kind.SYMLINK, mode=0o777, target=target)


def noise(size: int) -> bytes:
    """``size`` bytes that are always the same."""
    return random.Random(size).randbytes(size)


BOUNDARY_SIZES = (0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 8127, 8128, 8129, 8191, 8192, 8193, 1 << 20)
"""File sizes around a block and around the 4032 bytes that fit behind an inode."""


def varied_tree() -> Tree:
    """One of everything that the format has to hold."""
    many = [file(f"many/{'n' * (number % 200)}{number}") for number in range(700)]
    sizes = [file(f"sizes/{size}", noise(size)) for size in BOUNDARY_SIZES]
    return tree_of(
        [
            directory("many"),
            directory("sizes", mode=0o1777),
            directory("sizes/deep"),
            directory("sizes/deep/deeper", mode=0o700),
            *many,
            *sizes,
            file("-sorts-before-dot", b"-"),
            file("many/" + "x" * 255, b"long name"),
            file("many/not-utf-8-\udcff\udc80", b"raw"),
            file("many/Grüße", b"utf-8"),
            symlink("lib", "usr/lib"),
            symlink("sizes/longest-target", "t" * 4095),
            symlink("sizes/fills-block", "t" * 4032),
            Node(path="null", kind=Kind.CHARACTER_DEVICE, mode=0o666, device=(1, 3)),
            Node(path="disk", kind=Kind.BLOCK_DEVICE, mode=0o660, gid=6, device=(259, 70000)),
            Node(path="fifo", kind=Kind.FIFO, mode=0o600, uid=4_000_000_000, gid=65534),
            file("ping", b"ELF", xattrs=(("security.capability", CAPABILITY), ("user.note", b"x" * 1001))),
            file(
                "acl",
                noise(5000),
                xattrs=(("system.posix_acl_access", b"\2\0\0\0"), ("trusted.t", b""), ("user.u", b"1")),
            ),
        ]
    )


_NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0")
    | st.sampled_from(["\udc80", "\udcff", "-", ".", " "]),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", ".."))
_XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.bb", "trusted.c", "security.capability", "system.posix_acl_default"]),
    st.binary(max_size=200),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))
_OWNERS = st.integers(0, (1 << 32) - 1)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Random trees of up to 31 nodes, in random insertion order."""
    nodes = {"": directory("")}
    folders = [""]
    for _ in range(draw(st.integers(0, 30))):
        parent = draw(st.sampled_from(folders))
        name = draw(_NAMES)
        path = f"{parent}/{name}" if parent else name
        if path in nodes:
            continue
        nodes[path] = draw(_nodes(path))
        if nodes[path].kind is Kind.DIRECTORY:
            folders.append(path)
    return dict(draw(st.permutations(sorted(nodes.items()))))


@st.composite
def _nodes(draw: st.DrawFn, path: str) -> Node:
    kind = draw(st.sampled_from(Kind))
    is_device = kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
    return Node(
        path=path,
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(_OWNERS),
        gid=draw(_OWNERS),
        content=BytesContent(noise(draw(st.integers(0, 9000)))) if kind is Kind.FILE else None,
        target=draw(_NAMES) if kind is Kind.SYMLINK else "",
        device=draw(st.tuples(st.integers(0, 4095), st.integers(0, (1 << 20) - 1))) if is_device else (0, 0),
        xattrs=draw(_XATTRS),
    )
