"""Peak memory of the process that asks."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Largest resident set so far, in bytes.

    Linux's ``ru_maxrss`` survives exec, so it would count the test process that this one was forked from;
    ``VmHWM`` (proc(5)) starts anew.
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
