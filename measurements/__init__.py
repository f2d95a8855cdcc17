"""Computes, before anything boots, what a machine will measure, and explains every difference.

``predict`` is the whole of it in one call; docs/measurements.md shows how. The names below load their modules
when they are first used: guests import this package too, and need none of them. Type checkers read
``__init__.pyi``.
"""

from __future__ import annotations

_HOMES = {
    "Host": "measurements.api",
    "Predictor": "measurements.api",
    "predict": "measurements.api",
    "Platform": "measurements.platforms",
    "PlatformPrediction": "measurements.platforms",
    "RegisterEvent": "measurements.platforms",
    "MachineShape": "measurements.shape",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
