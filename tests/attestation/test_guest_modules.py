"""What the guest imports of this package costs it nothing: standard library, no data classes, no verifier."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COSTLY = {"dataclasses", "cryptography", "attestation.tpm_evidence", "attestation.verdict", "http"}


@pytest.mark.parametrize(
    "module",
    [
        "attestation.evidence",
        "attestation.report_data",
        "measurements.runtime_events",
        "measurements.reference_digest",
    ],
)
def test_modules_of_the_guest_import_the_standard_library_only(module: str) -> None:
    program = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & COSTLY
