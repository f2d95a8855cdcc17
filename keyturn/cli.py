"""Entry point of the ``keyturn`` command: finds the verb, runs it, turns errors into exit statuses.

A verb's module is imported only when that verb is asked for, so that a quick verb stays quick.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keyturn.verbs import SUMMARY, VERBS, overview
from measurements.errors import ExitStatus, KeyturnError

if TYPE_CHECKING:
    import typer


class SystemCallError(KeyturnError):
    """The operating system refused something that no module expected."""

    code = "system"


def build_app(verb: str | None) -> typer.Typer:
    """The command tree: only the named verb's module, or all of them when the verb is not known (for help
    and usage errors).
    """
    import typer

    app = typer.Typer(
        name="keyturn",
        help=SUMMARY,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    modules = {each.module for each in VERBS.values()}
    names = [VERBS[verb].module] if verb in VERBS else sorted(modules)
    for name in names:
        importlib.import_module(name).register(app)
    return app


def _root() -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 a check refused, 2 bad input or usage."""
    # At the end of the process the collector need not walk over everything once more.
    atexit.register(gc.freeze)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in ([], ["--help"]):
        sys.stdout.write(overview())
        sys.exit(int(ExitStatus.OK) if words else int(ExitStatus.INPUT))
    verb = next((word for word in words if not word.startswith("-")), None)
    from keyturn.output import Output

    try:
        build_app(verb)(args=words, prog_name="keyturn")
    except KeyturnError as error:
        Output.report_error(error, json="--json" in words)
        sys.exit(int(error.exit_status))
    except OSError as error:
        fault = SystemCallError(
            error.strerror or str(error),
            subject=str(error.filename or "system call"),
            advice="check that the path exists, is writable and that the disk has room",
        )
        Output.report_error(fault, json="--json" in words)
        sys.exit(int(ExitStatus.INPUT))


if __name__ == "__main__":
    main()
