"""The secret that a TPM opened, beside its evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.container import EvidenceContainer
from attestation.container_codec import encode_container
from attestation.importers import EvidenceImportError, SideFile, import_evidence
from tests.support.containers import FULL, SMALL

SECRET = bytes(range(32))
assert FULL.tpm is not None
UNOPENED = replace(FULL, tpm=replace(FULL.tpm, activated_secret=None))


def add(evidence: EvidenceContainer, secret: bytes) -> EvidenceContainer:
    return import_evidence(encode_container(evidence), files={SideFile.ACTIVATED: secret})


def test_the_secret_is_added_and_nothing_else_changes() -> None:
    assert UNOPENED.tpm is not None
    assert add(UNOPENED, SECRET) == replace(UNOPENED, tpm=replace(UNOPENED.tpm, activated_secret=SECRET))


def test_a_secret_that_is_there_is_not_replaced() -> None:
    with pytest.raises(EvidenceImportError, match="already"):
        add(FULL, SECRET)


def test_evidence_without_a_tpm_takes_no_secret() -> None:
    with pytest.raises(EvidenceImportError, match="no TPM part"):
        add(SMALL, SECRET)


@pytest.mark.parametrize("size", [0, 31, 33, 64, 65, 1 << 20])
def test_a_secret_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(EvidenceImportError, match=f"has {size} bytes"):
        add(UNOPENED, b"s" * size)
