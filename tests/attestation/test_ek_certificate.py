"""EK certificates: one good chain, and each requirement missing by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from attestation.ek_certificate import (
    MAX_DEPTH,
    MAX_INTERMEDIATES,
    EkCertificateError,
    ek_public_key,
    verify_ek_certificate,
)
from tests.support.paper_tpm import EK_EXTENSIONS, NOW, VALID_FROM, Authority, key_usage, tpm_name

Extensions = Sequence[tuple[x509.ExtensionType, bool]]

EK = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
ECC_EK = ec.generate_private_key(ec.SECP256R1()).public_key()
ROOT = Authority("root")
ISSUER = Authority("issuer", parent=ROOT)
NOBODY = x509.Name([])
GOOD: Extensions = [*EK_EXTENSIONS, (key_usage(key_encipherment=True), True), (tpm_name(), True)]
PAST = (VALID_FROM, datetime(2025, 2, 1, tzinfo=UTC))


def check(
    der: bytes, *, roots: Sequence[bytes] = (ROOT.certificate,), intermediates: Sequence[bytes] = ()
) -> None:
    verify_ek_certificate(der, roots=roots, intermediates=intermediates, now=NOW)


def refused(der: bytes, reason: str, *, intermediates: Sequence[bytes] = ()) -> None:
    with pytest.raises(EkCertificateError, match=reason):
        check(der, intermediates=intermediates)


def replaced(extension: x509.ExtensionType, critical: bool = True) -> Extensions:
    """The good extensions with the one of the same kind replaced."""
    return [*(e for e in GOOD if type(e[0]) is not type(extension)), (extension, critical)]


def test_a_certificate_under_the_root_names_its_platform() -> None:
    der = ROOT.issue_ek(EK)
    verified = verify_ek_certificate(der, roots=[Authority("other").certificate, ROOT.certificate], now=NOW)
    assert verified.platform_root == hashlib.sha256(ROOT.certificate).digest()
    key_info = EK.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert verified.platform_id == hashlib.sha256(key_info).digest()
    assert (verified.manufacturer, verified.model, verified.version) == ("id:00001014", "paper", "id:1")
    assert verified.public_key == EK == ek_public_key(der)


def test_an_ecc_ek_is_accepted() -> None:
    check(ROOT.issue_ek(ECC_EK))


def test_a_chain_needs_its_intermediate() -> None:
    der = ISSUER.issue_ek(EK)
    check(der, intermediates=[ISSUER.certificate])
    refused(der, "does not chain")


def test_an_issuer_may_be_the_root_itself() -> None:
    verified = verify_ek_certificate(ISSUER.issue_ek(EK), roots=[ISSUER.certificate], now=NOW)
    assert verified.platform_root == hashlib.sha256(ISSUER.certificate).digest()


def test_an_authority_of_the_same_name_and_another_key_is_refused() -> None:
    refused(Authority("root").issue_ek(EK), "does not chain")


def test_an_allowed_root_among_the_intermediates_is_not_trusted() -> None:
    other = Authority("other")
    refused(other.issue_ek(EK), "does not chain", intermediates=[other.certificate])


def test_a_chain_that_is_too_long_is_refused() -> None:
    chain = [ROOT]
    for number in range(MAX_DEPTH):
        chain.append(Authority(f"issuer {number}", parent=chain[-1]))
    certificates = [authority.certificate for authority in chain[1:]]
    check(chain[-2].issue_ek(EK), intermediates=certificates)
    refused(chain[-1].issue_ek(EK), "does not chain", intermediates=certificates)


def test_too_many_intermediates_are_refused() -> None:
    many = [ISSUER.certificate] * (MAX_INTERMEDIATES + 1)
    refused(ISSUER.issue_ek(EK), "more than", intermediates=many)


@pytest.mark.parametrize(
    ("authority", "reason"),
    [
        (Authority("issuer", parent=ROOT, ca=False), "may not sign"),
        (Authority("issuer", parent=ROOT, usage=key_usage(digital_signature=True)), "may not sign"),
        (Authority("issuer", parent=ROOT, valid=PAST), "not valid"),
    ],
)
def test_an_issuer_that_may_not_sign_is_refused(authority: Authority, reason: str) -> None:
    refused(authority.issue_ek(EK), reason, intermediates=[authority.certificate])


def test_a_path_length_is_kept() -> None:
    root = Authority("short", path_length=0)
    issuer = Authority("issuer", parent=root)
    check(root.issue_ek(EK), roots=[root.certificate])
    with pytest.raises(EkCertificateError, match="allows only 0"):
        check(issuer.issue_ek(EK), roots=[root.certificate], intermediates=[issuer.certificate])


def test_an_expired_root_is_refused() -> None:
    root = Authority("old", valid=PAST)
    with pytest.raises(EkCertificateError, match="not valid"):
        check(root.issue_ek(EK), roots=[root.certificate])


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ([], "lacks"),
        (GOOD[1:], "BasicConstraints"),
        ([GOOD[0], *GOOD[2:]], "ExtendedKeyUsage"),
        ([*GOOD[:2], GOOD[3]], "lacks the extension KeyUsage"),
        (GOOD[:3], "SubjectAlternativeName"),
        (replaced(x509.BasicConstraints(ca=True, path_length=None)), "authority"),
        (replaced(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])), "extended key usage"),
        (replaced(key_usage(key_agreement=True)), "key usage"),
        (replaced(key_usage(key_encipherment=True, digital_signature=True)), "key usage"),
        (replaced(key_usage(key_encipherment=True, key_cert_sign=True)), "key usage"),
        (replaced(tpm_name(repeat=2)), "one TPM"),
        (replaced(x509.SubjectAlternativeName([x509.DNSName("tpm")])), "one TPM"),
        (replaced(x509.SubjectAlternativeName([x509.DirectoryName(NOBODY)])), "manufacturer"),
        ([*GOOD, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), True)], "1.2.3"),
    ],
)
def test_a_certificate_that_is_not_one_of_an_ek_is_refused(extensions: Extensions, reason: str) -> None:
    refused(ROOT.issue(EK, NOBODY, extensions), reason)


def test_a_tpm_named_twice_in_one_name_is_refused() -> None:
    oids = ["2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.2", "2.23.133.2.3"]
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(oid), "x") for oid in oids])
    extensions = replaced(x509.SubjectAlternativeName([x509.DirectoryName(name)]))
    refused(ROOT.issue(EK, NOBODY, extensions), "twice")


def test_other_names_and_extensions_that_only_inform_are_accepted() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tpm")])
    informs = (x509.SubjectKeyIdentifier.from_public_key(EK), False)
    check(ROOT.issue(EK, subject, [*GOOD[:3], (tpm_name(), False), informs]))


def test_an_expired_certificate_is_refused() -> None:
    refused(ROOT.issue(EK, NOBODY, GOOD, valid=PAST), "not valid")


def test_weak_keys_and_other_kinds_of_keys_are_refused() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505
    refused(ROOT.issue(weak, NOBODY, GOOD), "weak")
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    refused(ROOT.issue(edwards, NOBODY, GOOD), "neither RSA nor ECC")
    with pytest.raises(EkCertificateError):
        ek_public_key(ROOT.issue(edwards, NOBODY, GOOD))


def test_a_signature_with_a_weak_hash_is_refused() -> None:
    refused(ROOT.issue(EK, NOBODY, GOOD, algorithm=hashes.SHA224()), "hash")


@pytest.mark.parametrize("damage", [b"", b"\0", b"x" * 9000])
def test_bytes_after_the_certificate_and_no_certificate_are_refused(damage: bytes) -> None:
    refused(ROOT.issue_ek(EK) + damage if damage else b"", "no X.509|larger")


ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_the_platform_id_survives_another_form_of_the_signature() -> None:
    der = ROOT.issue_ek(EK)
    certificate = x509.load_der_x509_certificate(der)
    r, s = decode_dss_signature(certificate.signature)
    other = b"\0" + encode_dss_signature(r, P256_ORDER - s)
    body = certificate.tbs_certificate_bytes + ECDSA_SHA256 + bytes([0x03, len(other)]) + other
    changed = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    assert changed != der
    ids = {verify_ek_certificate(d, roots=[ROOT.certificate], now=NOW).platform_id for d in (der, changed)}
    assert len(ids) == 1


def test_a_signature_with_unused_bits_is_refused() -> None:
    der = ROOT.issue_ek(EK)
    while der[-1] & 1:
        der = ROOT.issue_ek(EK)
    signature = x509.load_der_x509_certificate(der).signature
    changed = der.replace(b"\0" + signature, b"\1" + signature)
    assert changed != der
    refused(changed, "one encoding|no X.509")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EkCertificateError):
        check(b"\x30\x82" + data)
