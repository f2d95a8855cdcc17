"""Entry point of the agent in the image: ``/usr/lib/keyturn/__main__.py``.

The clock is read before anything else is imported: it tells how long the kernel and the interpreter took.
Garbage is not collected until a workload runs: a boot leaves little behind, and looking for it among all that
is imported takes time.
"""

from __future__ import annotations

import time

_STARTED_NS = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

import gc  # noqa: E402
import sys  # noqa: E402

gc.disable()

from guest_agent.agent import run_on_console  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_on_console(started_us=_STARTED_NS // 1000))
