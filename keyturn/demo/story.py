"""How the demo tells what it does: one line for each step when it is done, with its result and its time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from keyturn.output import Output, escape

if TYPE_CHECKING:
    from rich.status import Status


class Step:
    """One step under way; its result is what the line about it says."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.result = "done"


class Story:
    """Tells steps as they end; several may be under way in threads. Shows on a terminal what is going on."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.told: list[dict[str, Any]] = []
        self.started = time.monotonic()
        self._lock = threading.Lock()
        self._running: list[Step] = []
        self._status: Status | None = None

    def chapter(self, title: str) -> None:
        """A heading."""
        with self._lock:
            self._print(f"[bold]{escape(title)}[/bold]")

    def remark(self, text: str) -> None:
        """A line that is no step."""
        with self._lock:
            self._print(f"    [yellow]{escape(text)}[/yellow]")

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """One step; its line appears when the block ends, unless the block fails."""
        step, started = Step(what), time.monotonic()
        self._change(step, running=True)
        try:
            yield step
        finally:
            self._change(step, running=False)
        seconds = time.monotonic() - started
        with self._lock:
            self.told.append({"step": what, "result": step.result, "seconds": round(seconds, 1)})
            self._print(
                f"  [green]ok[/green] {escape(what)}: {escape(step.result)} [dim]({seconds:.1f} s)[/dim]"
            )

    def _change(self, step: Step, *, running: bool) -> None:
        with self._lock:
            if running:
                self._running.append(step)
            else:
                self._running.remove(step)
            self._show_status()

    def _print(self, text: str) -> None:
        """A line on stdout; what stands on the terminal meanwhile makes room for it."""
        if self._status is not None:
            self._status.stop()
        self.out.line(text)
        if self._status is not None and self._running:
            self._status.start()

    def _show_status(self) -> None:
        if not sys.stderr.isatty():
            return
        from rich.console import Console

        if self._status is None:
            self._status = Console(stderr=True).status("")
        text = "; ".join(step.what for step in self._running)
        self._status.update(f"{escape(text)} …")
        if self._running:
            self._status.start()
        else:
            self._status.stop()
