"""Facts of the running system that go into the report: command line, kernel, os-release."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class SystemFacts(NamedTuple):
    """What runs."""

    command_line: str
    kernel_release: str
    os_release: dict[str, str]


def parse_os_release(text: str) -> dict[str, str]:
    """``os-release`` (freedesktop.org): ``KEY=value`` lines, values optionally quoted; comments and blank
    lines are skipped.
    """
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, _, value in pairs}


def read_facts(root: Path = Path("/")) -> SystemFacts:
    """The facts of the system below ``root``."""
    return SystemFacts(
        command_line=(root / "proc/cmdline").read_text(encoding="utf-8").removesuffix("\n"),
        kernel_release=os.uname().release,
        os_release=parse_os_release((root / "usr/lib/os-release").read_text(encoding="utf-8")),
    )
