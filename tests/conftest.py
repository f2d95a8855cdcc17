"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says nothing on a shared machine; the benchmarks measure.
settings.register_profile("keyturn", deadline=None)
settings.load_profile("keyturn")
