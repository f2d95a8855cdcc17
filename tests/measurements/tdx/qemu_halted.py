"""A QEMU that executes nothing, for reading what it would give to firmware."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from measurements.fw_cfg import FirmwareConfig
from measurements.qemu import QemuProgram
from measurements.qtest import Qtest


@contextmanager
def halted(
    program: QemuProgram, *arguments: str, memory_mib: int = 512, machine: str = "q35"
) -> Iterator[FirmwareConfig]:
    """The configuration device of a machine with further ``arguments``; it ends with the ``with`` block."""
    ours, theirs = socket.socketpair()
    common = [
        *("-M", machine, "-m", str(memory_mib), "-accel", "tcg", "-S", "-nodefaults", "-display", "none"),
        *(
            "-chardev",
            f"socket,id=qtest,fd={theirs.fileno()}",
            "-qtest",
            "chardev:qtest",
            "-qtest-log",
            "none",
        ),
    ]
    with theirs:
        process = subprocess.Popen([*program.command, *common, *arguments], pass_fds=[theirs.fileno()])
    bus = Qtest(ours)
    try:
        yield FirmwareConfig(bus)
    finally:
        bus.close()
        process.kill()
        process.wait()
