"""Certificates and revocation lists for tests, every part of which can be made wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(kw_only=True)
class Issued:
    """A certificate with its key."""

    der: bytes
    key: Key

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.der)


@dataclass(kw_only=True)
class Wish:
    """What a certificate should say."""

    name: str
    ca: bool = False
    path_length: int | None = None
    cert_sign: bool | None = None
    crl_sign: bool = True
    start: datetime = START
    end: datetime = END
    serial: int = 7
    key: Key | None = None
    digest: hashes.SHA256 | hashes.SHA384 = field(default_factory=hashes.SHA256)
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()
    constraints: bool = True
    usage: bool = True


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def issue(wish: Wish, *, by: Issued | None = None, issuer_name: str | None = None) -> Issued:
    """A certificate; signed by itself without ``by``."""
    key = wish.key or ec.generate_private_key(ec.SECP256R1())
    issuer = name_of(issuer_name) if issuer_name else (by.certificate.subject if by else name_of(wish.name))
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(wish.name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(wish.serial)
        .not_valid_before(wish.start)
        .not_valid_after(wish.end)
    )
    if wish.constraints:
        constraints = x509.BasicConstraints(ca=wish.ca, path_length=wish.path_length)
        builder = builder.add_extension(constraints, critical=True)
    if wish.usage:
        builder = builder.add_extension(_usage(wish), critical=True)
    for extension, critical in wish.extensions:
        builder = builder.add_extension(extension, critical=critical)
    signer = by.key if by else key
    return Issued(der=builder.sign(signer, wish.digest).public_bytes(Encoding.DER), key=key)


def _usage(wish: Wish) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not wish.ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=wish.ca if wish.cert_sign is None else wish.cert_sign,
        crl_sign=wish.ca and wish.crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def revocation_list(
    by: Issued,
    serials: Sequence[int] = (),
    *,
    start: datetime = START,
    end: datetime | None = END,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """A list of ``by``, DER."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(by.certificate.subject)
    builder = builder.last_update(start).next_update(end or END)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.DER)
