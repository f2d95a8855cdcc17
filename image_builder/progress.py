"""How long work reports its progress, without knowing who shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receiver of progress; the command line shows it, tests ignore it."""

    def update(self, task: str, *, done: int, total: int) -> None:
        """``task`` has finished ``done`` of ``total`` units (bytes, files); the same task name updates the
        same line.
        """


class NoProgress:
    """Shows nothing."""

    def update(self, task: str, *, done: int, total: int) -> None:
        """Ignore the report."""
