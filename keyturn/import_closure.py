"""Which modules a program reaches by its imports, also by those inside functions: what has to be shipped with
it, and no more.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def reached_modules(start: str, packages: frozenset[str]) -> dict[str, Path]:
    """The module ``start`` and all modules of ``packages`` (names of the top level) that its source and
    theirs import, with their files; packages on the way as well. Sorted by name.
    """
    found: dict[str, Path] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] not in packages:
            continue
        source = _source(name)
        if source is None:  # a name inside a module
            continue
        found[name] = source
        waiting += [name.rpartition(".")[0], *_imports(source)]
    return dict(sorted(found.items()))


def _source(name: str) -> Path | None:
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imports(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
