"""What the console of one boot tells about time, and the table over several boots. Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from measurements.boot_timeline import Moment, find_timeline

TARGET_RATIO = 1.5
WORKLOAD_LINE = "workload runs at"
WORKLOAD = re.compile(rf"{WORKLOAD_LINE} (\d+\.\d\d)".encode())

_MOMENTS = (
    ("kernel start → agent", Moment.AGENT),
    ("→ boot report", Moment.REPORT),
    ("→ quote", Moment.QUOTE),
    ("→ keys", Moment.KEYS),
    ("→ encrypted disk mounted", Moment.DISK),
    ("→ container runtime started", Moment.CONTAINER),
)


class TimesError(ValueError):
    """A console that does not tell when the workload ran."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BootTimes:
    """One boot, in seconds: ``firmware`` from QEMU's start to the kernel's, the rest from the kernel's start.

    ``moments`` is empty where no agent ran, ``answer`` is when the host had the service's first answer.
    """

    firmware: float
    moments: Mapping[Moment, float]
    workload: float
    answer: float


def read_workload(console: bytes) -> float:
    """When the container's program ran, in seconds of boot time to two places. Raises ``TimesError``."""
    found = WORKLOAD.findall(console)
    if len(found) != 1:
        raise TimesError(f"the console says {len(found)} times when the workload ran, not once")
    return float(found[0])


def boot_times(console: bytes, *, agent: bool, seen: float, answered: float) -> BootTimes:
    """The times of a boot; ``seen`` and ``answered`` are when the workload's line and the first answer were
    there, in seconds since QEMU started. Raises ``TimesError`` and ``BootTimelineError``.
    """
    workload = read_workload(console)
    moments = {moment: time / 1e6 for moment, time in find_timeline(console).items()} if agent else {}
    firmware = seen - workload
    return BootTimes(firmware=firmware, moments=moments, workload=workload, answer=answered - firmware)


def median(times: Sequence[float]) -> float:
    """The median."""
    return statistics.median(times)


def shown(times: Sequence[float]) -> str:
    """Median, shortest and longest, or a dash."""
    if not times:
        return "-"
    return f"{median(times):.2f} s ({min(times):.2f}-{max(times):.2f})"


def rows(boots: Sequence[BootTimes]) -> list[tuple[str, str]]:
    """What and how long, for the boots of one kind."""
    table = [("QEMU start → kernel start", shown([boot.firmware for boot in boots]))]
    table += [
        (what, shown([boot.moments[moment] for boot in boots if moment in boot.moments]))
        for what, moment in _MOMENTS
    ]
    table.append(("→ container's program runs", shown([boot.workload for boot in boots])))
    table.append(("→ first answer at the host", shown([boot.answer for boot in boots])))
    return table


def ratio(boots: Sequence[BootTimes], peer: Sequence[BootTimes]) -> float:
    """Median time to workload over the peer's."""
    return median([boot.workload for boot in boots]) / median([boot.workload for boot in peer])


def as_json(boots: Sequence[BootTimes]) -> list[dict[str, object]]:
    """Every boot with all its times."""
    return [
        {
            "firmware": boot.firmware,
            "moments": {moment.value: time for moment, time in boot.moments.items()},
            "workload": boot.workload,
            "answer": boot.answer,
        }
        for boot in boots
    ]


def render(columns: Mapping[str, Sequence[BootTimes]]) -> list[str]:
    """The table: a column for each kind of boot."""
    sides = {name: rows(boots) for name, boots in columns.items()}
    labels = [what for what, _ in next(iter(sides.values()))]
    width = max(map(len, labels))
    lines = [f"{'':{width}}" + "".join(f"  {name:>24}" for name in sides)]
    for index, label in enumerate(labels):
        lines.append(f"{label:{width}}" + "".join(f"  {side[index][1]:>24}" for side in sides.values()))
    return lines
