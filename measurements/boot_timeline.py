"""The timeline of a boot, as the agent tells it on the console once the first container is started.

One line, ``keyturn: timeline `` followed by a JSON object without white space: a member for each moment that
was reached, in the order of ``Moment``, its value the whole microseconds of boot time (CLOCK_BOOTTIME: since
the kernel started). Times are no secrets, and nobody decides by them.

The module is used on both sides and ships in the guest: standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum

from measurements.errors import FormatError
from measurements.json_text import json_text

PREFIX = "keyturn: "
LINE_START = "timeline "
_LINE = re.compile(rf"{PREFIX}{LINE_START}(\{{[ -~]{{0,1000}}\}})")


class Moment(Enum):
    """What is timed, in the order of a boot; a boot without a KMS or a disk leaves moments out."""

    AGENT = "agent"
    """The agent's first instruction."""
    REPORT = "report"
    """The boot report is on the console."""
    QUOTE = "quote"
    """The evidence for the release of keys is made."""
    KEYS = "keys"
    """The app's keys are there."""
    DISK = "disk"
    """The encrypted disk is mounted."""
    CONTAINER = "container"
    """The runtime of the first container is started."""


Timeline = Mapping[Moment, int]
"""Moment to microseconds of boot time."""


class BootTimelineError(FormatError):
    """The console output holds no timeline, several, or one that is not well formed."""

    code = "boot-timeline"


def timeline_line(timeline: Timeline) -> str:
    """The line, without ``PREFIX`` and without line end."""
    times = {moment.value: timeline[moment] for moment in Moment if moment in timeline}
    return LINE_START + json.dumps(times, separators=(",", ":"))


def find_timeline(console: bytes) -> dict[Moment, int]:
    """The one timeline in the console output of one boot. Raises ``BootTimelineError``."""
    lines = console.decode("ascii", "replace").splitlines()
    found = [match[1] for line in lines if (match := _LINE.fullmatch(line)) is not None]
    if len(found) != 1:
        raise _error(f"the console shows {len(found)} timelines, not one")
    try:
        times = json.loads(json_text(found[0].encode("ascii")))
        timeline = {Moment(name): time for name, time in times.items()}
    except (FormatError, ValueError) as error:
        raise _error(f"the timeline is not well formed: {error}") from error
    if not all(type(time) is int and time >= 0 for time in timeline.values()):
        raise _error("a time is not a count of microseconds")
    if timeline_line(timeline) != LINE_START + found[0]:
        raise _error("the timeline is written in another way, or names a moment twice")
    return timeline


def _error(reason: str) -> BootTimelineError:
    return BootTimelineError(
        reason, subject="console output", advice="boot again; read the console output for what went wrong"
    )
