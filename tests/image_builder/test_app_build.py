"""The app folder: the same bytes each time, volumes that other tools accept, a manifest the guest accepts."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from image_builder.app_build import DISK_NAME, BuiltApp, build_app, lock_app
from image_builder.app_lock import AppLockError, parse_lock
from image_builder.app_normalise import AppError, Pins
from image_builder.app_recipe import read_app_recipe
from image_builder.app_volume import MountPointError, volume_end, with_mount_points
from image_builder.oci_image import OciError
from image_builder.output_folder import OutputError
from image_builder.store import Store
from image_builder.tree import Kind, Node, Tree
from measurements.app_manifest import Container, app_hash, parse_manifest
from measurements.errors import KeyturnError
from tests.support.oci_images import folder, make_image, member, symlink, tar_bytes, write_layout
from tests.support.tools import require_tool

PINS = Pins(app_id="0x" + "11" * 20, chain_id=31337, contract="0x" + "22" * 20, kms_root="33" * 32)
RECIPE = """
[app]
name = "hello"
version = "1"
volumes = ["data"]

[[container]]
name = "web"
image = "oci:image:1"
command = ["--port", "8080"]
env = { MODE = "recipe" }
user = "web"
socket = true
mounts = [{ volume = "data", path = "/data" }]
tmpfs = [{ path = "/var/run/web", size = "1MiB" }]

[[container]]
name = "other"
image = "oci:other"
entrypoint = ["/bin/other"]

