"""The one way in which tests reach the vectors: real evidence, logs and firmware that are not part of the
repository.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def vectors_folder() -> Path | None:
    """``$KEYTURN_VECTORS``, else ``../shared/vectors``, else ``vectors`` (where ``make vectors`` puts
    them).
    """
    named = os.environ.get("KEYTURN_VECTORS")
    candidates = (
        [Path(named)] if named else [REPOSITORY.parent / "shared" / "vectors", REPOSITORY / "vectors"]
    )
    return next((folder for folder in candidates if folder.is_dir()), None)


def vector(relative: str) -> Path:
    """Path of one vector; the test skips, saying so, where the vectors are absent."""
    folder = vectors_folder()
    if folder is None:
        pytest.skip("no vectors: set KEYTURN_VECTORS or run `make vectors`")
    path = folder / relative
    if not path.exists():
        pytest.skip(f"vector {relative} is not in the vectors folder: run `make vectors`")
    return path
