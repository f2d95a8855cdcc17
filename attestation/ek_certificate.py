"""EK certificates: that a TPM's endorsement key was certified under an allowed root.

Source: TCG EK Credential Profile for TPM 2.0, version 2.5, section 3.2, and RFC 5280, section 6.1. Of an EK
certificate are required:

- X.509 version 3, signed with SHA-256 or better, valid at the given time;
- basic constraints: no authority; key usage: key encipherment (RSA) or key agreement (ECC) and nothing that
  signs; extended key usage holds 2.23.133.8.1;
- subject alternative name: one directory name with manufacturer, model and version of the TPM (2.23.133.2.1
  to 2.23.133.2.3), critical or not;
- no other critical extension.

Of every issuer up to the root: an authority that may sign certificates, within its path length, valid,
signed with SHA-256 or better, and no critical extension but basic constraints and key usage (name
constraints would be ignored, so they are refused). A root is trusted by its bytes, self-signed or not.

SHA-256 of the root's DER is the *platform root*; SHA-256 of the EK's SubjectPublicKeyInfo is the *platform
id*. It is not that of the certificate, because anybody can give an ECDSA signature another form. Revocation
lists are not read: a root or a device is revoked where it is allowed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID

from measurements.errors import RefusedError

EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
MAX_CERTIFICATE = 8192
MAX_INTERMEDIATES = 16
MAX_DEPTH = 4
"""Issuers in one chain, the root included."""

_TPM_NAME = {"2.23.133.2.1": "manufacturer", "2.23.133.2.2": "model", "2.23.133.2.3": "version"}
_EK_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
_CA_CRITICAL = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
_SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_MIN_RSA_BITS = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What ``cryptography`` raises, some of it late, for certificates that it cannot read."""


class EkCertificateError(RefusedError):
    """An EK certificate that proves nothing."""

    code = "ek-certificate"


@dataclass(frozen=True, kw_only=True, slots=True)
class EkCertificate:
    """A verified certificate; hashes are 32 bytes."""

    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    platform_root: bytes
    platform_id: bytes
    manufacturer: str
    model: str
    version: str


def verify_ek_certificate(
    der: bytes, *, roots: Sequence[bytes], intermediates: Sequence[bytes] = (), now: int
) -> EkCertificate:
    """Verify one EK certificate. All certificates are DER; ``now`` is in seconds since 1970.

    Raises ``EkCertificateError`` unless it chains to one of ``roots`` and is all that is required.
    """
    moment = datetime.fromtimestamp(now, tz=UTC)
    certificate = _load(der, "the EK certificate")
    _check_validity(certificate, moment, "the EK certificate")
    verified = read_ek_certificate(der, platform_root=bytes(32))
    root = _find_root(certificate, roots=roots, intermediates=intermediates, moment=moment)
    return replace(verified, platform_root=hashlib.sha256(root).digest())


