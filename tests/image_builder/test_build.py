"""Whole builds of the default recipe: accepted by other tools, and never half a result."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from image_builder.build import build_image
from image_builder.build_boot import STUB
from image_builder.build_root import Inputs, check_root_size, root_tree
from image_builder.image import Artefact, Image, load_image
from image_builder.lockfile import PackageRole, lock_bytes
from image_builder.progress import NoProgress
from image_builder.store import Store
from image_builder.tree import Kind, Tree, read_content
from image_builder.unpack import KIND, unpack_all
from measurements.errors import KeyturnError
from tests.image_builder.package_files import deb_bytes, device, locked, regular
from tests.support.builds import COMMAND, environment, hashes, linked_store, run_build
from tests.support.locked_project import Project, locked_project
from tests.support.pe_images import synthetic_stub
from tests.support.tools import require_tool

pytestmark = pytest.mark.network
LARGEST_IMAGE = 120_000_000
LARGEST_AGENT = 45_000_000
MOST_MEMORY = 600 << 20


@pytest.fixture(scope="module")
def project() -> Project:
    return locked_project()


@pytest.fixture(scope="module")
def image(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Image:
    output = tmp_path_factory.mktemp("built") / "image"
    return build_image(project.request(), store=project.store, output=output, progress=NoProgress())


@pytest.fixture(scope="module")
def tree(project: Project) -> Tree:
    packages = unpack_all(project.lock.packages, project.store, jobs=2, progress=NoProgress())
    root = [package for package in packages if package.role is PackageRole.ROOT]
    return root_tree(Inputs(recipe=project.recipe, lock=project.lock, store=project.store, packages=root))


def test_the_folder_holds_what_the_manifest_says(image: Image, project: Project) -> None:
    assert load_image(image.folder) == image
    expected = {artefact.value for artefact in Artefact} | {
        "manifest.json",
        "keyturn.lock",
        "keyturn.toml",
        "sbom.cdx.json",
        "provenance.json",
    }
    assert set(hashes(image.folder)) == expected
    assert (image.folder / "keyturn.lock").read_bytes() == project.lock_data
    assert (image.folder / "keyturn.toml").read_bytes() == project.recipe_data


def test_no_document_names_this_machine(image: Image) -> None:
    for name in ("manifest.json", "provenance.json", "sbom.cdx.json"):
        text = (image.folder / name).read_text()
        assert not re.search(rf"(^|[^a-z])({Path.home()}|{Path.cwd()}|{image.folder.parent})", text)
        assert not re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d", text)


def test_sizes_stay_within_budget(image: Image, tree: Tree) -> None:
    assert image.size(Artefact.DISK) <= LARGEST_IMAGE
    python = re.compile(
        r"usr/(lib/(python3|keyturn|x86_64-linux-gnu/lib(ssl|crypto|expat|ffi|z|bz2|lzma))|bin/python)"
    )
    size = sum(node.content.size for path, node in tree.items() if node.content and python.match(path))
    assert size <= LARGEST_AGENT


def test_fsck_accepts_the_root(image: Image) -> None:
    fsck = require_tool("fsck.erofs", package="erofs-utils")
    subprocess.run([fsck, str(image.path(Artefact.ROOT))], check=True, capture_output=True)


def test_veritysetup_accepts_the_hash_tree(image: Image) -> None:
    veritysetup = require_tool("veritysetup", package="cryptsetup-bin")
    root, facts = str(image.path(Artefact.ROOT)), image.manifest["verity"]
    offset = f"--hash-offset={facts['hash_offset']}"
    subprocess.run(
        [veritysetup, "verify", root, root, facts["root_hash"], offset], check=True, capture_output=True
    )


def test_the_disk_holds_the_root_at_its_partition(image: Image) -> None:
    sgdisk = require_tool("sgdisk", package="gdisk")
    shown = subprocess.run(
        [sgdisk, "-v", str(image.path(Artefact.DISK))], check=True, capture_output=True, text=True
    )
    assert "No problems found" in shown.stdout
    first = image.manifest["disk"]["partitions"][1]["first_lba"] * 512
    root = image.path(Artefact.ROOT).read_bytes()
    with image.path(Artefact.DISK).open("rb") as disk:
        disk.seek(first)
        assert disk.read(len(root)) == root


def test_the_initrd_is_an_archive_that_cpio_reads(image: Image) -> None:
    cpio = require_tool("cpio", package="cpio")
    with image.path(Artefact.INITRD).open("rb") as stream:
        listed = subprocess.run([cpio, "-t"], stdin=stream, check=True, capture_output=True, text=True).stdout
    assert {"init", "etc/keyturn/verity", "modules/erofs.ko", "usr/bin/busybox"} <= set(listed.splitlines())


def test_the_initrd_names_the_root_hash(image: Image) -> None:
    initrd = image.path(Artefact.INITRD).read_bytes()
    assert image.manifest["verity"]["root_hash"].encode() in initrd
    assert image.command_line.encode() + b"\n" in initrd


def test_nobody_can_log_in_and_nothing_is_privileged(tree: Tree) -> None:
    for name in ("passwd", "shadow"):
        node = tree[f"etc/{name}"]
        assert node.content is not None
        lines = read_content(node.content).decode().splitlines()
        assert all("/usr/sbin/nologin" in line or ":*:" in line for line in lines)
    assert not [path for path, node in tree.items() if node.kind is Kind.FILE and node.mode & 0o6000]
    assert not [
        path for path, node in tree.items() if node.kind in {Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE}
    ]
    assert not [path for path in tree if re.search(r"/(getty|agetty|sshd|login)$", path)]


def test_the_python_of_the_root_has_byte_code_that_is_never_checked(image: Image) -> None:
    dump = require_tool("dump.erofs", package="erofs-utils")
    path = "/usr/lib/keyturn/__pycache__/__main__.cpython-313.pyc"
    shown = subprocess.run(
        [dump, f"--path={path}", str(image.path(Artefact.ROOT))], check=True, capture_output=True, text=True
    )
    assert "regular file" in shown.stdout


# --- bad input: one clear error, status 2, nothing left behind ---


@pytest.fixture
def recipe(project: Project, tmp_path: Path) -> Path:
    return project.write(tmp_path / "project")


def failed(recipe: Path, store: Store, *, code: str, before: object = None) -> str:
    """Run a build that must fail with ``code`` and leave nothing; the error's text."""
    assert before is None or callable(before)
    output = recipe.parent / "image"
    done = run_build(recipe, output, env=environment(store), options=("--json",), before=before)
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert error["advice"]
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in recipe.parent.iterdir()) == ["keyturn.lock", "keyturn.toml"]
    return f"{error['subject']}: {error['reason']}"


