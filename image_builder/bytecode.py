"""Python byte code for the guest, made by the guest's own interpreter: deterministic and independent of the
builder's Python.

Without byte code every boot would compile for seconds, since the root is read-only. The one program that a
build runs is the locked interpreter from the image's tree: started through the tree's own dynamic loader,
without root, with a fixed environment, sources on standard input, byte code on standard output. The ``.pyc``
files are hash-based and unchecked (PEP 552): they hold no time, and the verified root vouches for both files.

``marshal`` marks shared objects depending on what the interpreter met before, so a file's byte code depends
on the files compiled before it in the same process. Sources are therefore split into shards by their paths
alone, never by the number of jobs, and each shard is one process. A shard whose interpreter and sources were
seen before comes from the store.

What is compiled: every ``.py`` file below ``/usr/lib/python3*`` and the agent's folder, but not the parts of
the standard library in ``NEVER_RUN``, which a machine without user, display and compiler has no use for.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from guest_agent.payload import FOLDER
from image_builder.elf_closure import library_closure
from image_builder.kept import NO_FACTS, KeptFacts, keep, kept
from image_builder.progress import Progress
from image_builder.root_files import interpreter
from image_builder.store import Store, clear_disk_errors
from image_builder.tree import FileSlice, Kind, Node, Tree, raw_name, read_content
from measurements.errors import KeyturnError

SHARDS: Final = 8
"""Shards per area: enough to keep cores busy and a rebuild small, few enough that starting interpreters is
cheap.
"""

NEVER_RUN: Final = frozenset(
    {
        "_pyrepl",
        "curses",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "test",
        "tkinter",
        "turtle.py",
        "turtledemo",
    }
)
KIND: Final = "bytecode-1"

_AREAS = re.compile(rf"(usr/lib/python3(?:\.[0-9]+)?|{FOLDER})/(.+)\.py")
_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "TZ": "UTC"}
_OPTIONS: Final = ("-S", "-s", "-P", "-B")
_TIMEOUT: Final = 600
_TASK: Final = "byte code"


class BytecodeError(KeyturnError):
    """The guest's interpreter cannot run here, or did not do its work."""

    code = "bytecode"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Files that one process compiles: paths in the image, sorted, and the bytes for its standard input."""

    paths: tuple[str, ...]
    request: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolchain:
    """What runs the compiler: paths in the tree. ``loader`` is the dynamic loader, ``support`` the modules it
    needs at start.
    """

    tree: Tree
    interpreter: str
    loader: str
    libraries: tuple[str, ...]
    support: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Everything that must exist where the interpreter runs."""
        return (self.interpreter, *self.libraries, *self.support)

    @property
    def home(self) -> str:
        """Folder of the interpreter's standard library."""
        return f"usr/lib/{self.interpreter.rpartition('/')[2]}"


Runner = Callable[[Toolchain, Sequence[Shard], Path], list[bytes]]
"""Compiles shards: the answers in the shards' order. The path is a folder for temporary files."""


def compile_bytecode(
    tree: Tree, *, store: Store, jobs: int, progress: Progress, runner: Runner | None = None
) -> Tree:
    """The ``__pycache__`` nodes to add to ``tree``.

    ``runner`` replaces running the interpreter on this machine (``bytecode_qemu.qemu_runner``). Raises
    ``BytecodeError`` when the interpreter cannot run, or when one of the agent's own files does not compile.
    """
    toolchain = find_toolchain(tree, facts=KeptFacts(store))
    shards = make_shards(tree)
    compiler = toolchain_digest(toolchain)
    keys = [_key(compiler, shard) for shard in shards]
    answers: dict[str, Path] = {key: path for key in keys if (path := kept(store, KIND, key)) is not None}
    missing = [(key, shard) for key, shard in zip(keys, shards, strict=True) if key not in answers]
    progress.update(_TASK, done=len(answers), total=len(shards))
    if missing:
        with clear_disk_errors("byte code"):
            store.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=store.root, prefix="bytecode-") as folder:
                run = runner if runner is not None else native_runner(jobs)
                results = run(toolchain, [shard for _, shard in missing], Path(folder))
        for (key, shard), answer in zip(missing, results, strict=True):
            _check(answer, shard)
            answers[key] = keep(store, KIND, key, answer)
    progress.update(_TASK, done=len(shards), total=len(shards))
    tag = toolchain.interpreter.rpartition("python")[2].replace(".", "")
    nodes: Tree = {}
    for key, shard in zip(keys, shards, strict=True):
        nodes |= _nodes(shard, answers[key], tag=tag)
    return nodes


