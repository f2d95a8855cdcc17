"""Locking against a small signed archive: what it writes, and everything that can be wrong with the
archive.
"""

from __future__ import annotations

import dataclasses
import email.utils
from datetime import timedelta
from pathlib import Path

import pytest

from image_builder.lock import Locked, LockTools, lock_local, lock_recipe, still_answers
from image_builder.lockfile import LockError, PackageRole, lock_bytes, parse_lock
from image_builder.mirrors import MirrorError, find_mirrors
from image_builder.openpgp import SignatureError
from image_builder.progress import NoProgress
from image_builder.recipe import Recipe, parse_recipe
from image_builder.release_index import ArchiveIndexError
from image_builder.resolver_errors import ResolveError
from image_builder.store import Store
from image_builder.transport import Transport
from image_builder.wheel_index import WheelIndex
from measurements.errors import KeyturnError
from tests.support.archive import (
    NOW,
    RECIPE,
    Archive,
    archive_key,
    other_key,
    serve,
    standard_archive,
    write_keyring,
)


@dataclasses.dataclass
class Project:
    """A recipe's folder, an archive and a store."""

    folder: Path
    archive: Archive
    store: Store

    def tools(self, mirror: str | None = None) -> LockTools:
        given = [mirror or str(self.archive.root)]
        return LockTools(
            store=self.store,
            transport=Transport(),
            mirrors=find_mirrors(given=given, environment={}, sources=[]),
            wheel_index=WheelIndex("http://127.0.0.1:1"),
            now=NOW,
            progress=NoProgress(),
        )

    def lock(self, recipe: str = RECIPE, *, mirror: str | None = None) -> Locked:
        return lock_recipe(self.recipe(recipe), folder=self.folder, tools=self.tools(mirror))

    def recipe(self, text: str = RECIPE) -> Recipe:
        return parse_recipe(text.encode())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    write_keyring(folder / "keyring.gpg", archive_key())
    return Project(
        folder=folder, archive=standard_archive(tmp_path / "archive"), store=Store(tmp_path / "store")
    )


def test_a_lock_names_everything(project: Project) -> None:
    lock = project.lock().lock
    assert [(package.name, package.role.value) for package in lock.packages] == [
        ("app", "root"),
        ("library", "root"),
        ("linux-image-6.1-amd64", "kernel"),
        ("linux-image-amd64", "kernel"),
        ("stub", "stub"),
    ]
    library = lock.packages[1]
    assert (library.source, library.source_version, library.suite) == ("library-src", "1.1", "stable")
    assert [suite.suite for suite in lock.suites] == ["stable", "stable-security"]
    assert {file.path for file in lock.agent} >= {"/usr/lib/keyturn/__main__.py"}
    assert parse_lock(lock_bytes(lock)) == lock


def test_the_same_archive_gives_the_same_bytes_and_no_machine_names(project: Project, tmp_path: Path) -> None:
    first = lock_bytes(project.lock().lock)
    with serve(project.archive.root) as url:
        project.store = Store(tmp_path / "other-store")
        second = lock_bytes(project.lock(mirror=url).lock)
    assert first == second
    assert b"127.0.0.1" not in first
    assert str(tmp_path).encode() not in first


def test_security_updates_win(project: Project) -> None:
    project.archive.add("stable-security", "library", "1.2+deb1")
    project.archive.publish("stable-security")
    library = next(package for package in project.lock().lock.packages if package.name == "library")
    assert (library.version, library.suite) == ("1.2+deb1", "stable-security")


def test_the_second_lock_reads_the_index_from_the_store(project: Project) -> None:
    project.lock()
    for name in ("Packages", "Packages.xz"):
        (project.archive.root / "dists/stable/main/binary-amd64" / name).unlink()
    assert project.lock().lock.packages


def test_an_altered_index_in_the_store_is_refused(project: Project) -> None:
    suite = project.lock().lock.suites[0]
    project.store.path(suite.index_sha256).write_text("Package: evil\n")
    with pytest.raises(KeyturnError, match="altered"):
        project.lock()


def test_kernel_and_stub_bring_no_dependencies_into_the_root(project: Project) -> None:
    assert "kmod" not in {package.name for package in project.lock().lock.with_role(PackageRole.ROOT)}


def test_the_kernel_may_come_from_another_suite(project: Project) -> None:
    project.archive.add("backports", "linux-image-amd64", "7.1", depends="linux-image-7.1 (= 7.1)")
    project.archive.add("backports", "linux-image-7.1", "7.1", depends="linux-modules-7.1 (= 7.1), kmod")
    project.archive.add("backports", "linux-modules-7.1", "7.1")
    project.archive.add("backports", "library", "9")
    project.archive.publish("backports")
    recipe = RECIPE.replace("[boot]", 'suite = "backports"\n[boot]')
    lock = project.lock(recipe).lock
    kernel = lock.with_role(PackageRole.KERNEL)
    assert {package.name: package.version for package in kernel} == {
        "linux-image-amd64": "7.1",
        "linux-image-7.1": "7.1",
        "linux-modules-7.1": "7.1",
    }
    assert next(package.version for package in lock.packages if package.name == "library") == "1.2"


def test_an_incomplete_kernel_is_an_error(project: Project) -> None:
    project.archive.add("backports", "linux-image-amd64", "7.1", depends="linux-image-7.1 (= 7.1)")
    project.archive.publish("backports")
    with pytest.raises(ResolveError, match=r"linux-image-7\.1 \(= 7\.1\), which backports does not have"):
        project.lock(RECIPE.replace("[boot]", 'suite = "backports"\n[boot]'))