[[container]]
name = "twin"
image = "oci:image:1"
"""
LAYERS = [
    tar_bytes(
        [
            member("bin/web", b"program" * 3000, mode=0o755),
            member("etc/passwd", b"root:x:0:0::/:\nweb:x:1000:1001::/:\n"),
            member("etc/group", b"web:x:1001:\nmail:x:8:web,root\n"),
            folder("var"),
            symlink("var/run", "/run"),
        ]
    ),
    tar_bytes([member("etc/motd", b"hello")]),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    (path / "app.toml").write_text(RECIPE)
    write_layout(make_image(LAYERS), path / "image")
    write_layout(make_image([tar_bytes([member("bin/other", b"x")])], compression="zstd"), path / "other")
    return path


def build(project: Path, *, output: str = "app", pins: Pins = PINS, store: str = "store") -> BuiltApp:
    recipe = read_app_recipe(project / "app.toml")
    cache = Store(project.parent / store)
    lock = parse_lock(lock_app(recipe, folder=project, store=cache))
    return build_app(recipe, lock, pins=pins, folder=project, store=cache, output=project.parent / output)


def container(built: BuiltApp, name: str) -> Container:
    return next(each for each in parse_manifest(built.manifest).containers if each.name == name)


def test_two_builds_are_identical(project: Path) -> None:
    first = build(project, output="first")
    second = build(project, output="second", store="another-store")
    names = sorted(path.name for path in first.folder.iterdir())
    assert names == ["app-manifest.json", "app.disk", "app.lock"]
    for name in names:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    assert first.app_hash == second.app_hash == app_hash(first.manifest)


def test_manifest(project: Path) -> None:
    built = build(project)
    web, other, twin = (container(built, name) for name in ("web", "other", "twin"))
    assert web.command == ("/bin/web", "--port", "8080")
    assert web.env == {"MODE": "recipe"}
    assert (web.user.uid, web.user.gid, web.user.groups) == (1000, 1001, (8,))
    assert other.command == ("/bin/other",)
    assert (other.user.uid, other.user.gid) == (1000, 0)
    assert twin.env == {"MODE": "image"}
    assert twin.volume == web.volume
    assert other.volume.offset == volume_end(web.volume)
    assert (built.folder / DISK_NAME).stat().st_size == volume_end(other.volume)


def test_volumes_are_accepted_by_other_tools(project: Path, tmp_path: Path) -> None:
    fsck = require_tool("fsck.erofs", package="erofs-utils")
    veritysetup = require_tool("veritysetup", package="cryptsetup-bin")
    built = build(project)
    for name in ("web", "other"):
        volume = container(built, name).volume
        part = tmp_path / f"{name}.volume"
        part.write_bytes((built.folder / DISK_NAME).read_bytes()[volume.offset : volume_end(volume)])
        subprocess.run([fsck, part], check=True, capture_output=True)
        command = [
            *(veritysetup, "verify", "--no-superblock", "--hash", "sha256", "--format", "1"),
            *("--data-block-size", "4096", "--hash-block-size", "4096", "--salt", volume.salt.hex()),
            *("--data-blocks", str(volume.data_blocks), "--hash-offset", str(volume.hash_offset)),
            *(str(part), str(part), volume.root_hash.hex()),
        ]
        subprocess.run(command, check=True, capture_output=True)
        data = bytearray(part.read_bytes())
        data[1030] ^= 1
        part.write_bytes(data)
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_attack_one_changed_byte_in_a_layer_changes_the_app_hash(project: Path) -> None:
    first = build(project, output="first")
    changed = [LAYERS[0].replace(b"program", b"progrem"), LAYERS[1]]
    (project / "image").rename(project / "old")
    write_layout(make_image(changed), project / "image")
    assert build(project, output="second").app_hash != first.app_hash


def test_attack_image_that_is_not_locked(project: Path) -> None:
    recipe = read_app_recipe(project / "app.toml")
    store = Store(project.parent / "store")
    lock = dataclasses.replace(parse_lock(lock_app(recipe, folder=project, store=store)), image=())
    with pytest.raises(AppLockError, match="without a digest"):
        build_app(recipe, lock, pins=PINS, folder=project, store=store, output=project / "app")
    assert not (project / "app").exists()


def test_attack_tag_moved_after_locking(project: Path) -> None:
    recipe = read_app_recipe(project / "app.toml")
    lock = parse_lock(lock_app(recipe, folder=project, store=Store(project.parent / "store")))
    (project / "image").rename(project / "old")
    write_layout(make_image([tar_bytes([member("bin/web", b"evil")])]), project / "image")
    empty = Store(project.parent / "empty")
    with pytest.raises(OciError):
        build_app(recipe, lock, pins=PINS, folder=project, store=empty, output=project / "app")


def test_missing_blobs_are_fetched_by_digest(project: Path) -> None:
    first = build(project, output="first")
    recipe = read_app_recipe(project / "app.toml")
    lock = parse_lock((first.folder / "app.lock").read_bytes())
    empty = Store(project.parent / "empty")
    second = build_app(recipe, lock, pins=PINS, folder=project, store=empty, output=project.parent / "second")
    assert second.app_hash == first.app_hash


@pytest.mark.parametrize(
    "pins",
    [
        dataclasses.replace(PINS, app_id=""),
        dataclasses.replace(PINS, contract=""),
        dataclasses.replace(PINS, kms_root=""),
        dataclasses.replace(PINS, chain_id=0),
    ],
)
def test_nothing_is_pinned_by_default(project: Path, pins: Pins) -> None:
    with pytest.raises(AppError, match="not known"):
        build(project, pins=pins)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('user = "web"', 'user = "nobody"', "not in the image"),
        ('path = "/data"', 'path = "/etc/motd"', "cannot be mounted on"),
        ("volumes = [", 'size-limit = "1KiB"\nvolumes = [', "more than"),
    ],
)
def test_what_does_not_fit_the_image_is_refused(project: Path, old: str, new: str, reason: str) -> None:
    assert old in RECIPE
    (project / "app.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(KeyturnError, match=reason):
        build(project)
    assert not (project.parent / "app").exists()


def test_another_folder_is_not_replaced(project: Path) -> None:
    (project.parent / "app").mkdir()
    (project.parent / "app" / "letter").write_text("dear")
    with pytest.raises(OutputError):
        build(project)
    assert (project.parent / "app" / "letter").exists()


def test_mount_points_are_made_through_links_of_the_image() -> None:
    tree: Tree = {
        "": Node(path="", kind=Kind.DIRECTORY, mode=0o755),
        "run": Node(path="run", kind=Kind.SYMLINK, mode=0o777, target="/var/run"),
        "var": Node(path="var", kind=Kind.DIRECTORY, mode=0o755),
        "var/run": Node(path="var/run", kind=Kind.DIRECTORY, mode=0o755),
    }
    grown = with_mount_points(tree, ["/run/x"], files=["/run/keyturn.sock"])
    assert grown["var/run/x"].kind is Kind.DIRECTORY
    assert grown["var/run/keyturn.sock"].kind is Kind.FILE
    assert set(tree) == {"", "run", "var", "var/run"}
    tree["run"] = dataclasses.replace(tree["run"], target="/nowhere")
    with pytest.raises(MountPointError, match="leads nowhere"):
        with_mount_points(tree, [])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"version = 2\nimage = []",
        b"version = 1\nimage = []\nextra = 1",
        b'version = 1\n[[image]]\nreference = "oci:a"\ndigest = "latest"\nsize = 1',
    ],
)
def test_locks_that_are_refused(data: bytes) -> None:
    with pytest.raises(KeyturnError):
        parse_lock(data)