def test_a_tampered_package_in_the_store(project: Project, recipe: Path, tmp_path: Path) -> None:
    store = linked_store(project.store, tmp_path / "store", derived=True)
    package = project.lock.packages[0]
    data = bytearray(store.path(package.sha256).read_bytes())
    data[-1] ^= 1
    store.path(package.sha256).unlink()
    store.path(package.sha256).write_bytes(data)
    text = failed(recipe, store, code="store")
    assert package.name in text
    assert package.sha256 in text


def test_a_package_that_was_never_fetched(project: Project, recipe: Path, tmp_path: Path) -> None:
    store = linked_store(project.store, tmp_path / "store")
    store.path(project.lock.packages[0].sha256).unlink()
    assert "not in the store" in failed(recipe, store, code="store")


def test_a_lock_that_is_older_than_the_recipe(project: Project, recipe: Path) -> None:
    recipe.write_bytes(project.recipe_data + b"\n# changed\n")
    assert "older than the recipe" in failed(recipe, project.store, code="lock")


def test_an_unknown_key(project: Project, recipe: Path) -> None:
    recipe.write_bytes(project.recipe_data.replace(b"root-size-limit", b"root-size-limits"))
    assert "root-size-limits" in failed(recipe, project.store, code="recipe")


def with_recipe(project: Project, recipe: Path, old: str, new: str) -> None:
    """Change the recipe and give the lock its hash, as `lock --local` does."""
    text = project.recipe_data.decode()
    assert old in text
    recipe.write_text(text.replace(old, new))
    changed = recipe.read_bytes()
    lock = project.lock_data.decode().replace(project.recipe.sha256, hashlib.sha256(changed).hexdigest())
    recipe.with_name("keyturn.lock").write_text(lock)


def test_a_root_over_the_limit(project: Project, recipe: Path) -> None:
    with_recipe(project, recipe, 'root-size-limit = "120MiB"', 'root-size-limit = "20MiB"')
    text = failed(recipe, project.store, code="build")
    assert "the limit is 20.0 MiB; largest: " in text
    assert "libc6" in text or "python" in text


def test_the_limit_counts_the_file_system_too(tree: Tree) -> None:
    contents = sum(node.content.size for node in tree.values() if node.content)
    check_root_size(tree, limit=contents)
    with pytest.raises(KeyturnError, match="limit"):
        check_root_size(tree, limit=contents, size=contents + 1)


def test_an_unknown_module(project: Project, recipe: Path) -> None:
    with_recipe(project, recipe, '"dm_verity",', '"dm_veryty",')
    assert "no such module" in failed(recipe, project.store, code="kernel")


