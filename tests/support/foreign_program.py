"""Programs of other Debian suites, run with the libraries of their suite on this machine."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.support.debian_packages import debian_tree

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd", "lib/x86_64-linux-gnu")
_LOADERS = ("usr/lib64", "lib64", *_LIBRARIES)


@functools.cache
def foreign_program(package: str, path: str, *, suite: str) -> tuple[str, ...]:
    """The command that starts the program at ``path`` of ``package`` by its suite's own loader."""
    tree = debian_tree(package, suite=suite)
    loaders = [tree / folder / "ld-linux-x86-64.so.2" for folder in _LOADERS]
    loader = next(found for found in loaders if found.exists() and found.resolve().is_file())
    libraries = ":".join(str(tree / folder) for folder in _LIBRARIES)
    program = Path(tree, path)
    assert program.is_file(), f"{package} of {suite} has no /{path}"
    return (str(loader), "--library-path", libraries, str(program))
