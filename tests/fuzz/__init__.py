"""Fuzz targets: one module ``fuzz_<name>.py`` for each parser or verifier that reads what strangers send.

A module has exactly ``NAME`` (a text), ``seeds()`` (small inputs that are right or nearly so; those made from
vectors are left out where the vectors are absent) and ``target(data)``, which swallows ``KeyturnError`` and
nothing else, and asserts what must hold for whatever it accepts.

``python -m tests.fuzz.run --all --seconds 600`` runs them under atheris; ``tests/test_fuzz_targets.py`` runs
each over its seeds and a few hundred mutations with every ``make test``.
"""
