"""Programs that tests need: absent ones skip with a reason, except in CI, where they fail."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require_tool(name: str, *, package: str) -> str:
    """Path of program ``name``; without it the test skips, naming the distribution package that has it."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/lib/systemd:/lib/systemd")
    if path is None:
        unavailable(f"program {name} is not installed (package {package})")
    return path


def unavailable(message: str) -> NoReturn:
    """Skip the test, or fail it in CI, for want of something that a machine can have."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