@pytest.mark.parametrize(
    ("member", "code", "reason"),
    [
        (regular("../../etc/passwd"), "package", "leaves the image"),
        (regular("/etc/passwd"), "package", "absolute"),
        (device("./dev/mem"), "package", "character-device"),
        (regular("./usr/bin/su2", mode=0o4755), "package", "set-id bit"),
        (regular("./usr/lib/os-release", b"evil"), "merge", "base-files"),
        (regular("./var/lib/evil/state"), "build", "would be invisible"),
    ],
)
def test_an_evil_package(
    project: Project,
    recipe: Path,
    tmp_path: Path,
    member: tuple[tarfile.TarInfo, bytes],
    code: str,
    reason: str,
) -> None:
    store = linked_store(project.store, tmp_path / "store", derived=True)
    evil = locked("evil", deb_bytes("evil", [member]), store)
    lock = replace(project.lock, packages=(*project.lock.packages, evil))
    recipe.with_name("keyturn.lock").write_bytes(lock_bytes(lock))
    text = failed(recipe, store, code=code)
    assert "evil" in text
    assert reason in text


def test_a_stub_without_room(project: Project, recipe: Path, tmp_path: Path) -> None:
    store = linked_store(project.store, tmp_path / "store", derived=True)
    stub = deb_bytes("systemd-boot-efi", [regular(f"./{STUB}", synthetic_stub(header_size=512))])
    line = locked("systemd-boot-efi", stub, store, role=PackageRole.STUB)
    others = [package for package in project.lock.packages if package.role is not PackageRole.STUB]
    recipe.with_name("keyturn.lock").write_bytes(lock_bytes(replace(project.lock, packages=(*others, line))))
    assert "room" in failed(recipe, store, code="stub-room")


@pytest.mark.parametrize(("limit", "cold"), [(1 << 20, True), (30 << 20, True), (30 << 20, False)])
def test_a_full_disk(
    project: Project, recipe: Path, tmp_path: Path, image: Image, limit: int, cold: bool
) -> None:
    assert image.id
    store = linked_store(project.store, tmp_path / "store", derived=not cold)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert "no room" in failed(recipe, store, code="disk-full", before=no_room)
    assert not list((store.root / "derived" / KIND).glob("new-*"))
    done = run_build(recipe, recipe.parent / "image", env=environment(store))
    assert done.returncode == 0, done.stderr
    assert load_image(recipe.parent / "image").id == image.id


@pytest.mark.parametrize("seconds", [0.7, 1.8])
def test_an_interrupted_build(
    project: Project, recipe: Path, tmp_path: Path, image: Image, seconds: float
) -> None:
    store = linked_store(project.store, tmp_path / "store")
    output = recipe.parent / "image"
    command = [sys.executable, *COMMAND, str(recipe), "--output", str(output)]
    process = subprocess.Popen(command, env=environment(store), stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run_build(recipe, output, env=environment(store))
    assert done.returncode == 0, done.stderr
    assert load_image(output).id == image.id
    assert sorted(path.name for path in recipe.parent.iterdir()) == ["image", "keyturn.lock", "keyturn.toml"]
    assert not list((store.root / "derived" / KIND).glob("new-*"))


def test_the_machine_needs_no_program_no_network_and_no_root(
    project: Project, recipe: Path, image: Image, tmp_path: Path
) -> None:
    unshare = require_tool("unshare", package="util-linux")
    output = tmp_path / "image"
    command = [unshare, "--user", "--net", sys.executable, *COMMAND, str(recipe), "--output", str(output)]
    store = linked_store(project.store, tmp_path / "store")
    env = environment(store, PATH=str(tmp_path / "empty"))
    probe = subprocess.run(
        [unshare, "--user", "--net", sys.executable, "-c", ""], check=False, capture_output=True
    )
    if probe.returncode:
        pytest.skip("no user namespaces here")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hashes(output) == hashes(image.folder)


def test_memory_stays_bounded(project: Project, recipe: Path, tmp_path: Path) -> None:
    program = (
        "import runpy, sys\nfrom tests.support.peak_memory import peak_bytes\n"
        "try: runpy.run_module('keyturn', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert not end.code\n"
        "print(peak_bytes(), file=sys.stderr)\n"
    )
    store = linked_store(project.store, tmp_path / "store")
    command = [sys.executable, "-c", program, "build", str(recipe), "--output", str(tmp_path / "image")]
    done = subprocess.run(command, env=environment(store), capture_output=True, text=True, check=True)
    assert int(done.stderr.split()[-1]) < MOST_MEMORY


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    for name in ("store", "image"):
        subprocess.run(["/bin/rm", "-rf", str(tmp_path / name)], check=True)
