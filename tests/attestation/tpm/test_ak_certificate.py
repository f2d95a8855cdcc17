"""Certificates of attestation keys, as Google and Azure issue them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.ek_certificate import EK_USAGE
from attestation.importers import import_evidence
from attestation.policy import AkProof, Measurements, Policy, RootPurpose
from attestation.tpm.ak_certificate import (
    AK_USAGE,
    INSTANCE_IDENTITY,
    instance_identity,
    read_ak_certificate,
)
from attestation.tpm_signature import public_key
from attestation.tpm_structures import parse_public
from attestation.x509_chain import CertificateError, load_certificate
from tests.support.paper_tpm import VALID_TO, key_usage, tpm_name
from tests.support.tpm_containers import (
    AK_KEY_USAGE,
    PaperMachine,
    anchor,
    container,
    failures,
    verify,
)
from tests.support.vectors import vector

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
NOT_CA = (x509.BasicConstraints(ca=False, path_length=None), True)
SIGNS = (AK_KEY_USAGE, True)


def der(tag: int, *contents: bytes) -> bytes:
    body = b"".join(contents)
    assert len(body) < 128
    return bytes([tag, len(body)]) + body


def identity(*, production: bytes = b"\xff", names: bytes = b"vm", more: bytes = b"") -> bytes:
    """Google's extension, as its own tests lay it out."""
    properties = der(
        0x30, der(0xA0, der(2, b"\0")), der(0xA1, der(1, production)), der(0xA2, der(1, b"\xff"))
    )
    fields = (
        der(0x0C, b"us-central1-a"),
        der(2, b"\x5e"),
        der(0x0C, b"project"),
        der(2, bytes.fromhex("2f61c7a1b2c3d4e5")),
        der(0x0C, names),
    )
    return der(0x30, *fields, der(0xA0, properties), more)


@cache
def machine() -> PaperMachine:
    return PaperMachine()


def policy() -> Policy:
    return machine().policy(ak_proofs=frozenset({AkProof.AK_CERTIFICATE}))


def outcome(certificate: bytes, chosen: Policy | None = None) -> list[str]:
    part = machine().part(ak_certificate=certificate, ek_certificate=None, activated_secret=None)
    return failures(verify(container(machine(), part), chosen or policy()))


