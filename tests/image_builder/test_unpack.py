"""Unpacking into the cache: correct, repeatable, and wary of what the cache holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_builder.package_errors import PackageError
from image_builder.package_paths import is_dropped, member_path, merged_path
from image_builder.progress import NoProgress
from image_builder.store import Store, StoreError
from image_builder.tree import read_content
from image_builder.unpack import KIND, unpack, unpack_all
from measurements.errors import KeyturnError
from tests.image_builder.package_files import deb_bytes, device, folder, link, locked, regular, unpacked

MEMBERS = [folder("./"), folder("./usr"), regular("./usr/file", b"content" * 100), link("./usr/link", "file")]


def test_members_contents_and_control_files(tmp_path: Path) -> None:
    deb = deb_bytes(
        "demo", MEMBERS, control={"postinst": b"#!/bin/sh\n"}, fields="Replaces: old (<< 2),\n new\n"
    )
    (package,) = unpacked(tmp_path, {"demo": deb})
    assert [member.path for member in package.members] == ["usr", "usr/file", "usr/link"]
    assert read_content(package.content(package.members[1])) == b"content" * 100
    assert package.control["postinst"] == b"#!/bin/sh\n"
    assert package.control_field("replaces") == "old (<< 2), new"
    assert package.control_field("Breaks") == ""


def test_second_run_gives_the_same_from_the_cache(tmp_path: Path) -> None:
    deb = deb_bytes("demo", MEMBERS)
    first = unpacked(tmp_path, {"demo": deb})
    stamp = first[0].tar.stat().st_mtime_ns
    assert unpacked(tmp_path, {"demo": deb}) == first
    assert first[0].tar.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("victim", ["data.tar", "index.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 3000])
def test_makes_a_damaged_cache_entry_again(tmp_path: Path, victim: str, damage: bytes) -> None:
    deb = deb_bytes("demo", MEMBERS)
    first = unpacked(tmp_path, {"demo": deb})
    (first[0].tar.parent / victim).write_bytes(damage)
    again = unpacked(tmp_path, {"demo": deb})
    assert again == first
    assert read_content(again[0].content(again[0].members[1])) == b"content" * 100


def test_refuses_an_altered_package_even_if_it_is_unpacked_already(tmp_path: Path) -> None:
    store = Store(tmp_path)
    package = locked("demo", deb_bytes("demo", MEMBERS), store)
    unpack(package, store)
    store.path(package.sha256).chmod(0o644)
    store.path(package.sha256).write_bytes(b"altered")
    with pytest.raises(StoreError, match=f"demo 1: .*altered: expected SHA-256 {package.sha256}"):
        unpack(package, store)


def test_an_absent_package_names_the_remedy(tmp_path: Path) -> None:
    package = locked("demo", deb_bytes("demo", MEMBERS), Store(tmp_path / "other"))
    with pytest.raises(StoreError) as caught:
        unpack_all([package], Store(tmp_path / "store"), jobs=1, progress=NoProgress())
    assert "keyturn fetch" in caught.value.advice


def test_a_damaged_package_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    with pytest.raises(KeyturnError):
        unpacked(tmp_path, {"demo": deb_bytes("demo", [regular("../evil")])})
    assert list((tmp_path / "derived" / KIND).iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("./../etc/passwd", r"\.\."),
        ("./usr/../../etc/passwd", r"\.\."),
        ("..", r"\.\."),
        ("./usr//file", "plain form"),
        ("./usr/./file", "plain form"),
    ],
)
@pytest.mark.parametrize("kind", [regular, folder, device])
def test_refuses_paths_that_leave_the_image(tmp_path: Path, kind: object, name: str, reason: str) -> None:
    assert callable(kind)
    with pytest.raises(PackageError, match=reason) as caught:
        unpacked(tmp_path, {"demo": deb_bytes("demo", [kind(name)])})
    assert caught.value.subject.startswith("demo 1: ")


def test_refuses_hard_links_that_leave_the_image(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"\.\."):
        unpacked(tmp_path, {"demo": deb_bytes("demo", [link("./a", "../../etc/shadow", hard=True)])})


def test_paths() -> None:
    assert member_path("./usr/bin/", package="demo") == "usr/bin"
    assert member_path("./", package="demo") == ""
    assert merged_path("lib/x/y") == "usr/lib/x/y"
    assert merged_path("lib") == "lib"
    assert merged_path("libexec/x") == "libexec/x"
    assert is_dropped("usr/share/man/man1/x.1.gz")
    assert is_dropped("usr/share/doc/demo/changelog.gz")
    assert not is_dropped("usr/share/doc/demo/copyright")
    assert not is_dropped("usr/share/doc/demo")
    assert not is_dropped("usr/share/manual")
