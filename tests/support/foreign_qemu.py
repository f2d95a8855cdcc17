"""QEMU of another Debian suite, run with the libraries of that suite on this machine."""

from __future__ import annotations

import functools
from pathlib import Path

from measurements.qemu import QemuProgram
from tests.support.debian_packages import debian_tree

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
_MODULES = "usr/lib/x86_64-linux-gnu/qemu"
_DATA = ("usr/share/qemu", "usr/share/seabios")


@functools.cache
def foreign_qemu(suite: str) -> QemuProgram:
    """The QEMU of ``suite``, started by its own loader: no library of this machine is used."""
    tree = debian_tree("qemu-system-x86", suite=suite)
    command = ["/usr/bin/env", f"QEMU_MODULE_DIR={tree / _MODULES}", str(_loader(tree))]
    command += ["--library-path", ":".join(str(tree / folder) for folder in _LIBRARIES)]
    command.append(str(tree / "usr/bin/qemu-system-x86_64"))
    for folder in _DATA:
        command += ["-L", str(tree / folder)]
    return QemuProgram(command=tuple(command))


def _loader(tree: Path) -> Path:
    found = [tree / folder / "ld-linux-x86-64.so.2" for folder in ("usr/lib64", "lib64", *_LIBRARIES)]
    return next(path for path in found if path.exists() and path.resolve().is_file())
