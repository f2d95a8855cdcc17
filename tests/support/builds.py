"""Runs ``keyturn build`` as a process of its own, in any environment."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from image_builder.store import Store
from tests.support.vectors import REPOSITORY

COMMAND = ("-m", "keyturn", "build")


def linked_store(store: Store, root: Path, *, derived: bool = False) -> Store:
    """A store with the same objects (hard links or copies), without what was derived from them."""
    names = ["sha256", "derived"] if derived else ["sha256"]
    for name in names:
        for path in (store.root / name).rglob("*"):
            target = root / path.relative_to(store.root)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target)
    return Store(root)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        target.write_bytes(path.read_bytes())


def environment(store: Store, **changes: str) -> dict[str, str]:
    """The environment of a build: this process's, with the store and ``changes``."""
    return {**os.environ, "KEYTURN_CACHE": str(store.root), "PYTHONPATH": str(REPOSITORY), **changes}


def run_build(
    recipe: Path,
    output: Path,
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    python: str = sys.executable,
    options: tuple[str, ...] = (),
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Build ``recipe`` into ``output``; ``before`` runs in the new process (limits, umask)."""
    return subprocess.run(
        [python, *COMMAND, str(recipe), "--output", str(output), *options],
        env=dict(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an image folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
