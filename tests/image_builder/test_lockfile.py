"""The lock file: one form of writing, strict reading."""

from __future__ import annotations

import random
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_builder.lock_diff import ChangeKind, diff_locks
from image_builder.lockfile import (
    Lock,
    LockedFile,
    LockedPackage,
    LockedSuite,
    LockedWheel,
    LockError,
    PackageRole,
    check_lock,
    lock_bytes,
    parse_lock,
    read_lock,
)

HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,12}", fullmatch=True)
VERSIONS = st.from_regex(r"([0-9]:)?[0-9][0-9a-z.+~]{0,8}(-[0-9a-z.+~]{1,5})?", fullmatch=True)
PACKAGES = st.builds(
    LockedPackage,
    name=NAMES,
    version=VERSIONS,
    architecture=st.sampled_from(["amd64", "all"]),
    role=st.sampled_from(PackageRole),
    size=st.integers(0, 1 << 40),
    sha256=HASHES,
    path=st.just("pool/main/a/a/a_1_amd64.deb"),
    suite=st.just("trixie"),
    source=NAMES,
    source_version=VERSIONS,
)
FILES = st.builds(
    LockedFile,
    path=st.just("/etc/motd"),
    source=st.just("files/motd"),
    size=st.integers(0, 1 << 40),
    sha256=HASHES,
    mode=st.integers(0, 0o7777),
    owner=st.just("root"),
    group=st.just("tty"),
)


def package(name: str = "libc6", version: str = "2.41-12", **changes: Any) -> LockedPackage:
    values: dict[str, Any] = {
        "name": name,
        "version": version,
        "architecture": "amd64",
        "role": PackageRole.ROOT,
        "size": 5,
        "sha256": "ab" * 32,
        "path": f"pool/main/{name}.deb",
        "suite": "trixie",
        "source": "glibc",
        "source_version": version,
    }
    return LockedPackage(**{**values, **changes})


def lock(*packages: LockedPackage) -> Lock:
    return Lock(
        architecture="amd64",
        recipe_sha256="0" * 64,
        request_sha256="1" * 64,
        suites=(
            LockedSuite(
                suite="trixie",
                archive="debian",
                component="main",
                release_sha256="2" * 64,
                index_path="main/binary-amd64/Packages",
                index_sha256="3" * 64,
            ),
        ),
        packages=packages,
        wheels=(
            LockedWheel(name="x", version="1", filename="x-1-py3-none-any.whl", size=1, sha256="4" * 64),
        ),
    )


@given(packages=st.lists(PACKAGES, max_size=4, unique_by=lambda each: (each.name, each.role)), file=FILES)
def test_what_is_written_is_read(packages: list[LockedPackage], file: LockedFile) -> None:
    written = replace(
        lock(*sorted(packages, key=lambda each: (each.name, each.role))), files=(file,), agent=(file,)
    )
    assert parse_lock(lock_bytes(written)) == written


def test_order_does_not_matter() -> None:
    packages = [package(name) for name in ("zlib1g", "libc6", "busybox", "apt")]
    expected = lock_bytes(lock(*packages))
    for seed in range(5):
        random.Random(seed).shuffle(packages)
        assert lock_bytes(lock(*packages)) == expected


def test_every_entry_is_a_block_of_lines() -> None:
    text = lock_bytes(lock(package())).decode()
    assert '[[package]]\nname = "libc6"\n' in text
    assert len(text.splitlines()) > 20


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 1", "version = 2", "lock version 2"),
        ('architecture = "amd64"\nrecipe', "recipe", "architecture"),
        ("ab" * 32, "AB" * 32, "not a SHA-256"),
        ("ab" * 32, "ab" * 31, "not a SHA-256"),
        ("size = 5", "size = -5", "not a size"),
        ("size = 5", 'size = "5"', "not a size"),
        ("size = 5", "size = true", "not a size"),
        ("size = 5\n", "", "has no size"),
        ("size = 5", "size = 5\nhost = 'x'", "unknown key host"),
        ("pool/main/libc6.deb", "../../etc/passwd", "not a plain path"),
        ("pool/main/libc6.deb", "http://x/y", "not a plain path"),
        ("x-1-py3-none-any.whl", "a/x-1-py3-none-any.whl", "not a plain file name"),
        ('role = "root"', 'role = "boot"', "boot"),
        ('version = "2.41-12"', 'version = "2\\n3"', "not a plain text"),
        ("[[wheel]]", "[wheel]", "wheel is not a list"),
        ("[[wheel]]", "[[whel]]", "unknown key whel"),
        ("# Made", "\x00", "not a lock"),
    ],
)
def test_what_would_not_be_written_is_refused(old: str, new: str, says: str) -> None:
    text = lock_bytes(lock(package())).decode()
    assert old in text
    with pytest.raises(LockError, match=says):
        parse_lock(text.replace(old, new, 1).encode())


def test_a_lock_older_than_the_recipe_is_refused() -> None:
    made = lock()
    check_lock(recipe_sha256="0" * 64, lock=made)
    with pytest.raises(LockError, match="older than the recipe") as caught:
        check_lock(recipe_sha256="9" * 64, lock=made)
    assert "keyturn lock" in caught.value.advice


def test_an_absent_lock_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LockError) as caught:
        read_lock(tmp_path / "keyturn.lock")
    assert "keyturn lock" in caught.value.advice


def test_the_difference_names_every_kind_of_change() -> None:
    old = lock(package("a", "1"), package("b", "1"), package("c", "2"), package("d", "1"), package("e", "1"))
    new = lock(
        package("a", "1"),
        package("b", "2", sha256="01" * 32, suite="trixie-security"),
        package("c", "1", sha256="02" * 32),
        package("d", "1", sha256="03" * 32),
        package("f", "1"),
    )
    found = {change.name: (change.kind, change.security) for change in diff_locks(old, new)}
    assert found == {
        "b": (ChangeKind.UPGRADED, True),
        "c": (ChangeKind.DOWNGRADED, False),
        "d": (ChangeKind.REPLACED, False),
        "e": (ChangeKind.REMOVED, False),
        "f": (ChangeKind.ADDED, False),
    }
    assert diff_locks(new, new) == ()


def test_the_difference_covers_wheels_and_files() -> None:
    old = lock()
    file = LockedFile(path="/a", source="a", size=1, sha256="5" * 64, mode=0o644, owner="root", group="root")
    new = replace(old, wheels=(replace(old.wheels[0], version="2"),), files=(file,), agent=(file,))
    kinds = [(change.what, change.kind.value) for change in diff_locks(old, new)]
    assert kinds == [("wheel", "replaced"), ("file", "added"), ("agent", "added")]
    other_mode = replace(new, files=(replace(file, mode=0o600),))
    assert [change.name for change in diff_locks(new, other_mode)] == ["/a"]


def test_the_lock_is_plain_toml() -> None:
    assert tomllib.loads(lock_bytes(lock(package())).decode())["package"][0]["name"] == "libc6"
