"""Mounts: everything in ``/etc/fstab`` (part of the measured root), and proof that it is mounted as it should
be.

BusyBox mounts; this module compares the kernel's table (``/proc/self/mounts``: device, target, type, options,
separated by spaces) with ``fstab``. Every listed target must be there with the type and the protecting
options listed, and the root must be a read-only EROFS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from measurements.errors import RefusedError

BUSYBOX = "/usr/bin/busybox"
PROTECTING = frozenset({"ro", "nosuid", "nodev", "noexec"})
VAR_FOLDERS = {"cache": 0o755, "lib": 0o755, "log": 0o755, "tmp": 0o1777}
"""What programs expect below the empty ``/var``, with the mode."""


class MountError(RefusedError):
    """Something is not mounted as the image says."""

    code = "mount"


class Mount(NamedTuple):
    """One line of a mount table."""

    target: str
    filesystem: str
    options: frozenset[str]


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Lines of ``fstab`` or ``/proc/self/mounts``."""
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return tuple(Mount(row[1], row[2], frozenset(row[3].split(","))) for row in rows)


def check_mounts(wanted: tuple[Mount, ...], present: tuple[Mount, ...]) -> None:
    """Raise ``MountError`` unless every wanted mount is present, as protected as it should be, and the root
    cannot be written.
    """
    # A later line covers an earlier one with the same target.
    by_target: Mapping[str, Mount] = {mount.target: mount for mount in present}
    for mount in (Mount("/", "erofs", frozenset({"ro"})), *wanted):
        found = by_target.get(mount.target)
        if found is None:
            raise _error(mount.target, "is not mounted")
        if found.filesystem != mount.filesystem:
            raise _error(mount.target, f"is {found.filesystem} and should be {mount.filesystem}")
        missing = (mount.options & PROTECTING) - found.options
        if missing:
            raise _error(mount.target, f"is mounted without {', '.join(sorted(missing))}")


def mount_all(root: Path = Path("/")) -> None:
    """Mount everything, check it, and make the usual folders below ``/var``."""
    pid = os.posix_spawn(BUSYBOX, ["busybox", "mount", "-a"], {})
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise _error("/etc/fstab", f"mounting ended with status {status}")
    check_mounts(
        parse_mounts((root / "etc/fstab").read_text(encoding="utf-8")),
        parse_mounts((root / "proc/self/mounts").read_text(encoding="utf-8")),
    )
    for name, mode in VAR_FOLDERS.items():
        folder = root / "var" / name
        folder.mkdir()
        folder.chmod(mode)


def _error(subject: str, reason: str) -> MountError:
    return MountError(reason, subject=subject, advice="rebuild the image, or look at the kernel's messages")
