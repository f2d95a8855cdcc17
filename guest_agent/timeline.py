"""When the moments of this boot were reached: one recorder for the process, because a process is one boot."""

from __future__ import annotations

import time

from measurements.boot_timeline import Moment, Timeline


class Recorder:
    """Keeps the first time of every moment."""

    def __init__(self) -> None:
        self._times: dict[Moment, int] = {}

    def mark(self, moment: Moment, *, at_us: int | None = None) -> None:
        """``moment`` is reached now, or was at ``at_us``; a later time of the same moment is dropped."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        self._times.setdefault(moment, now if at_us is None else at_us)

    @property
    def times(self) -> Timeline:
        """What was reached so far."""
        return dict(self._times)


BOOT = Recorder()
