"""Images for tests, made as a user makes them: ``keyturn init``, ``lock``, ``fetch``, ``build``.

The recipe is the one that ``keyturn init`` writes, with a few lines replaced, and it is locked afresh: a lock
that was committed would name packages that the mirrors no longer have. Downloads go to the user's store, so
the second run needs only the indexes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from image_builder.image import Image, load_image
from measurements.qemu_args import FirmwareFiles
from tests.support.tools import require_tool

OVMF = Path("/usr/share/OVMF")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_OFFLINE = ("(mirror)", "(transport)")


def keyturn(*arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; the caller looks at status and output."""
    command = [sys.executable, "-m", "keyturn", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)


def build_image(
    folder: Path, *, changes: Mapping[str, str] | None = None, template: str = "default"
) -> Image:
    """Build an image in ``folder``; ``changes`` maps lines of the template to what replaces them.

    The test skips where the package archive cannot be reached or its keyring is not installed.
    """
    if not KEYRING.is_file():
        pytest.skip("the archive's keyring is not installed (package debian-archive-keyring)")
    folder.mkdir(parents=True, exist_ok=True)
    _succeed(keyturn("init", "--template", template, folder))
    recipe = folder / "keyturn.toml"
    text = recipe.read_text()
    for line, replacement in (changes or {}).items():
        assert text.count(line) == 1, f"the recipe has no line {line!r}"
        text = text.replace(line, replacement)
    recipe.write_text(text)
    for verb in ("lock", "fetch"):
        done = keyturn(verb, folder=folder)
        offline = done.returncode and any(code in done.stderr for code in _OFFLINE)
        if offline and not os.environ.get("CI"):
            pytest.skip(f"no package archive: {done.stderr.strip()}")
        _succeed(done)
    _succeed(keyturn("build", "--jobs", "2", folder=folder))
    return load_image(folder / "image")


def copy_image(image: Image, folder: Path) -> Path:
    """A copy of an image folder that a test may damage."""
    target = folder / "image"
    shutil.copytree(image.folder, target)
    return target


def firmware() -> FirmwareFiles:
    """The distribution's OVMF without enrolled keys; with it, everything that a boot needs is there."""
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    require_tool("swtpm", package="swtpm")
    require_tool("swtpm_setup", package="swtpm-tools")
    files = FirmwareFiles(code=OVMF / "OVMF_CODE_4M.fd", variables=OVMF / "OVMF_VARS_4M.fd")
    if not files.code.is_file() or not files.variables.is_file():
        pytest.skip("the firmware is not installed (package ovmf)")
    return files


def _succeed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
