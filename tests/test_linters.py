"""Lint and types are part of the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.tools import require_tool

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def test_ruff_check() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_ruff_format() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_mypy_strict() -> None:
    run(sys.executable, "-m", "mypy")


def test_shellcheck() -> None:
    scripts = tracked("*.sh", ".ci/run", "scripts/*")
    assert scripts
    # SC2187 only says that BusyBox ash is checked as dash.
    run(require_tool("shellcheck", package="shellcheck"), "--exclude=SC2187", *scripts)


def test_no_machine_paths_in_the_tree() -> None:
    found = subprocess.run(
        ["git", "grep", "-nE", r"(/wor[k]/|/roo[t]/\.|/home/[a-z]+/)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
