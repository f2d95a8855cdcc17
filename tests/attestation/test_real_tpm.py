"""A real software TPM: its certificate, its quote and its credentials meet what is verified here."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.credential import CredentialError, check_activation, make_credential, new_secret
from attestation.ek_certificate import EkCertificateError, verify_ek_certificate
from attestation.evidence import Evidence
from attestation.report_data import qualifying_data
from attestation.tpm_evidence import Expectations, LogPart, credential_for, verify_tpm_evidence
from attestation.tpm_signature import public_key
from attestation.tpm_structures import Attributes, Scheme, parse_public, parse_quote, parse_signature
from measurements.eventlog import Algorithm, parse_event_log
from tests.attestation.test_tpm_evidence import MANIFEST, RELEASE, REPORT_DATA
from tests.support.paper_tpm import firmware_log, reference_of, start_registers
from tests.support.software_tpm_keys import (
    AK,
    ECC_EK_HANDLE,
    RSA_AK,
    UNRESTRICTED_AK,
    SoftwareTpmKeys,
    software_tpm_keys,
)

pytestmark = pytest.mark.apt
LOG, BOOTED = firmware_log()


@pytest.fixture(scope="module")
def tpm() -> Iterator[SoftwareTpmKeys]:
    """A machine that booted firmware and agent, up to the quote for key release."""
    with software_tpm_keys() as keys:
        for event in parse_event_log(LOG).events:
            digests = {algorithm.bank: digest for algorithm, digest in event.digests.items()}
            assert set(digests) == {Algorithm.SHA256.bank, Algorithm.SHA384.bank}
            keys.extend(event.pcr, digests)
        keys.extend_events(RELEASE)
        yield keys


def evidence_of(
    tpm: SoftwareTpmKeys, template: bytes, *, hierarchy: str = "ENDORSEMENT", data: bytes = REPORT_DATA
) -> Evidence:
    key, public = tpm.create_ak(template, hierarchy=hierarchy)
    try:
        quote, signature = tpm.quote(key, qualifying_data(data))
    finally:
        tpm.flush(key)
    return Evidence(
        quote=quote,
        signature=signature,
        ak_public=public,
        ek_certificate=tpm.ek_certificate(),
        pcrs=tpm.registers(),
        event_log=LOG,
        runtime_events=tuple(RELEASE),
        app_manifest=MANIFEST,
        reference=reference_of(BOOTED),
    )


def expectations(tpm: SoftwareTpmKeys) -> Expectations:
    return Expectations(
        report_data=REPORT_DATA,
        roots=[tpm.issuer],
        reference=reference_of(BOOTED),
        now=int(time.time()),
        part=LogPart.RELEASE,
    )


def failure(tpm: SoftwareTpmKeys, evidence: Evidence) -> str | None:
    first = verify_tpm_evidence(evidence, expectations(tpm)).verdict.first_failure
    return first.name if first else None


@pytest.mark.parametrize("template", [AK, RSA_AK], ids=["ecc", "rsa"])
def test_evidence_of_a_real_tpm_passes(tpm: SoftwareTpmKeys, template: bytes) -> None:
    assert failure(tpm, evidence_of(tpm, template)) is None


def test_real_evidence_is_refused_for_each_attack(tpm: SoftwareTpmKeys) -> None:
    assert failure(tpm, evidence_of(tpm, AK, data=b"\x01" * 64)) == "report-data"
    assert failure(tpm, evidence_of(tpm, UNRESTRICTED_AK)) == "ak-attributes"
    assert failure(tpm, evidence_of(tpm, AK, hierarchy="OWNER")) == "quote-signer"
    good = evidence_of(tpm, AK)
    assert failure(tpm, good._replace(pcrs=start_registers())) == "pcr-digest"
    assert failure(tpm, good._replace(ak_public=evidence_of(tpm, RSA_AK).ak_public)) == "quote-signature"


def test_the_chain_of_a_software_tpm(tpm: SoftwareTpmKeys) -> None:
    der, now = tpm.ek_certificate(), int(time.time())
    verified = verify_ek_certificate(der, roots=[tpm.root], intermediates=[tpm.issuer], now=now)
    assert (verified.manufacturer, verified.model) == ("id:00001014", "swtpm")
    assert verified.public_key == public_key(parse_public(tpm.ek_public()))
    with pytest.raises(EkCertificateError):
        verify_ek_certificate(der, roots=[tpm.root], now=now)


def test_public_areas_and_quotes_of_a_real_tpm_are_read(tpm: SoftwareTpmKeys) -> None:
    endorsement = parse_public(tpm.ek_public())
    assert Attributes.DECRYPT | Attributes.RESTRICTED in endorsement.attributes
    assert endorsement.scheme is Scheme.NULL
    evidence = evidence_of(tpm, AK)
    quote = parse_quote(evidence.quote)
    assert quote.extra_data == qualifying_data(REPORT_DATA)
    assert quote.qualified_signer == parse_public(evidence.ak_public).qualified_name()
    assert parse_signature(evidence.signature).scheme is Scheme.ECDSA


def test_a_real_tpm_opens_the_credential_of_its_own_keys(tpm: SoftwareTpmKeys) -> None:
    secret = new_secret()
    key, public = tpm.create_ak()
    try:
        made = credential_for(ek_certificate=tpm.ek_certificate(), ak_public=public, secret=secret)
        assert tpm.activate(key, made.id_object, made.encrypted_secret) == secret
    finally:
        tpm.flush(key)


def test_a_real_tpm_opens_a_credential_of_its_ecc_ek(tpm: SoftwareTpmKeys) -> None:
    secret = new_secret()
    endorsement = public_key(parse_public(tpm.ek_public(ECC_EK_HANDLE)))
    assert isinstance(endorsement, ec.EllipticCurvePublicKey)
    key, public = tpm.create_ak()
    try:
        made = make_credential(endorsement, name=parse_public(public).name, secret=secret)
        assert tpm.activate(key, made.id_object, made.encrypted_secret, ek=ECC_EK_HANDLE) == secret
    finally:
        tpm.flush(key)


def test_a_credential_for_another_key_or_another_tpm_does_not_open(tpm: SoftwareTpmKeys) -> None:
    from tpm2_pytss import TSS2_Exception

    key, public = tpm.create_ak()
    other, other_public = tpm.create_ak(RSA_AK)
    try:
        for_other_key = credential_for(
            ek_certificate=tpm.ek_certificate(), ak_public=other_public, secret=new_secret()
        )
        with pytest.raises(TSS2_Exception):
            tpm.activate(key, for_other_key.id_object, for_other_key.encrypted_secret)
        with software_tpm_keys() as machine:
            for_other_tpm = credential_for(
                ek_certificate=machine.ek_certificate(), ak_public=public, secret=new_secret()
            )
        with pytest.raises(TSS2_Exception):
            tpm.activate(key, for_other_tpm.id_object, for_other_tpm.encrypted_secret)
    finally:
        tpm.flush(key)
        tpm.flush(other)


def test_a_wrong_secret_is_no_activation() -> None:
    with pytest.raises(CredentialError):
        check_activation(new_secret(), secret_hash=bytes(32))