def make_shards(tree: Tree) -> list[Shard]:
    """All sources of ``tree``, split by area and path only; empty shards are left out."""
    groups: dict[tuple[str, int], list[str]] = {}
    for path in sorted(tree, key=raw_name):
        area = _area(path)
        if area is not None and tree[path].kind is Kind.FILE:
            groups.setdefault((area, zlib.crc32(raw_name(path)) % SHARDS), []).append(path)
    return [_shard(tree, paths) for _, paths in sorted(groups.items())]


def find_toolchain(tree: Tree, *, facts: KeptFacts = NO_FACTS) -> Toolchain:
    """The interpreter of ``tree`` and what it needs to start."""
    program = interpreter(tree)
    libraries = library_closure(tree, [program], facts=facts)
    loaders = [
        path for path in libraries if re.fullmatch(r"ld-linux[^/]*\.so\.[0-9]+", path.rpartition("/")[2])
    ]
    if not loaders:
        raise BytecodeError(
            "the image has no dynamic loader",
            subject=f"/{program}",
            advice="install libc6 (packages.install)",
        )
    home = f"usr/lib/{program.rpartition('/')[2]}"
    support = re.compile(rf"{re.escape(home)}/(?:encodings/)?[^/]+\.py")
    return Toolchain(
        tree=tree,
        interpreter=program,
        loader=max(loaders, key=len),
        libraries=tuple(libraries),
        support=tuple(
            sorted(path for path in tree if support.fullmatch(path) and tree[path].kind is Kind.FILE)
        ),
    )


def driver_source() -> str:
    """The program that runs in the guest's interpreter."""
    return files("image_builder").joinpath("bytecode_driver.py").read_text(encoding="utf-8")


def command(toolchain: Toolchain, *, root: str, driver: Sequence[str]) -> list[str]:
    """The command line that compiles one shard where the toolchain's files are below ``root``."""
    folders = sorted({path.rpartition("/")[0] for path in toolchain.libraries})
    library_path = ":".join(f"{root}/{folder}" for folder in folders)
    loader = [f"{root}/{toolchain.loader}", "--inhibit-cache", "--library-path", library_path]
    return [*loader, f"{root}/{toolchain.interpreter}", *_OPTIONS, *driver]


def environment(*, root: str) -> dict[str, str]:
    """The whole environment of the compiler."""
    return {**_ENVIRONMENT, "PYTHONHOME": f"{root}/usr"}


def native_runner(jobs: int) -> Runner:
    """Runs the interpreter on this machine, up to ``jobs`` at a time."""

    def run(toolchain: Toolchain, shards: Sequence[Shard], folder: Path) -> list[bytes]:
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
            raise _cannot_run(f"this machine is {platform.system()} on {platform.machine()}")
        _materialise(toolchain, folder)
        arguments = command(toolchain, root=str(folder), driver=("-c", driver_source()))
        with ThreadPoolExecutor(max_workers=max(jobs, 1)) as pool:
            return list(pool.map(lambda shard: _run_one(arguments, shard, folder), shards))

    return run


