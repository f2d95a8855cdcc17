"""Byte code by the guest's own interpreter: the same bytes whatever surrounds the build; code that runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.payload import FOLDER
from image_builder.build_root import Inputs, root_tree
from image_builder.bytecode import (
    BytecodeError,
    Shard,
    Toolchain,
    command,
    compile_bytecode,
    environment,
    find_toolchain,
    make_shards,
    native_runner,
)
from image_builder.bytecode_qemu import qemu_runner, split_answers
from image_builder.lockfile import PackageRole
from image_builder.modules import KernelPackages
from image_builder.progress import NoProgress
from image_builder.store import Store
from image_builder.tree import BytesContent, Kind, Node, Tree, content_sha256, read_content
from image_builder.tree_paths import missing_parents
from image_builder.unpack import Unpacked, unpack_all
from tests.support.images import firmware
from tests.support.locked_project import locked_project

STDLIB = "usr/lib/python3.13"


def source(path: str, text: str) -> Node:
    return Node(path=path, kind=Kind.FILE, mode=0o644, content=BytesContent(text.encode()))


def tree_of(*nodes: Node) -> Tree:
    return {node.path: node for node in nodes}


def hashes(tree: Tree) -> dict[str, str]:
    return {path: content_sha256(node.content) for path, node in tree.items() if node.content is not None}


@pytest.fixture(scope="module")
def unpacked() -> Sequence[Unpacked]:
    project = locked_project()
    return unpack_all(project.lock.packages, project.store, jobs=2, progress=NoProgress())


@pytest.fixture(scope="module")
def root(unpacked: Sequence[Unpacked]) -> Tree:
    project = locked_project()
    packages = tuple(package for package in unpacked if package.role is PackageRole.ROOT)
    return root_tree(Inputs(recipe=project.recipe, lock=project.lock, store=project.store, packages=packages))


@pytest.fixture(scope="module")
def small(root: Tree) -> Tree:
    """The interpreter with its start-up modules and the agent: enough to compile, quick to do it."""
    kept = {*find_toolchain(root).files, "usr/bin/busybox", "usr/lib/x86_64-linux-gnu/libresolv.so.2"}
    tree = {path: node for path, node in root.items() if path in kept or path.startswith(f"{FOLDER}/")}
    return tree | missing_parents(tree)


@pytest.mark.network
def test_all_sources_get_unchecked_byte_code(root: Tree, tmp_path: Path) -> None:
    nodes = compile_bytecode(root, store=Store(tmp_path), jobs=2, progress=NoProgress())
    assert f"{FOLDER}/__pycache__/__main__.cpython-313.pyc" in nodes
    compiled = [path for path in nodes if path.endswith(".pyc")]
    assert len(compiled) == len([path for shard in make_shards(root) for path in shard.paths])
    for path in compiled:
        content = nodes[path].content
        assert content is not None
        assert read_content(content)[4:8] == b"\x01\0\0\0", f"{path} is not hash-based and unchecked"
        assert str(tmp_path).encode() not in read_content(content)


@pytest.mark.network
def test_surroundings_do_not_matter(small: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_bytecode(small, store=Store(tmp_path / "a"), jobs=1, progress=NoProgress())
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.chdir(tmp_path)
    previous = os.umask(0o077)
    try:
        longer = Store(tmp_path / "another folder with a longer name")
        shuffled = dict(reversed(small.items()))
        second = compile_bytecode(shuffled, store=longer, jobs=4, progress=NoProgress())
    finally:
        os.umask(previous)
    assert hashes(first) == hashes(second)


@pytest.mark.network
def test_the_interpreter_uses_its_byte_code(root: Tree, tmp_path: Path) -> None:
    """Python itself says that it takes the cached file, and runs it."""
    toolchain = find_toolchain(root)
    compiled = compile_bytecode(root, store=Store(tmp_path / "store"), jobs=2, progress=NoProgress())
    folders = ("usr/lib/python3.13/", f"{FOLDER}/")
    tree = {
        path: node
        for path, node in (root | compiled).items()
        if path in toolchain.files or path.startswith(folders)
    }
    folder = tmp_path / "root"
    for path, node in tree.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if node.kind is Kind.SYMLINK:
            target.symlink_to(node.target)
        elif node.kind is Kind.DIRECTORY:
            target.mkdir(exist_ok=True)
        elif node.content is not None:
            target.write_bytes(read_content(node.content))
            target.chmod(0o755)
    program = f"import sys; sys.path.append('{folder}/{FOLDER}'); import measurements.boot_report"
    arguments = command(toolchain, root=str(folder), driver=("-v", "-c", program))
    done = subprocess.run(
        arguments, env=environment(root=str(folder)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # The paths inside are those of the image, so Python finds them stale only if it looked at the time.
    assert f"matches {folder}/{FOLDER}/measurements/boot_report.py" in done.stderr
    assert f"wrote '{folder}" not in done.stderr


@pytest.mark.network
def test_the_cache_is_used_and_checked(small: Tree, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = compile_bytecode(small, store=store, jobs=2, progress=NoProgress())

    def refuse(toolchain: Toolchain, shards: Sequence[Shard], folder: Path) -> list[bytes]:
        raise AssertionError("compiled again")

    again = compile_bytecode(small, store=store, jobs=2, progress=NoProgress(), runner=refuse)
    assert hashes(first) == hashes(again)
    altered = next(path for path in (tmp_path / "derived" / "bytecode-1").glob("*/*"))
    altered.write_bytes(altered.read_bytes()[:-1] + b"\0")
    compile_bytecode(small, store=store, jobs=2, progress=NoProgress())
    changed = small | tree_of(source(f"{FOLDER}/guest_agent/agent.py", "x = 1\n"))
    with pytest.raises(AssertionError, match="compiled again"):
        compile_bytecode(changed, store=store, jobs=2, progress=NoProgress(), runner=refuse)


@pytest.mark.network
def test_a_change_recompiles_one_shard_only(small: Tree) -> None:
    before = {shard.request for shard in make_shards(small)}
    changed = small | tree_of(source(f"{FOLDER}/guest_agent/agent.py", "x = 1\n"))
    assert len({shard.request for shard in make_shards(changed)} - before) == 1


@pytest.mark.network
def test_an_agent_that_does_not_compile_is_refused(small: Tree, tmp_path: Path) -> None:
    broken = small | tree_of(source(f"{FOLDER}/guest_agent/agent.py", "def (:\n"))
    with pytest.raises(BytecodeError, match="does not compile") as refused:
        compile_bytecode(broken, store=Store(tmp_path), jobs=2, progress=NoProgress())
    assert refused.value.subject == f"/{FOLDER}/guest_agent/agent.py"


@pytest.mark.network
def test_a_foreign_source_that_does_not_compile_is_left_out(small: Tree, tmp_path: Path) -> None:
    path = "usr/lib/python3/dist-packages/old/broken.py"
    nodes = compile_bytecode(
        small | tree_of(source(path, "print 'old'\n")), store=Store(tmp_path), jobs=2, progress=NoProgress()
    )
    assert not [path for path in nodes if "broken" in path]


@pytest.mark.network
def test_an_interpreter_that_cannot_run_offers_the_machine(small: Tree, tmp_path: Path) -> None:
    loader = find_toolchain(small).loader
    broken = small | tree_of(source(loader, "not a program"))
    with pytest.raises(BytecodeError, match="cannot run here") as refused:
        native_runner(1)(
            Toolchain(
                tree=broken, interpreter="usr/bin/python3.13", loader=loader, libraries=(loader,), support=()
            ),
            make_shards(small)[:1],
            tmp_path,
        )
    assert "--in-qemu" in refused.value.advice


@pytest.mark.boot
@pytest.mark.network
def test_a_virtual_machine_gives_the_same_bytes(
    small: Tree, unpacked: Sequence[Unpacked], tmp_path: Path
) -> None:
    firmware()
    kernel = KernelPackages([package for package in unpacked if package.role is PackageRole.KERNEL])
    native = compile_bytecode(small, store=Store(tmp_path / "a"), jobs=2, progress=NoProgress())
    virtual = compile_bytecode(
        small, store=Store(tmp_path / "b"), jobs=2, progress=NoProgress(), runner=qemu_runner(kernel)
    )
    assert hashes(native) == hashes(virtual)


def test_shards_depend_on_paths_only() -> None:
    nodes = [source(f"{STDLIB}/module{number}.py", "pass\n") for number in range(50)]
    forward, backward = make_shards(tree_of(*nodes)), make_shards(tree_of(*reversed(nodes)))
    assert forward == backward
    assert sorted(path for shard in forward for path in shard.paths) == sorted(node.path for node in nodes)


def test_what_never_runs_is_not_compiled() -> None:
    kept = [f"{STDLIB}/json/decoder.py", "usr/lib/python3/dist-packages/test/app.py", f"{FOLDER}/test/x.py"]
    left_out = [f"{STDLIB}/test/regrtest.py", f"{STDLIB}/turtle.py", "usr/share/tool/script.py", "etc/x.py"]
    tree = tree_of(*(source(path, "pass\n") for path in kept + left_out))
    assert sorted(path for shard in make_shards(tree) for path in shard.paths) == sorted(kept)


@given(st.lists(st.lists(st.binary(max_size=20), max_size=4), max_size=4))
def test_answers_are_split_where_they_were_joined(answers: list[list[bytes]]) -> None:
    joined = [b"".join(len(each).to_bytes(4, "little") + each for each in answer) for answer in answers]
    shards = [Shard(paths=tuple(map(str, range(len(answer)))), request=b"") for answer in answers]
    assert split_answers(b"".join(joined) + bytes(512), shards) == joined
