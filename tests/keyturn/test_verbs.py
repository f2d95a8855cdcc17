"""The overview of the verbs, and that it costs nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import typer

from keyturn.cli import main
from keyturn.verbs import SUMMARY, VERBS, overview
from measurements.errors import ExitStatus

WIDTH = 80
HEAVY = ("typer", "rich", "cryptography", "measurements.eventlog", "image_builder")


def registered(module: str) -> set[str]:
    app = typer.Typer()
    importlib.import_module(module).register(app)
    commands = {
        command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
    }
    return commands | {group.name or "" for group in app.registered_groups}


def test_every_module_has_exactly_the_verbs_that_the_table_gives_it() -> None:
    for module in {verb.module for verb in VERBS.values()}:
        expected = {name for name, verb in VERBS.items() if verb.module == module}
        assert registered(module) == expected, module


def test_the_overview_fits_a_terminal_and_names_every_verb() -> None:
    lines = overview().splitlines()
    assert all(len(line) <= WIDTH for line in lines if line != SUMMARY)
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(VERBS)


@pytest.mark.parametrize(("words", "status"), [(["--help"], ExitStatus.OK), ([], ExitStatus.INPUT)])
def test_help_is_printed_without_a_verb(
    words: list[str], status: ExitStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == int(status)
    assert capsys.readouterr().out == overview()


def test_an_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["pedict"])
    assert ended.value.code == int(ExitStatus.INPUT)
    assert "pedict" in capsys.readouterr().err


def test_the_overview_loads_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys\nfrom keyturn.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