@pytest.mark.parametrize(
    ("old", "new", "subject"),
    [
        ('["app"]', '["absent"]', "absent"),
        ('"linux-image-amd64"', '"linux-absent"', "linux-absent"),
        ('"stub"', '"stub-absent"', "stub-absent"),
        ("[kernel]", '[[packages.pinned]]\nname = "app"\nsuite = "stable-security"\n[kernel]', "app"),
    ],
)
def test_a_package_that_is_not_in_the_suite(project: Project, old: str, new: str, subject: str) -> None:
    with pytest.raises(ResolveError) as caught:
        project.lock(RECIPE.replace(old, new))
    assert caught.value.subject == subject
    assert caught.value.exit_status == 2


def test_an_unused_omission_is_reported(project: Project) -> None:
    locked = project.lock(RECIPE.replace('["app"]', '["app"]\nomit = {library = "why", spare = "why"}'))
    assert [package.name for package in locked.lock.with_role(PackageRole.ROOT)] == ["app"]
    assert locked.warnings == ("packages.omit: nothing depends on spare",)


def test_an_index_signed_by_another_key_is_refused(project: Project) -> None:
    project.archive.publish("stable-security", key=other_key())
    with pytest.raises(SignatureError) as caught:
        project.lock()
    assert caught.value.subject == "stable-security/InRelease"


def test_an_unsigned_index_is_refused(project: Project) -> None:
    release = project.archive.publish("stable")
    text = release.read_bytes()
    start, end = text.index(b"Origin"), text.index(b"-----BEGIN PGP SIGNATURE")
    release.write_bytes(text[start:end])
    with pytest.raises(SignatureError, match="not an inline-signed document"):
        project.lock()


def test_an_expired_index_is_refused(project: Project) -> None:
    project.archive.publish("stable", valid_until=email.utils.format_datetime(NOW - timedelta(hours=1)))
    with pytest.raises(ArchiveIndexError, match="has expired"):
        project.lock()


def test_an_index_of_another_suite_is_refused(project: Project) -> None:
    """A mirror that serves the signed index of an older suite under this one's name."""
    project.archive.publish("stable", codename="oldstable")
    with pytest.raises(ArchiveIndexError, match="another suite"):
        project.lock()


def test_an_index_with_other_bytes_is_refused(project: Project) -> None:
    path = project.archive.root / "dists/stable/main/binary-amd64/Packages.xz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveIndexError, match="wrong bytes"):
        project.lock()


def test_an_oversized_index_is_refused(project: Project) -> None:
    path = project.archive.root / "dists/stable/main/binary-amd64/Packages.xz"
    path.write_bytes(path.read_bytes() + bytes(10))
    with pytest.raises(KeyturnError, match="larger than"):
        project.lock()


def test_a_suite_that_no_mirror_has_names_what_was_tried(project: Project) -> None:
    with pytest.raises(MirrorError, match="no mirror serves it; tried") as caught:
        project.lock(RECIPE.replace('"stable-security"', '"testing"'))
    assert caught.value.subject == "suite testing"
    assert "--mirror" in caught.value.advice


def test_a_mirror_that_does_not_answer_is_passed_over(project: Project, tmp_path: Path) -> None:
    tools = dataclasses.replace(
        project.tools(),
        mirrors=find_mirrors(
            given=[str(tmp_path / "absent"), str(project.archive.root)], environment={}, sources=[]
        ),
    )
    assert lock_recipe(project.recipe(), folder=project.folder, tools=tools).lock.packages


FILE = '[[file]]\nsource = "motd"\npath = "/etc/motd"\n'


def test_local_files_are_locked_and_kept(project: Project) -> None:
    (project.folder / "motd").write_text("hello\n")
    lock = project.lock(RECIPE + FILE).lock
    assert lock.files[0].tree_path == "etc/motd"
    assert project.store.verified(lock.files[0].sha256, name="motd").read_text() == "hello\n"


@pytest.mark.parametrize("kind", ["absent", "folder", "link out"])
def test_unusable_local_files_are_named(project: Project, tmp_path: Path, kind: str) -> None:
    path = project.folder / "motd"
    if kind == "folder":
        path.mkdir()
    elif kind == "link out":
        (tmp_path / "secret").write_text("x")
        path.symlink_to(tmp_path / "secret")
    with pytest.raises(LockError) as caught:
        project.lock(RECIPE + FILE)
    assert caught.value.subject == "motd"


def test_local_changes_need_no_network(project: Project) -> None:
    (project.folder / "motd").write_text("hello\n")
    before = project.lock(RECIPE + FILE).lock
    (project.folder / "motd").write_text("changed\n")
    recipe = project.recipe(RECIPE + FILE + "mode = '0600'\n")
    assert still_answers(before, recipe)
    after = lock_local(recipe, previous=before, folder=project.folder, store=project.store)
    assert after.packages == before.packages
    assert (after.files[0].size, after.files[0].mode) == (8, 0o600)
    assert after.recipe_sha256 == recipe.sha256


def test_local_locking_does_not_hide_other_packages(project: Project) -> None:
    before = project.lock().lock
    recipe = project.recipe(RECIPE.replace('["app"]', '["app", "stub"]'))
    with pytest.raises(LockError, match="asks for other packages"):
        lock_local(recipe, previous=before, folder=project.folder, store=project.store)


def test_wheels_need_an_interpreter(project: Project) -> None:
    with pytest.raises(KeyturnError, match="no Python interpreter"):
        project.lock(RECIPE + '[python]\nwheels = ["x==1"]\n')
