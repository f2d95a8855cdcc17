"""A built kernel with its modules and root, booted directly to run one Python script: no firmware, no TPM.

The root is the image's EROFS as first disk, not verified; the script runs as PID 1 with the guest's Python,
the repository's packages of the guest before everything else on the search path. It is for
tests of what the kernel does, such as device-mapper; the real boot chain has its own tests.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from image_builder.cpio import cpio_bytes
from image_builder.image import Artefact, Image
from image_builder.tree import BytesContent, Kind, Node
from measurements.qemu import die_with_parent
from tests.support.tools import require_tool

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("attestation", "guest_agent", "measurements")
INIT = """#!/usr/bin/busybox ash
busybox=/usr/bin/busybox
"$busybox" mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/console 2>&1
"$busybox" mount -t proc proc /proc
"$busybox" mount -t sysfs sysfs /sys
while read -r module; do "$busybox" insmod "/modules/$module"; done </etc/keyturn/modules
echo 1 >/proc/sys/kernel/modules_disabled
until [ -b /dev/vda ]; do "$busybox" usleep 50000; done
"$busybox" mount -t erofs -o ro /dev/vda /root
for folder in dev proc sys; do "$busybox" mount --move "/$folder" "/root/$folder"; done
"$busybox" mount -t tmpfs -o mode=755 tmpfs /root/run
"$busybox" mkdir /root/run/script
"$busybox" cp -r /script/. /root/run/script/
exec "$busybox" switch_root /root /usr/bin/python3.13 -I -S -B /run/script
"""
PROLOGUE = """import os, sys, time, traceback
sys.path[:0] = ["/run/script", "/usr/lib/python3/dist-packages"]
def say(*words):
    print("SAY", *words, flush=True)
def ask(function, *words, **named):
    try:
        return function(*words, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""
EPILOGUE = """
say("END")
time.sleep(600)
"""


class Guest:
    """A running guest: what its script said, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._console = b""
        self._reader = threading.Thread(target=self._pump, daemon=True)
        self._reader.start()

    def _pump(self) -> None:
        assert self._process.stdout is not None
        while data := self._process.stdout.read1(65536):  # type: ignore[attr-defined]
            self._console += data

    @property
    def console(self) -> str:
        """Everything on the console."""
        return self._console.decode("utf-8", "replace").replace("\r\n", "\n")

    def finish(self, *, seconds: float) -> dict[str, str]:
        """Wait until the script has ended, then cut the power: what it said, first word to the rest."""
        deadline = time.monotonic() + seconds
        while "SAY END\n" not in self.console:
            ended = not self._reader.is_alive()
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"the script did not end:\n{self.console[-3000:]}")
            time.sleep(0.05)
        self._process.kill()
        said = [line.removeprefix("SAY ") for line in self.console.splitlines() if line.startswith("SAY ")]
        return {first: rest for first, _, rest in (line.partition(" ") for line in said)}

    def wait_end(self, *, seconds: float) -> str:
        """Wait until the machine ends by itself; its console."""
        self._process.wait(seconds)
        self._reader.join()
        return self.console


@contextlib.contextmanager
def kernel_boot(image: Image, script: str, disks: Mapping[str, Path], *, folder: Path) -> Iterator[Guest]:
    """Boot ``image``'s kernel with ``disks`` (serial → file) and run ``script``."""
    qemu = require_tool("qemu-system-x86_64", package="qemu-system-x86")
    initrd = folder / "initrd"
    initrd.write_bytes(image.path(Artefact.INITRD).read_bytes() + _overlay(PROLOGUE + script + EPILOGUE))
    command = [*die_with_parent(), qemu, "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024"]
    command += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]
    command += ["-kernel", str(image.path(Artefact.KERNEL)), "-initrd", str(initrd)]
    command += ["-append", f"{image.path(Artefact.CMDLINE).read_text()} quiet loglevel=1"]
    files = {"root": image.path(Artefact.ROOT), **disks}
    for number, (serial, path) in enumerate(files.items()):
        only_read = ",readonly=on" if serial == "root" else ""
        command += ["-drive", f"file={path},if=none,id=d{number},format=raw{only_read}"]
        command += ["-device", f"virtio-blk-pci,drive=d{number},serial={serial}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            yield Guest(process)
        finally:
            process.kill()


def _overlay(script: str) -> bytes:
    files = {"script/__main__.py": script.encode()}
    for package in PACKAGES:
        sources = sorted((REPOSITORY / package).glob("*.py"))
        files |= {f"script/{package}/{source.name}": source.read_bytes() for source in sources}
    nodes = [_folder(path) for path in ("script", *(f"script/{package}" for package in PACKAGES))]
    nodes += [_file(path, data, mode=0o644) for path, data in files.items()]
    nodes.append(_file("init", INIT.encode(), mode=0o755))
    return cpio_bytes({node.path: node for node in nodes})


def _folder(path: str) -> Node:
    return Node(path=path, kind=Kind.DIRECTORY, mode=0o755)


def _file(path: str, data: bytes, *, mode: int) -> Node:
    return Node(path=path, kind=Kind.FILE, mode=mode, content=BytesContent(data))
