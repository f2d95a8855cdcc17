"""What containers write, on its way to the console: whole lines, marked with their origin, bounded. Pure.

A line is cut after ``LINE_LIMIT`` bytes, control characters are escaped, and every line begins with
``[name] ``, so that no container can speak for the agent or for another one. Above ``LINES_PER_PERIOD`` lines
in ``PERIOD_SECONDS`` lines are dropped and counted. Nothing else is kept.
"""

from __future__ import annotations

LINE_LIMIT = 1000
LINES_PER_PERIOD = 200
PERIOD_SECONDS = 10.0


class ContainerLog:
    """The log of one container."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._partial = b""
        self._period_start = 0.0
        self._lines = 0
        self._dropped = 0

    def feed(self, data: bytes, now: float) -> list[str]:
        """Lines for the console, without line ends, after ``data`` was written at ``now`` (seconds)."""
        *whole, rest = (self._partial + data).split(b"\n")
        while len(rest) > LINE_LIMIT:
            whole.append(rest[:LINE_LIMIT])
            rest = rest[LINE_LIMIT:]
        self._partial = rest
        return [text for line in whole for text in self._admit(line, now)]

    def finish(self, now: float) -> list[str]:
        """The rest, when the container has ended."""
        rest, self._partial = self._partial, b""
        lines = self._admit(rest, now) if rest else []
        return lines + self._report_dropped()

    def _admit(self, line: bytes, now: float) -> list[str]:
        before: list[str] = []
        if now >= self._period_start + PERIOD_SECONDS:
            before = self._report_dropped()
            self._period_start, self._lines = now, 0
        if self._lines >= LINES_PER_PERIOD:
            self._dropped += 1
            return before
        self._lines += 1
        return [*before, f"[{self._name}] {printable(line[:LINE_LIMIT])}"]

    def _report_dropped(self) -> list[str]:
        dropped, self._dropped = self._dropped, 0
        return [f"[{self._name}] ({dropped} lines dropped)"] if dropped else []


def printable(line: bytes) -> str:
    """``line`` as text in which every character that could steer a terminal is escaped."""
    text = line.removesuffix(b"\r").decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
        for char in text
    )
