"""The EK certificate beside a TPM's evidence, which most software does not put into it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.container import EvidenceContainer
from attestation.container_codec import encode_container
from attestation.importers import EvidenceImportError, SideFile, import_evidence
from attestation.x509_chain import CertificateError
from tests.support.certificates import Wish, issue
from tests.support.containers import FULL, SMALL

DER = issue(Wish(name="endorsement key")).der
PEM = x509.load_der_x509_certificate(DER).public_bytes(Encoding.PEM)
assert FULL.tpm is not None
BARE = replace(FULL, tpm=replace(FULL.tpm, ek_certificate=None))


def add(evidence: EvidenceContainer, data: bytes) -> EvidenceContainer:
    return import_evidence(encode_container(evidence), files={SideFile.EK_CERTIFICATE: data})


@pytest.mark.parametrize("data", [DER, PEM], ids=["der", "pem"])
def test_the_certificate_is_added_and_nothing_else_changes(data: bytes) -> None:
    assert BARE.tpm is not None
    assert add(BARE, data) == replace(BARE, tpm=replace(BARE.tpm, ek_certificate=DER))


def test_a_certificate_that_is_there_is_not_replaced() -> None:
    with pytest.raises(EvidenceImportError, match="already"):
        add(FULL, DER)


def test_evidence_without_a_tpm_takes_none() -> None:
    with pytest.raises(EvidenceImportError, match="no TPM part"):
        add(SMALL, DER)


def test_two_certificates_are_not_one() -> None:
    with pytest.raises(EvidenceImportError, match="2 certificates"):
        add(BARE, PEM + PEM)


def test_what_is_no_certificate() -> None:
    with pytest.raises(CertificateError):
        add(BARE, b"certificate")
