"""Layers: what they make together, and what no layer may do."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_builder.oci_image import Compression, OciError
from image_builder.oci_layers import LayerBlob, apply_layers
from image_builder.tree import Kind, Tree, read_content
from measurements.errors import KeyturnError
from tests.support.oci_images import folder, hard_link, member, packed, symlink, tar_bytes

Members = Sequence[tuple[tarfile.TarInfo, bytes]]
LIMIT = 64 << 20


def blob(tmp_path: Path, tar: bytes, compression: Compression = Compression.NONE) -> LayerBlob:
    name = hashlib.sha256(tar).hexdigest()
    path = tmp_path / f"{name}.{compression.value}"
    path.write_bytes(packed(tar, "" if compression is Compression.NONE else compression.value))
    return LayerBlob(path=path, compression=compression, diff_sha256=name)


def applied(tmp_path: Path, *layers: Members, limit: int = LIMIT) -> Tree:
    blobs = [blob(tmp_path, tar_bytes(layer)) for layer in layers]
    return apply_layers(blobs, cache=tmp_path / "cache", limit=limit)


def text(tree: Tree, path: str) -> bytes:
    content = tree[path].content
    assert content is not None
    return read_content(content)


def test_upper_layers_win(tmp_path: Path) -> None:
    tree = applied(
        tmp_path,
        [folder("etc"), member("etc/a", b"lower"), member("etc/b", b"kept", uid=5, gid=6, mode=0o4755)],
        [folder("etc", 0o700), member("etc/a", b"upper")],
    )
    assert text(tree, "etc/a") == b"upper"
    assert text(tree, "etc/b") == b"kept"
    assert tree["etc"].mode == 0o700
    assert (tree["etc/b"].uid, tree["etc/b"].gid, tree["etc/b"].mode) == (5, 6, 0o4755)


@pytest.mark.parametrize("compression", list(Compression))
def test_compressions(tmp_path: Path, compression: Compression) -> None:
    tar = tar_bytes([member("./a", b"x" * 5000)])
    tree = apply_layers([blob(tmp_path, tar, compression)], cache=tmp_path / "cache", limit=LIMIT)
    assert text(tree, "a") == b"x" * 5000


@pytest.mark.parametrize("order", [1, -1])
def test_whiteouts_hide_lower_layers_only(tmp_path: Path, order: int) -> None:
    upper = [member("d/.wh.a"), member("d/.wh.sub"), member("d/sub/new", b"n")]
    tree = applied(
        tmp_path,
        [folder("d"), member("d/a"), member("d/b"), folder("d/sub"), member("d/sub/old")],
        upper[::order],
    )
    assert sorted(tree) == ["", "d", "d/b", "d/sub", "d/sub/new"]


@pytest.mark.parametrize("order", [1, -1])
def test_opaque_folders_hide_lower_layers_only(tmp_path: Path, order: int) -> None:
    upper = [folder("d"), member("d/.wh..wh..opq"), member("d/new")]
    tree = applied(tmp_path, [member("d/a"), member("d/sub/b"), member("other")], upper[::order])
    assert sorted(tree) == ["", "d", "d/new", "other"]


def test_a_file_replaces_a_folder_and_the_other_way_round(tmp_path: Path) -> None:
    tree = applied(tmp_path, [member("a/x"), member("b")], [member("a", b"file"), member("b/y")][:1])
    assert sorted(tree) == ["", "a", "b"]
    tree = applied(tmp_path, [member("b")], [folder("b"), member("b/y")])
    assert sorted(tree) == ["", "b", "b/y"]


def test_hard_links_reach_this_and_lower_layers(tmp_path: Path) -> None:
    tree = applied(
        tmp_path,
        [member("a", b"lower")],
        [hard_link("b", "a"), member("c", b"own"), hard_link("d", "./c")],
    )
    assert text(tree, "b") == b"lower"
    assert text(tree, "d") == b"own"


@pytest.mark.parametrize("name", ["../etc/passwd", "a/../../b", "/etc/passwd", "a//b", "a/./b", ".."])
def test_attack_path_traversal(tmp_path: Path, name: str) -> None:
    with pytest.raises(OciError, match="path"):
        applied(tmp_path, [member(name)])


def test_attack_symlink_escape(tmp_path: Path) -> None:
    with pytest.raises(OciError, match="below /link, which is a symlink"):
        applied(tmp_path, [symlink("link", "/etc"), member("link/passwd", b"x")])
    with pytest.raises(OciError, match="below /link, which is a symlink"):
        applied(tmp_path, [symlink("link", "../..")], [member("link/passwd", b"x")])


def test_a_layer_may_replace_a_link_by_a_folder(tmp_path: Path) -> None:
    tree = applied(tmp_path, [symlink("link", "/etc")], [folder("link"), member("link/passwd", b"x")])
    assert tree["link"].kind is Kind.DIRECTORY


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "d/.wh...", ".wh..wh.plnk", "../.wh.a"])
def test_attack_whiteout_escape(tmp_path: Path, name: str) -> None:
    with pytest.raises(OciError):
        applied(tmp_path, [member("a"), member("d/a")], [member(name)])


def test_attack_whiteout_through_a_symlink_hides_nothing(tmp_path: Path) -> None:
    tree = applied(tmp_path, [member("etc/a"), symlink("link", "etc")], [member("link/.wh.a")])
    assert "etc/a" in tree


@pytest.mark.parametrize("target", ["../../etc/shadow", "/etc/shadow", "missing", "link/a", "d", "later"])
def test_attack_hard_link_escape(tmp_path: Path, target: str) -> None:
    with pytest.raises(OciError):
        applied(
            tmp_path,
            [member("d/a"), symlink("link", "d"), folder("d"), hard_link("bad", target), member("later")],
        )


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_attack_device_node(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(OciError, match="device"):
        applied(tmp_path, [member("dev/mem", type=kind, devmajor=1, devminor=1)])


def test_attack_overlay_attribute(tmp_path: Path) -> None:
    headers = {"SCHILY.xattr.trusted.overlay.opaque": "y"}
    with pytest.raises(OciError, match="attribute"):
        applied(tmp_path, [member("a", pax_headers=headers)])


def test_capabilities_are_kept_and_labels_dropped(tmp_path: Path) -> None:
    headers = {"SCHILY.xattr.security.capability": "abc", "SCHILY.xattr.security.selinux": "label"}
    tree = applied(tmp_path, [member("a", pax_headers=headers)])
    assert tree["a"].xattrs == (("security.capability", b"abc"),)


def test_attack_name_given_twice(tmp_path: Path) -> None:
    with pytest.raises(OciError, match="twice"):
        applied(tmp_path, [member("a", b"good"), member("./a", b"evil")])


def test_attack_root_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OciError, match="root"):
        applied(tmp_path, [symlink("./", "/etc")])


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_attack_decompression_bomb(tmp_path: Path, compression: Compression) -> None:
    bomb = blob(tmp_path, bytes(32 << 20), compression)
    assert bomb.path.stat().st_size < 1 << 20
    with pytest.raises(OciError, match="more than"):
        apply_layers([bomb], cache=tmp_path / "cache", limit=8 << 20)
    assert list((tmp_path / "cache").iterdir()) == []


def test_attack_many_layers_that_are_large_together(tmp_path: Path) -> None:
    with pytest.raises(OciError, match="more than"):
        applied(tmp_path, [member("a", bytes(1 << 20))], [member("b", b"x" * (1 << 20))], limit=1536 << 10)


def test_attack_huge_header(tmp_path: Path) -> None:
    with pytest.raises(OciError, match="header"):
        applied(tmp_path, [member("a", pax_headers={"comment": "x" * (2 << 20)})])


def test_attack_wrong_diff_id(tmp_path: Path) -> None:
    good = blob(tmp_path, tar_bytes([member("a")]), Compression.GZIP)
    bad = LayerBlob(path=good.path, compression=good.compression, diff_sha256="00" * 32)
    with pytest.raises(OciError, match="SHA-256"):
        apply_layers([bad], cache=tmp_path / "cache", limit=LIMIT)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_damaged_compression_is_refused(tmp_path: Path, compression: Compression) -> None:
    good = blob(tmp_path, tar_bytes([member("a", b"x" * 100)]), compression)
    good.path.write_bytes(good.path.read_bytes()[:-9])
    with pytest.raises(OciError):
        apply_layers([good], cache=tmp_path / "cache", limit=LIMIT)


def test_attack_altered_cache_is_not_used(tmp_path: Path) -> None:
    layer = blob(tmp_path, tar_bytes([member("a", b"good")]))
    cache = tmp_path / "cache"
    apply_layers([layer], cache=cache, limit=LIMIT)
    (kept,) = cache.iterdir()
    kept.write_bytes(tar_bytes([member("a", b"evil")]))
    assert text(apply_layers([layer], cache=cache, limit=LIMIT), "a") == b"good"


NAMES = st.sampled_from(
    ["a", "b", "a/b", "a/c", "a/b/c", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", "../a", "b/a"]
)
MEMBERS = st.one_of(
    NAMES.map(lambda name: member(name, name.encode())),
    NAMES.map(folder),
    st.tuples(NAMES, NAMES).map(lambda pair: symlink(*pair)),
    st.tuples(NAMES, NAMES).map(lambda pair: hard_link(*pair)),
)


@given(st.lists(st.lists(MEMBERS, max_size=6), min_size=1, max_size=3))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_layers_make_a_sound_tree_or_are_refused(tmp_path: Path, layers: list[Members]) -> None:
    try:
        tree = applied(tmp_path, *layers)
    except OciError:
        return
    for path, node in tree.items():
        assert node.path == path
        assert not {"..", "."} & set(path.split("/"))
        assert not node.path.rpartition("/")[2].startswith(".wh.")
        if path:
            assert tree[node.parent].kind is Kind.DIRECTORY


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_of_a_tar_is_an_error_of_ours(tmp_path: Path, data: st.DataObject) -> None:
    tar = bytearray(tar_bytes([member("a", b"x", pax_headers={"comment": "y"}), symlink("b", "a")]))
    for _ in range(data.draw(st.integers(1, 4))):
        tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(KeyturnError):
        apply_layers([blob(tmp_path, bytes(tar))], cache=tmp_path / "cache", limit=LIMIT)