def _run_one(arguments: Sequence[str], shard: Shard, folder: Path) -> bytes:
    try:
        done = subprocess.run(
            arguments,
            input=shard.request,
            capture_output=True,
            env=environment(root=str(folder)),
            cwd=folder,
            timeout=_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise _cannot_run(str(error.strerror)) from error
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise _cannot_run(f"it ended with status {done.returncode}: {last}")
    return done.stdout


def _materialise(toolchain: Toolchain, folder: Path) -> None:
    """Write the toolchain's files below ``folder``; links lead inside it."""
    for path in toolchain.files:
        node = toolchain.tree[path]
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if node.kind is Kind.SYMLINK:
            up = "../" * path.count("/")
            target.symlink_to(f"{up}{node.target[1:]}" if node.target.startswith("/") else node.target)
            continue
        with target.open("wb") as stream:
            for piece in _chunks(node):
                stream.write(piece)
        target.chmod(0o700)


def _chunks(node: Node) -> Iterator[bytes]:
    assert node.content is not None
    return node.content.chunks()


def _area(path: str) -> str | None:
    match = _AREAS.fullmatch(path)
    if match is None:
        return None
    top = match[2].partition("/")[0] if "/" in match[2] else f"{match[2]}.py"
    in_standard_library = match[1] not in ("usr/lib/python3", FOLDER)
    return None if in_standard_library and top in NEVER_RUN else match[1]


def _shard(tree: Tree, paths: Sequence[str]) -> Shard:
    fields: list[bytes] = []
    for path in paths:
        content = tree[path].content
        assert content is not None
        fields += (raw_name(f"/{path}"), read_content(content))
    request = b"".join(len(data).to_bytes(4, "little") + data for data in fields)
    return Shard(paths=tuple(paths), request=request)


def _key(compiler: bytes, shard: Shard) -> str:
    """What the answer depends on: the compiler's program, the interpreter with its libraries, and the
    sources.
    """
    digest = hashlib.sha256(b"keyturn-bytecode/1\0")
    for data in (driver_source().encode(), compiler, shard.request):
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def toolchain_digest(toolchain: Toolchain) -> bytes:
    """Hash over the interpreter and its libraries."""
    digest = hashlib.sha256()
    for path in (toolchain.interpreter, *toolchain.libraries):
        node = toolchain.tree[path]
        if node.kind is Kind.FILE:
            for piece in _chunks(node):
                digest.update(piece)
    return digest.digest()


def _check(answer: bytes, shard: Shard) -> None:
    for path, (_, size) in zip(shard.paths, _records(answer, shard), strict=True):
        if size == 0 and path.startswith(f"{FOLDER}/"):
            raise BytecodeError(
                "does not compile with the guest's interpreter",
                subject=f"/{path}",
                advice="give the image a newer Python, or report this as a bug",
            )


def _records(answer: bytes, shard: Shard) -> list[tuple[int, int]]:
    """(offset, size) of every file's byte code."""
    records = []
    at = 0
    for _ in shard.paths:
        size = int.from_bytes(answer[at : at + 4], "little")
        records.append((at + 4, size))
        at += 4 + size
    if at != len(answer):
        raise BytecodeError(
            "the interpreter's answer has another length than it says",
            subject="byte code",
            advice="run the build again; if it repeats, report this as a bug",
        )
    return records


def _nodes(shard: Shard, answer: Path, *, tag: str) -> Tree:
    nodes: Tree = {}
    for path, (offset, size) in zip(shard.paths, _records(answer.read_bytes(), shard), strict=True):
        if size == 0:
            continue
        parent, _, name = path.rpartition("/")
        folder = f"{parent}/__pycache__"
        cached = f"{folder}/{name.removesuffix('.py')}.cpython-{tag}.pyc"
        content = FileSlice(path=answer, offset=offset, size=size)
        nodes[folder] = Node(path=folder, kind=Kind.DIRECTORY, mode=0o755, origin="bytecode")
        nodes[cached] = Node(path=cached, kind=Kind.FILE, mode=0o644, content=content, origin="bytecode")
    return nodes


def _cannot_run(reason: str) -> BytecodeError:
    return BytecodeError(
        f"the guest's interpreter cannot run here: {reason}",
        subject="byte code",
        advice="build with --in-qemu, which runs it in a virtual machine",
    )
