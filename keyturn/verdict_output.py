"""Shows a tree of checks to people, and ends the command with exit status 1 where it does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from keyturn.output import Output, escape
from measurements.errors import ExitStatus

if TYPE_CHECKING:
    from attestation.verdict import Check
    from attestation.verdict_tree import Tree


def show_tree(out: Output, tree: Tree, *, title: str) -> None:
    """Show ``tree``, without a JSON result."""
    out.tree(
        f"{_mark(tree.passed)} {title}",
        [
            (
                f"{_mark(group.passed)} [bold]{escape(group.title)}[/bold]",
                [_leaf(check) for check in group.checks],
            )
            for group in tree.groups
        ],
    )
    failed = ", ".join(check.name for check in tree.failures)
    out.line("[green]everything holds[/green]" if tree.passed else f"[red]refused[/red]: {failed}")


def require_tree(tree: Tree) -> None:
    """End the command with exit status 1 unless ``tree`` holds."""
    if not tree.passed:
        raise typer.Exit(int(ExitStatus.REFUSED))


def _leaf(check: Check) -> tuple[str, list[str]]:
    """A check, with what was expected where it says more than what was found."""
    from attestation.verdict_tree import NOT_CHECKED

    label = f"{_mark(check.passed)} {check.name}: {escape(check.found)}"
    if check.found == NOT_CHECKED:
        return label, []
    if check.passed:
        return label, [] if check.expected == check.found else [f"expected: {escape(check.expected)}"]
    return label, [
        f"expected: {escape(check.expected)}",
        f"reason: {escape(check.reason)}",
        f"remedy: {escape(check.advice)}",
    ]


def _mark(passed: bool) -> str:
    return "[green]ok[/green]" if passed else "[red]FAIL[/red]"