@lru_cache(maxsize=256)
def read_ek_certificate(der: bytes, *, platform_root: bytes) -> EkCertificate:
    """What a certificate says whose chain (to the root with the hash ``platform_root``) and validity the
    caller verifies. Raises ``EkCertificateError`` unless it is all else that is required.
    """
    certificate = _load(der, "the EK certificate")
    public_key = certificate.public_key()
    if not isinstance(public_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise _error("holds a key that is neither RSA nor ECC")
    try:
        _check_common(certificate, _EK_CRITICAL, "the EK certificate")
        _check_usage(certificate, public_key)
        tpm = _tpm_name(certificate)
    except _MALFORMED as error:
        raise _error(f"is not readable as an EK certificate: {error}") from error
    return EkCertificate(
        public_key=public_key,
        platform_root=platform_root,
        platform_id=hashlib.sha256(_key_info(public_key)).digest(),
        manufacturer=tpm["manufacturer"],
        model=tpm["model"],
        version=tpm["version"],
    )


def ek_public_key(der: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The key in an EK certificate that is *not* verified yet: for a credential, which only that EK opens."""
    public_key = _load(der, "the EK certificate").public_key()
    if not isinstance(public_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise _error("holds a key that is neither RSA nor ECC")
    return public_key


def _key_info(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load(der: bytes, what: str) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE:
        raise _error(f"{what} is larger than {MAX_CERTIFICATE} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        version = certificate.version
    except _MALFORMED as error:
        raise _error(f"{what} is no X.509 certificate: {error}") from error
    # A signature that leaves bits of its last byte unused would have two encodings.
    if version is not x509.Version.v3 or not der.endswith(b"\0" + certificate.signature):
        raise _error(f"{what} is no X.509 certificate of version 3 in its one encoding")
    return certificate


def _check_validity(certificate: x509.Certificate, moment: datetime, what: str) -> None:
    if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
        raise _error(f"{what} is not valid at {moment.isoformat()}")


def _check_common(certificate: x509.Certificate, critical: set[x509.ObjectIdentifier], what: str) -> None:
    """Strength, and extensions that would have to be understood."""
    if not isinstance(certificate.signature_hash_algorithm, _SIGNATURE_HASHES):
        raise _error(f"{what} is signed with a hash that is not accepted")
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        strong = key.key_size >= _MIN_RSA_BITS
    else:
        strong = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)
    if not strong:
        raise _error(f"{what} holds a key that is too weak or of an unknown kind")
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in critical:
            raise _error(f"{what} has the critical extension {extension.oid.dotted_string}")


def _check_usage(certificate: x509.Certificate, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> None:
    if _extension(certificate, x509.BasicConstraints, "the EK certificate").ca:
        raise _error("the EK certificate is an authority")
    usage = _extension(certificate, x509.KeyUsage, "the EK certificate")
    encrypts = usage.key_encipherment if isinstance(key, rsa.RSAPublicKey) else usage.key_agreement
    if not encrypts or usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise _error("the EK certificate's key usage is not that of an endorsement key")
    if EK_USAGE not in _extension(certificate, x509.ExtendedKeyUsage, "the EK certificate"):
        raise _error(f"the EK certificate lacks the extended key usage {EK_USAGE.dotted_string}")


def _extension(certificate: x509.Certificate, kind: type[_Extension], what: str) -> _Extension:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound as error:
        raise _error(f"{what} lacks the extension {kind.__name__}") from error


def _tpm_name(certificate: x509.Certificate) -> dict[str, str]:
    """Manufacturer, model and version, each exactly once."""
    names = _extension(certificate, x509.SubjectAlternativeName, "the EK certificate")
    directories = [name.value for name in names if isinstance(name, x509.DirectoryName)]
    if len(directories) != 1:
        raise _error("the EK certificate does not name one TPM")
    found: dict[str, str] = {}
    for attribute in directories[0]:
        key = _TPM_NAME.get(attribute.oid.dotted_string)
        if key is None:
            continue
        if key in found:
            raise _error(f"the EK certificate names its TPM's {key} twice")
        found[key] = str(attribute.value)
    if len(found) != len(_TPM_NAME):
        raise _error("the EK certificate lacks its TPM's manufacturer, model or version")
    return found


def _find_root(
    certificate: x509.Certificate, *, roots: Sequence[bytes], intermediates: Sequence[bytes], moment: datetime
) -> bytes:
    """DER of the allowed root that the certificate chains to."""
    if not roots:
        raise _error("no root is allowed")
    if len(intermediates) > MAX_INTERMEDIATES:
        raise _error(f"more than {MAX_INTERMEDIATES} intermediate certificates are given")
    anchors = [_load(root, "a root") for root in roots]
    others = [_load(other, "an intermediate certificate") for other in intermediates]
    refusals: list[str] = []
    current = [certificate]
    for depth in range(MAX_DEPTH):
        for child in current:
            for anchor in _issuers(child, anchors, depth, moment, refusals):
                return anchor.public_bytes(Encoding.DER)
        current = [
            issuer for child in current for issuer in _issuers(child, others, depth, moment, refusals)
        ][:MAX_INTERMEDIATES]
    raise _error(refusals[0] if refusals else "the EK certificate does not chain to an allowed root")


def _issuers(
    child: x509.Certificate,
    candidates: Iterable[x509.Certificate],
    depth: int,
    moment: datetime,
    refusals: list[str],
) -> list[x509.Certificate]:
    """Candidates that issued ``child`` and may, with ``depth`` authorities below them; why others may not is
    added to ``refusals``.
    """
    found = []
    for candidate in candidates:
        try:
            child.verify_directly_issued_by(candidate)
        except (InvalidSignature, *_MALFORMED):
            continue
        try:
            _check_authority(candidate, depth, moment)
        except EkCertificateError as error:
            refusals.append(error.reason)
            continue
        found.append(candidate)
    return found


def _check_authority(certificate: x509.Certificate, depth: int, moment: datetime) -> None:
    what = f"the authority {certificate.subject.rfc4514_string()}"
    try:
        _check_validity(certificate, moment, what)
        _check_common(certificate, _CA_CRITICAL, what)
        constraints = _extension(certificate, x509.BasicConstraints, what)
        usage = _extension(certificate, x509.KeyUsage, what)
    except _MALFORMED as error:
        raise _error(f"{what} is not readable as an authority: {error}") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise _error(f"{what} may not sign certificates")
    if constraints.path_length is not None and depth > constraints.path_length:
        raise _error(f"{what} allows only {constraints.path_length} authorities below it")


def _error(reason: str) -> EkCertificateError:
    return EkCertificateError(
        reason,
        subject="EK certificate",
        advice="allow the root of this TPM's maker if you trust it, or use a TPM whose root is allowed",
    )