@pytest.mark.parametrize(
    "extensions",
    [
        [NOT_CA, SIGNS],
        [SIGNS],
        [SIGNS, (x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.4.1.311.10.3.12"), AK_USAGE]), False)],
        [NOT_CA, SIGNS, (x509.ExtendedKeyUsage([AK_USAGE]), True), (tpm_name(), True)],
        [NOT_CA, SIGNS, (x509.ExtendedKeyUsage([EK_USAGE]), False), (tpm_name(), True)],
        [NOT_CA, SIGNS, (x509.UnrecognizedExtension(INSTANCE_IDENTITY, identity()), False)],
    ],
)
def test_certificates_of_clouds_pass(extensions: Extensions) -> None:
    assert outcome(machine().issue_ak(extensions)) == []


def test_what_google_says_of_the_instance_is_a_fact() -> None:
    extension = x509.UnrecognizedExtension(INSTANCE_IDENTITY, identity())
    certificate = machine().issue_ak([NOT_CA, SIGNS, (extension, False)])
    part = machine().part(ak_certificate=certificate, ek_certificate=None)
    facts = verify(container(machine(), part), policy()).facts
    assert facts is not None
    assert facts.details["gcp_zone"] == "us-central1-a"
    assert facts.details["gcp_instance_id"] == str(0x2F61C7A1B2C3D4E5)
    assert facts.details["ak_subject"] == "CN=1234"
    assert facts.identity["platform_id"] == facts.identity["ak_id"]


@pytest.mark.parametrize("name", ["gce-cos-85-no-nonce.pb", "gce-cos-85-nonce9009.pb"])
def test_real_evidence_of_google(name: str) -> None:
    """Quote and AK certificate hold; the authority above the certificate is not among the vectors."""
    evidence = import_evidence(vector(f"tpm-quote-pairs/go-tpm-tools/{name}").read_bytes())
    result = verify(evidence, policy())
    assert failures(result) == ["ak-chain"]
    assert result.groups[0].passed
    assert evidence.tpm is not None
    assert evidence.tpm.ak_certificate is not None
    details = read_ak_certificate(evidence.tpm.ak_certificate)
    assert details["gcp_zone"] == "us-central1-a"
    assert details["gcp_project_id"] == "google.com:wuale-gcp-testing"
    key = load_certificate(evidence.tpm.ak_certificate).public_key()
    assert key == public_key(parse_public(evidence.tpm.ak_public))


@pytest.mark.parametrize(
    "extensions",
    [
        [NOT_CA],
        [NOT_CA, (key_usage(key_encipherment=True), True)],
        [NOT_CA, (key_usage(digital_signature=True, key_encipherment=True), True)],
        [NOT_CA, (key_usage(digital_signature=True, key_cert_sign=True), True)],
        [(x509.BasicConstraints(ca=True, path_length=0), True), SIGNS],
        [NOT_CA, SIGNS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)],
        [NOT_CA, SIGNS, (x509.OCSPNoCheck(), True)],
        [NOT_CA, SIGNS, (x509.UnrecognizedExtension(INSTANCE_IDENTITY, identity(production=b"\0")), False)],
        [NOT_CA, SIGNS, (x509.UnrecognizedExtension(INSTANCE_IDENTITY, b""), False)],
    ],
)
def test_certificates_for_something_else_are_refused(extensions: Extensions) -> None:
    assert outcome(machine().issue_ak(extensions)) == ["ak-certificate"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        identity()[:-1],
        identity() + b"\0",
        identity() * 2,
        der(0x30),
        identity(names=b""),
        identity(names=b"\xff\xfe"),
        identity(production=b"\x01"),
        identity(more=der(2, b"\0")),
        b"\x31" + identity()[1:],
    ],
)
def test_malformed_instance_identities_are_refused(value: bytes) -> None:
    with pytest.raises(CertificateError):
        instance_identity(value)


def test_the_certificate_must_be_for_the_key_that_signed() -> None:
    other = PaperMachine()
    assert outcome(machine().issue_ak(key=other.tpm.ak.public_key())) == ["ak-certificate-key"]


def test_the_certificate_needs_its_root_and_its_time() -> None:
    other = PaperMachine()
    assert outcome(other.issue_ak(key=machine().tpm.ak.public_key())) == ["ak-chain"]
    ek_root = replace(policy(), roots=(anchor(machine().root.certificate, RootPurpose.TPM_EK),))
    assert outcome(machine().issue_ak(), ek_root) == ["ak-chain"]
    part = machine().part(ak_certificate=machine().issue_ak())
    late = int(VALID_TO.timestamp()) + 1
    assert failures(verify(container(machine(), part), policy(), now=late)) == ["ak-validity"]


def test_all_proofs_that_are_there_must_hold() -> None:
    both = machine().policy(ak_proofs=frozenset({AkProof.AK_CERTIFICATE, AkProof.CREDENTIAL}))
    good = machine().part(ak_certificate=machine().issue_ak())
    assert failures(verify(container(machine(), good), both)) == []
    bad = replace(good, activated_secret=bytes(32))
    assert failures(verify(container(machine(), bad), both)) == ["credential-activation"]


def test_a_public_area_that_the_quote_does_not_name_is_refused() -> None:
    """A certificate holds the bare key: attributes come from the public area, which the quote must name."""
    part = machine().part(ak_certificate=machine().issue_ak(), ek_certificate=None)
    changed = part.ak_public[:4] + (0x50072).to_bytes(4, "big") + part.ak_public[8:]
    evidence = container(machine(), replace(part, ak_public=changed))
    assert failures(verify(evidence, policy())) == ["quote-signer"]


def test_no_measurement_set_means_no_machine() -> None:
    part = machine().part(ak_certificate=machine().issue_ak(), ek_certificate=None)
    chosen = machine().policy(measurements=Measurements(sets=()))
    assert failures(verify(container(machine(), part), chosen)) == ["measurements"]
