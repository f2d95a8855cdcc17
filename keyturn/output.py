"""What the command line shows: tables and lines for people, one JSON document for machines, progress on
stderr.

Results go to stdout, everything else (progress, warnings, errors) to stderr. With ``--json`` stdout holds
exactly one JSON document, also when the command fails. Colour is used on terminals only, and never when
``NO_COLOR`` is set.
"""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

QUIET_SECONDS = 1.0
"""Work shorter than this shows no progress bar."""

PIPED_WIDTH = 1000
"""Wide enough that no cell is broken where there is no terminal."""


class Output:
    """Output of one command."""

    _current: ClassVar[Output | None] = None

    def __init__(self, *, json: bool) -> None:
        self.json = json
        Output._current = self

    @classmethod
    def current(cls) -> Output:
        """The output of the running command."""
        return cls._current if cls._current is not None else cls(json=False)

    def line(self, text: str) -> None:
        """One line of text for people; markup of ``rich`` is understood."""
        if not self.json:
            _console(stderr=False).print(text, highlight=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people. Cells may carry `rich` markup; escape what is not."""
        if self.json:
            return
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        _console(stderr=False).print(table)

    def tree(self, title: str, branches: Sequence[tuple[str, Sequence[tuple[str, Sequence[str]]]]]) -> None:
        """A tree for people: labelled branches, each with labelled leaves, each with lines about it. Texts
        may carry ``rich`` markup; escape what is not.
        """
        if self.json:
            return
        from rich.tree import Tree

        tree = Tree(title, highlight=False)
        for branch, leaves in branches:
            grown = tree.add(branch)
            for leaf, lines in leaves:
                about = grown.add(leaf)
                for line in lines:
                    about.add(line)
        _console(stderr=False).print(tree, highlight=False)

    def result(self, document: Mapping[str, Any]) -> None:
        """The machine-readable result; printed with ``--json`` only."""
        if self.json:
            sys.stdout.write(json_module.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def warn(self, text: str) -> None:
        """A warning, on stderr, in both modes."""
        _console(stderr=True).print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False)

    @contextmanager
    def progress(self) -> Iterator[ProgressBars]:
        """Receiver of progress for the time of a ``with`` block."""
        bars = ProgressBars(enabled=sys.stderr.isatty())
        try:
            yield bars
        finally:
            bars.close()

    @staticmethod
    def report_error(error: KeyturnError, *, json: bool) -> None:
        """One error, with its reason and remedy."""
        if json:
            sys.stdout.write(
                json_module.dumps({"error": error.as_json()}, indent=2, ensure_ascii=False) + "\n"
            )
        console = _console(stderr=True)
        console.print(f"[bold red]error[/bold red] ({error.code}) {escape(str(error))}", highlight=False)
        console.print(f"  [bold]remedy:[/bold] {escape(error.advice)}", highlight=False)


class ProgressBars:
    """Progress bars on stderr, shown once the work has lasted ``QUIET_SECONDS``."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._started = time.monotonic()
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def update(self, task: str, *, done: int, total: int) -> None:
        """``task`` has finished ``done`` of ``total`` units."""
        if not self._enabled or time.monotonic() - self._started < QUIET_SECONDS:
            return
        bars = self._open()
        if task not in self._tasks:
            self._tasks[task] = bars.add_task(task, total=total)
        bars.update(self._tasks[task], completed=done, total=total)

    def close(self) -> None:
        """Stop drawing."""
        if self._bars is not None:
            self._bars.stop()

    def _open(self) -> RichProgress:
        if self._bars is None:
            from rich.progress import Progress as RichProgress

            self._bars = RichProgress(console=_console(stderr=True), transient=True)
            self._bars.start()
        return self._bars


def escape(text: str) -> str:
    """``text`` with everything that ``rich`` would take for markup made literal."""
    from rich.markup import escape as rich_escape

    return rich_escape(text)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(file=stream, width=width, soft_wrap=True, emoji=False)
