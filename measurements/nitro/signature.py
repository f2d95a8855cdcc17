"""The signature section of an enclave image file: who signed PCR 0.

Layout ("EifSectionSignature" in the README of aws-nitro-enclaves-image-format): CBOR array of one map with
``signing_certificate`` (the PEM text) and ``signature`` (a COSE_Sign1 message), both written as arrays of
small integers, not as byte strings. The payload of the message is CBOR of ``register_index`` (0) and
``register_value`` (48 bytes, again an array of integers). The format allows more maps, of which loaders use
the first; nitro-cli writes one, and another number is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from measurements.errors import FormatError, RefusedError
from measurements.nitro.cose import CoseSign1, parse_cose_sign1
from measurements.nitro.eif import MAX_SIGNATURE
from measurements.strict_cbor import parse_cbor

_SUBJECT = "signature section"
_REGISTER_SIZE = 48


class EifSignatureError(RefusedError):
    """A signature that is well formed, but not one over this image by its own certificate."""

    code = "eif-signature"


@dataclass(frozen=True, kw_only=True, slots=True)
class EifSignature:
    """Certificate (DER) and message of a signature section, and the PCR 0 that the message is about."""

    certificate: bytes
    message: CoseSign1
    pcr0: bytes


def parse_signature(section: bytes) -> EifSignature:
    """Read the section; raises ``FormatError`` for anything but the layout above."""
    entries = parse_cbor(section, limit=MAX_SIGNATURE, subject=_SUBJECT)
    if not isinstance(entries, list) or len(entries) != 1:
        _refuse("is not an array of one signature")
    entry = _exact_map(entries[0], "signing_certificate", "signature")
    message = parse_cose_sign1(_octets(entry["signature"], "signature"), subject=f"{_SUBJECT}, signature")
    payload = parse_cbor(message.payload, limit=MAX_SIGNATURE, subject=f"{_SUBJECT}, payload")
    signed = _exact_map(payload, "register_index", "register_value")
    index = signed["register_index"]
    if isinstance(index, bool) or index != 0:
        _refuse(f"is about register {index!r}, not 0")
    value = _octets(signed["register_value"], "register_value")
    if len(value) != _REGISTER_SIZE:
        _refuse(f"has a register value of {len(value)} bytes, not {_REGISTER_SIZE}")
    certificate = _certificate(_octets(entry["signing_certificate"], "signing_certificate"))
    return EifSignature(certificate=certificate.public_bytes(Encoding.DER), message=message, pcr0=value)


def verify_signature(signature: EifSignature, *, pcr0: bytes) -> None:
    """Refuse, by ``EifSignatureError``, a signature over another PCR 0 or by another key than its
    certificate's. The certificate itself is not judged: PCR 8 holds its digest.
    """
    if signature.pcr0 != pcr0:
        _deny(f"is about the PCR 0 {signature.pcr0.hex()}, and the image gives {pcr0.hex()}")
    try:
        key = x509.load_der_x509_certificate(signature.certificate).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(
            f"has a certificate with an unknown key: {error}", subject=_SUBJECT, advice="sign with an EC key"
        ) from error
    if not signature.message.is_signed_by(key):
        _deny("was not made with the key of its certificate")


def _exact_map(value: object, *keys: str) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != set(keys):
        _refuse(f"has no map of exactly {' and '.join(keys)} where one must be")
    return value


def _octets(value: object, name: str) -> bytes:
    """Bytes from the array of integers that they are written as."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 256 for item in value):
        _refuse(f"{name} is not an array of bytes")
    return bytes(value)


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        _refuse(f"signing_certificate is not PEM: {error}")
    if len(certificates) != 1:
        _refuse(f"has {len(certificates)} certificates, not one")
    return certificates[0]


def _refuse(reason: str) -> NoReturn:
    raise FormatError(reason, subject=_SUBJECT, advice="sign the image with nitro-cli")


def _deny(reason: str) -> NoReturn:
    raise EifSignatureError(
        reason, subject=_SUBJECT, advice="do not use this image: take it, or its signature, from its builder"
    )
