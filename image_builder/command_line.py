"""The kernel command line: exact and free of duplicates.

The same bytes are in the UKI (measured by the stub), in the folder of the image, and in the initrd, which
compares them with what the kernel was really given. A parameter that stands twice could mean one thing to the
kernel and another to a reader, so it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from measurements.errors import KeyturnError

DEFAULT: Final = (
    "console=ttyS0",
    # Only warnings and worse; the agent lowers this further before it reports.
    "loglevel=4",
    # Any oops ends the machine, and a panic does so at once.
    "oops=panic",
    "panic=-1",
    # The kernel's memory and code stay closed to root in the guest; implies signed modules.
    "lockdown=confidentiality",
    # The processor's generator counts as entropy, a seed that the host passes in does not.
    "random.trust_cpu=on",
    "random.trust_bootloader=off",
    # The host cannot send SysRq keys over the serial line.
    "sysctl.kernel.sysrq=0",
    "vsyscall=none",
    "ia32_emulation=0",
)
"""Parameters of every image; a recipe adds to them and cannot repeat one."""

MAX_LENGTH: Final = 2047
"""Longest command line that the x86 kernel takes whole (COMMAND_LINE_SIZE 2048 with the NUL)."""


class CommandLineError(KeyturnError):
    """A kernel command line that is not exact."""

    code = "command-line"


def kernel_command_line(additions: Sequence[str] = ()) -> str:
    """The command line of an image: the defaults, then the recipe's ``additions``, in that order.

    Raises ``CommandLineError`` for a parameter that stands twice (``-`` and ``_`` are the same to the
    kernel), one that is empty, quoted or not printable ASCII, and a line that is too long.
    """
    words = (*DEFAULT, *additions)
    seen: set[str] = set()
    for word in words:
        name = word.partition("=")[0].replace("-", "_")
        if not name or not word.isascii() or not word.isprintable() or any(c in word for c in " \"'"):
            raise _error(word, "is not one plain kernel parameter")
        if name in seen:
            raise _error(word, "stands twice, or is already set for every image")
        seen.add(name)
    line = " ".join(words)
    if len(line) > MAX_LENGTH:
        raise _error("kernel.command-line", f"makes {len(line)} bytes; the kernel takes {MAX_LENGTH}")
    return line


def _error(word: str, reason: str) -> CommandLineError:
    return CommandLineError(
        reason, subject=f"kernel parameter {word}", advice="correct kernel.command-line in the recipe"
    )
