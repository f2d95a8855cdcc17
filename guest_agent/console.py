"""The console: output only. Nothing in the guest ever reads from it."""

from __future__ import annotations

import os
from pathlib import Path

PRINTK = Path("/proc/sys/kernel/printk")
ONLY_PANICS = "1 1 1 1\n"
"""Console levels (current, default, minimum, boot default): of the kernel's messages only emergencies are
still shown.
"""


def silence_kernel() -> None:
    """Keep the kernel from printing between the lines of the report; a panic is still shown."""
    PRINTK.write_text(ONLY_PANICS, encoding="ascii")


def detach_input() -> None:
    """Make standard input ``/dev/null``: bytes that the host types at the console reach nobody."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)


def write(text: str) -> None:
    """Write all of ``text`` to the console."""
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    while data:
        data = data[os.write(1, data) :]


def say(message: str) -> None:
    """One line for people."""
    write(f"keyturn: {message}\n")
