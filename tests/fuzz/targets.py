"""Finds the fuzz targets."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
_PREFIX = "fuzz_"


@dataclass(frozen=True, kw_only=True, slots=True)
class FuzzTarget:
    """One target and where it is from."""

    name: str
    module: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], None]


def modules() -> list[str]:
    """The modules of all targets, sorted."""
    return [f"{__package__}.{path.stem}" for path in sorted(FOLDER.glob(f"{_PREFIX}*.py"))]


def load(module: str) -> FuzzTarget:
    """The target of a module."""
    loaded = importlib.import_module(module)
    return FuzzTarget(name=loaded.NAME, module=module, seeds=loaded.seeds, run=loaded.target)


def named(name: str) -> str:
    """The module that ``name`` means: its ``NAME`` or the end of its file's name."""
    for module in modules():
        if name in (module, module.rpartition(f".{_PREFIX}")[2]) or load(module).name == name:
            return module
    known = ", ".join(module.rpartition(f".{_PREFIX}")[2] for module in modules())
    raise SystemExit(f"no fuzz target {name!r}; known are {known}")
