"""Runs the guest's interpreter in a virtual machine, for builders on which it cannot run: ``keyturn build
--in-qemu``.

The machine is the image's own kernel, booted directly with an initrd made from the image's tree: BusyBox, the
interpreter with its libraries and the few modules it starts with, one request per shard. Nothing is shared
with the host but a raw disk, onto which the answers are written one after the other. Options and environment
are the same as natively, and so is every byte of the result; a test compares both.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from image_builder.bytecode import (
    BytecodeError,
    Runner,
    Shard,
    Toolchain,
    command,
    driver_source,
    environment,
)
from image_builder.cpio import write_cpio
from image_builder.elf_closure import library_closure
from image_builder.initrd import BUSYBOX, KernelModule
from image_builder.modules import KernelPackages
from image_builder.tree import BytesContent, Content, Kind, Node, Tree, read_content
from image_builder.tree_paths import missing_parents
from measurements.qemu import QemuProgram, best_accelerator, die_with_parent, host_vendor
from measurements.qemu_args import Accelerator
from measurements.shape import CpuVendor

MODULES: Final = ("virtio_pci", "virtio_blk")
"""What the machine needs to write to its disk; modules that are built in are left out by themselves."""

_ROOT: Final = "/compiler"
_WRITTEN: Final = b"keyturn: byte code is written"
_COMMAND_LINE: Final = "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on"
_MEMORY_MIB: Final = 1024
_TIMEOUT: Final = 1800
_GROWTH: Final = 4
"""The answers have at most this many times the size of the requests."""


def qemu_runner(kernel: KernelPackages) -> Runner:
    """A runner for ``compile_bytecode`` that needs QEMU instead of a machine that can run the interpreter.

    It raises ``MissingToolError`` without QEMU, and ``BytecodeError`` when the machine does not do its work.
    """

    def run(toolchain: Toolchain, shards: Sequence[Shard], folder: Path) -> list[bytes]:
        program = QemuProgram.installed()
        modules = [
            KernelModule(file_name=module.file_name, content=module.content)
            for module in kernel.load_order(MODULES)
        ]
        with (folder / "initrd").open("wb") as stream:
            write_cpio(machine_tree(toolchain, shards, modules), stream)
        (folder / "kernel").write_bytes(read_content(kernel.image))
        disk = folder / "answers.raw"
        with disk.open("wb") as stream:
            stream.truncate(_disk_size(shards))
        _boot(program, folder, disk)
        return split_answers(disk.read_bytes(), shards)

    return run


def machine_tree(toolchain: Toolchain, shards: Sequence[Shard], modules: Sequence[KernelModule]) -> Tree:
    """The tree of the machine's initrd."""
    source = toolchain.tree
    own = (BUSYBOX, *library_closure(source, [BUSYBOX]))
    nodes = [
        *(source[path] for path in own),
        *(_moved(source[path]) for path in toolchain.files),
        *(Node(path=path, kind=Kind.SYMLINK, mode=0o777, target=f"usr/{path}") for path in ("lib", "lib64")),
        *(Node(path=path, kind=Kind.DIRECTORY, mode=0o755) for path in ("dev", "proc", "job")),
        *(_file(f"modules/{module.file_name}", module.content) for module in modules),
        _file("job/modules", BytesContent("".join(f"{each.file_name}\n" for each in modules).encode())),
        _file("job/driver.py", BytesContent(driver_source().encode())),
        *(
            _file(f"job/requests/{number:04}", BytesContent(shard.request))
            for number, shard in enumerate(shards)
        ),
        _file("init", BytesContent(_script(toolchain).encode()), mode=0o755),
    ]
    tree = {node.path: node for node in nodes}
    return tree | missing_parents(tree)


def split_answers(data: bytes, shards: Sequence[Shard]) -> list[bytes]:
    """The shards' answers, which stand one after the other at the start of the disk."""
    answers = []
    at = 0
    for shard in shards:
        start = at
        for _ in shard.paths:
            at += 4 + int.from_bytes(data[at : at + 4], "little")
        answers.append(data[start:at])
    if at > len(data):
        raise _failed("the answers do not fit the disk")
    return answers


def _script(toolchain: Toolchain) -> str:
    template = files("image_builder.data").joinpath("bytecode_init.sh").read_text(encoding="ascii")
    settings = shlex.join(f"{key}={value}" for key, value in environment(root=_ROOT).items())
    words = shlex.join(command(toolchain, root=_ROOT, driver=("-c",)))
    return template.replace("@ENVIRONMENT@", settings).replace("@COMMAND@", words)


def _boot(program: QemuProgram, folder: Path, disk: Path) -> None:
    accelerator = _accelerator(program)
    arguments = [
        *(*die_with_parent(), *program.command, "-M", "q35", "-accel", accelerator.value),
        *("-cpu", "host" if accelerator is Accelerator.KVM else "max"),
        *("-m", f"{_MEMORY_MIB}M", "-nodefaults", "-display", "none", "-no-reboot", "-no-user-config"),
        *("-kernel", str(folder / "kernel"), "-initrd", str(folder / "initrd"), "-append", _COMMAND_LINE),
        *("-blockdev", f"driver=raw,node-name=answers,file.driver=file,file.filename={disk}"),
        *("-device", "virtio-blk-pci,drive=answers", "-serial", "stdio"),
    ]
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(f"it takes longer than {_TIMEOUT} s") from error
    if done.returncode != 0 or _WRITTEN not in done.stdout:
        text = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
        raise _failed(f"its last line is: {text.rpartition(chr(10))[2].strip() or 'nothing'}")


def _accelerator(program: QemuProgram) -> Accelerator:
    """KVM where it works; nothing here depends on the processor's vendor."""
    vendor = next((vendor for vendor in CpuVendor if vendor == host_vendor()), None)
    return best_accelerator(program, vendor) if vendor is not None else Accelerator.TCG


def _disk_size(shards: Sequence[Shard]) -> int:
    size = sum(len(shard.request) for shard in shards) * _GROWTH
    return -(-size // (1 << 20)) * (1 << 20) + (1 << 20)


def _moved(node: Node) -> Node:
    path = f"{_ROOT.lstrip('/')}/{node.path}"
    target = node.target
    return Node(path=path, kind=node.kind, mode=node.mode, content=node.content, target=target)


def _file(path: str, content: Content, *, mode: int = 0o644) -> Node:
    return Node(path=path, kind=Kind.FILE, mode=mode, content=content)


def _failed(reason: str) -> BytecodeError:
    return BytecodeError(
        f"the virtual machine did not compile: {reason}",
        subject="byte code",
        advice="check that QEMU works, or build where the guest's interpreter runs",
    )
