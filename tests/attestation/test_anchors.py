"""Pinned roots are those of the vendors' own certificates, and a user's come with their purpose."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.anchors import AnchorError, anchors_for, parse_anchor, vendor_anchors
from attestation.container import EvidencePlatform
from attestation.policy import Environment, RootPurpose, TrustAnchor
from tests.support.policies import permissive_policy
from tests.support.vectors import vector

OWN = TrustAnchor(
    purpose=RootPurpose.TPM_EK, fingerprint=b"\xab" * 32, subject="CN=mine", source="me", date="2026-11-30"
)
SIM = dataclasses.replace(OWN, purpose=RootPurpose.SIM)
POLICY = permissive_policy(EvidencePlatform.TDX)


def der(path: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(vector(path).read_bytes())


def root_in(path: str) -> x509.Certificate:
    """The one certificate in a PEM file that is signed by itself."""
    found = [
        one for one in x509.load_pem_x509_certificates(vector(path).read_bytes()) if one.issuer == one.subject
    ]
    assert len(found) == 1
    found[0].verify_directly_issued_by(found[0])
    return found[0]


@pytest.mark.parametrize(
    ("purpose", "path", "read"),
    [
        (RootPurpose.INTEL_DCAP, "attestation/dcap/intel_sgx_root_ca.der", der),
        (RootPurpose.AMD_MILAN, "attestation/snp/milan_ask_ark_asvk.pem", root_in),
        (RootPurpose.AMD_GENOA, "attestation/snp/genoa_ask_ark_asvk.pem", root_in),
        (RootPurpose.AMD_TURIN, "attestation/snp/turin_ask_ark_asvk.pem", root_in),
        (RootPurpose.AWS_NITRO, "attestation/nitro/AWS_NitroEnclaves_Root-G1.pem", root_in),
        (RootPurpose.NVIDIA_DEVICE, "attestation/nvidia/device_root.pem", root_in),
        (RootPurpose.NVIDIA_RIM, "attestation/nvidia/rim_root.crt", root_in),
    ],
)
def test_a_fingerprint_is_that_of_the_vendors_certificate(
    purpose: RootPurpose, path: str, read: Callable[[str], x509.Certificate]
) -> None:
    certificate = read(path)
    (anchor,) = (one for one in vendor_anchors() if one.purpose is purpose)
    encoded = certificate.public_bytes(Encoding.DER)
    assert anchor.fingerprint == hashlib.sha256(encoded).digest()
    attributes = set(certificate.subject.rfc4514_string().split(","))
    assert attributes == set(anchor.subject.split(","))
    assert anchors_for(POLICY).find(encoded, purpose) == anchor
    for other in set(RootPurpose) - {purpose}:
        assert anchors_for(POLICY).find(encoded, other) is None


def test_each_vendor_has_one_root_and_no_test_root_is_pinned() -> None:
    purposes = [one.purpose for one in vendor_anchors()]
    assert len(set(purposes)) == len(purposes) == 7
    assert not set(purposes) & {RootPurpose.SIM, RootPurpose.TPM_EK, RootPurpose.TPM_AK}


def test_own_roots_are_added_for_their_purpose_only() -> None:
    anchors = anchors_for(dataclasses.replace(POLICY, roots=(OWN,)))
    assert anchors.fingerprints(RootPurpose.TPM_EK) == {OWN.fingerprint}
    assert OWN.fingerprint not in anchors.fingerprints(RootPurpose.TPM_AK)
    assert set(vendor_anchors()) < set(anchors.anchors)


def test_attack_a_test_root_in_a_release_policy() -> None:
    policy = dataclasses.replace(POLICY, roots=(SIM,))
    assert SIM in anchors_for(policy).anchors
    with pytest.raises(AnchorError, match="release policy never trusts"):
        anchors_for(dataclasses.replace(policy, environment=Environment.RELEASE))


GOOD = {
    "purpose": "tpm-ek",
    "fingerprint": "ab" * 32,
    "subject": "CN=mine",
    "source": "me",
    "date": "2026-11-30",
}


def test_an_entry() -> None:
    assert parse_anchor(GOOD, subject="test") == OWN


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {**GOOD, "more": ""},
        {**GOOD, "purpose": "tpm"},
        {**GOOD, "fingerprint": "AB" * 32},
        {**GOOD, "fingerprint": "ab" * 31},
        {**GOOD, "date": "30.11.2026"},
        [],
    ],
)
def test_an_entry_that_is_none(entry: object) -> None:
    with pytest.raises(AnchorError) as caught:
        parse_anchor(entry, subject="test")
    assert caught.value.subject == "test"
