"""The named peer: mkosi from Debian, building the same package list.

Debian 12 has mkosi 14, of an older generation that needs a running system bus, so where the distribution's
mkosi is that old the one of Debian 13 is unpacked from its package. Its output is a plain directory: no disk,
no verity, no UKI, no prediction, so every ratio is in mkosi's favour.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import Cost, timed

OLDEST = 20


@dataclass(frozen=True, kw_only=True)
class Mkosi:
    """How to run mkosi: the command and additions to the environment."""

    command: tuple[str, ...]
    environment: dict[str, str]
    version: str


def installed_mkosi() -> Mkosi | None:
    """The distribution's mkosi, if it is recent enough."""
    path = shutil.which("mkosi")
    if path is None:
        return None
    return _probe((path,), {})


def unpacked_mkosi(folder: Path) -> Mkosi | None:
    """The mkosi of an unpacked Debian package."""
    library = folder / "usr/lib/python3/dist-packages"
    return _probe((sys.executable, "-m", "mkosi"), {"PYTHONPATH": str(library)})


def _probe(command: tuple[str, ...], environment: dict[str, str]) -> Mkosi | None:
    done = subprocess.run(
        [*command, "--version"], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    version = done.stdout.strip().removeprefix("mkosi ").split("~")[0]
    if done.returncode or not version or int(version.split(".")[0]) < OLDEST:
        return None
    return Mkosi(command=command, environment=environment, version=version)


def build(mkosi: Mkosi, *, work: Path, packages: list[str], mirror: str, keyring: str, suite: str) -> Cost:
    """Fill mkosi's package cache with one build, then time a second, clean build from that cache."""
    sources = work / "sandbox/etc/apt/sources.list.d/mkosi.sources"
    sources.parent.mkdir(parents=True, exist_ok=True)
    lines = {
        "Types": "deb",
        "URIs": mirror,
        "Suites": suite,
        "Components": "main",
        "Signed-By": keyring,
    }
    sources.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    command = [
        *mkosi.command,
        *("--distribution=debian", f"--release={suite}", "--format=directory", f"--mirror={mirror}"),
        *("--package-cache-dir", str(work / "packages"), "--sandbox-tree", str(work / "sandbox")),
        *("--output-dir", str(work / "output"), "--source-date-epoch=0", "--force"),
        *(f"--package={package}" for package in packages),
        "build",
    ]
    for folder in ("packages", "output"):
        (work / folder).mkdir(exist_ok=True)
    environment = os.environ | mkosi.environment
    timed(command, cwd=work, environment=environment)
    return timed(command, cwd=work, environment=environment)
