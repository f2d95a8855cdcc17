"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says nothing on a shared machine; the benchmarks measure.
settings.register_profile("keyturn", deadline=None)
settings.load_profile("keyturn")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names cases of bytes by their parameter: keys made anew in each process would give each other names."""
    return argname if isinstance(val, bytes) else None
