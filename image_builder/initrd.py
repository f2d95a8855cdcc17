"""The initrd: BusyBox, dmsetup, the libraries they need, kernel modules, a script, and constants. Pure.

Everything the script decides by is a constant file below ``/etc/keyturn``, and so is measured with the
initrd:

=================  ====================================================================================
``cmdline``        the kernel command line, as ``/proc/cmdline`` must show it (with its line end)
``modules``        file names below ``/modules``, one per line, in the order of loading
``partition``      GUID of the root partition, lower case
``verity``         the device-mapper table of the root
``mount-options``  options of the root's mount
=================  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final
from uuid import UUID

from image_builder.tree import BytesContent, Content, Kind, Node, Tree
from image_builder.verity import VerityTree, dm_table
from measurements.errors import KeyturnError

BUSYBOX: Final = "usr/bin/busybox"
DMSETUP: Final = "usr/sbin/dmsetup"
PROGRAMS: Final = (BUSYBOX, DMSETUP)
"""Programs that the initrd takes from the image's own tree; their shared libraries come along."""

ROOT_DEVICE: Final = "/dev/keyturn-root"
"""Link that the script makes to the root partition, so that the table is a constant."""

_CONSTANTS: Final = "etc/keyturn"
_FOLDERS: Final = ("dev", "proc", "sys", "root")
_USR_LINKS: Final = ("bin", "lib", "lib64", "sbin")


class InitrdError(KeyturnError):
    """Something that the initrd needs is not there."""

    code = "initrd"


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelModule:
    """A kernel module: its file name (``dm-verity.ko``) and its uncompressed bytes."""

    file_name: str
    content: Content


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedRoot:
    """How the root is found and opened. ``privileged`` roots hold set-id files or file capabilities."""

    partition: UUID
    verity: VerityTree
    privileged: bool

    @property
    def table(self) -> str:
        """The device-mapper table, one line."""
        return dm_table(self.verity, data_device=ROOT_DEVICE, hash_device=ROOT_DEVICE)

    @property
    def mount_options(self) -> str:
        """Options of the mount."""
        return "ro,nodev" if self.privileged else "ro,nodev,nosuid"


def initrd_tree(
    source: Tree,
    *,
    libraries: Iterable[str],
    modules: Sequence[KernelModule],
    command_line: str,
    root: VerifiedRoot,
) -> Tree:
    """The tree of the initrd.

    ``source`` is the image's merged tree, ``libraries`` the paths in it that ``PROGRAMS`` need (loader and
    links included), ``modules`` come in the order of loading. Raises ``InitrdError`` when a path is not in
    ``source``.
    """
    constants = {
        "cmdline": command_line,
        "modules": "\n".join(module.file_name for module in modules),
        "partition": str(root.partition),
        "verity": root.table,
        "mount-options": root.mount_options,
    }
    script = files("image_builder.data").joinpath("initrd_init.sh").read_bytes()
    nodes = [
        *(_taken(source, path) for path in (*PROGRAMS, *sorted(set(libraries) - set(PROGRAMS)))),
        *(_file(f"modules/{module.file_name}", module.content) for module in modules),
        *(_file(f"{_CONSTANTS}/{name}", BytesContent(_line(text))) for name, text in constants.items()),
        *(_folder(path) for path in _FOLDERS),
        *(Node(path=path, kind=Kind.SYMLINK, mode=0o777, target=f"usr/{path}") for path in _USR_LINKS),
        _file("init", BytesContent(script), mode=0o755),
    ]
    tree = {node.path: node for node in nodes}
    return tree | {path: _folder(path) for path in _missing_parents(tree)}


def _line(text: str) -> bytes:
    return text.encode("ascii") + b"\n" if text else b""


def _taken(source: Tree, path: str) -> Node:
    node = source.get(path)
    if node is None:
        raise InitrdError(
            "is not in the image",
            subject=f"/{path}",
            advice="add its package to packages.install: busybox, dmsetup, or a library of theirs",
        )
    return node


def _file(path: str, content: Content, *, mode: int = 0o644) -> Node:
    return Node(path=path, kind=Kind.FILE, mode=mode, content=content)


def _folder(path: str) -> Node:
    return Node(path=path, kind=Kind.DIRECTORY, mode=0o755)


def _missing_parents(tree: Tree) -> set[str]:
    parents: set[str] = set()
    for path in tree:
        while path := path.rpartition("/")[0]:
            parents.add(path)
    return parents - set(tree)
