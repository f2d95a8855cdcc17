"""ECDSA on P-256 with SHA-256, in the raw forms that DCAP uses: r ‖ s and x ‖ y, big endian."""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

SIGNATURE_SIZE = 64
_HALF = SIGNATURE_SIZE // 2


def signed_by_certificate(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
    """Whether the certificate's key, which has to be on P-256, signed ``data``."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    return _verifies(key, signature, data)


def signed_by_point(point: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the key ``point`` (64 bytes) signed ``data``; not so if it is no point of the curve."""
    key = _key(point)
    return key is not None and _verifies(key, signature, data)


def is_point(point: bytes) -> bool:
    """Whether 64 bytes are a point of the curve."""
    return _key(point) is not None


@lru_cache(maxsize=256)
def _key(point: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        return None


def _verifies(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    if len(signature) != SIGNATURE_SIZE:
        return False
    r, s = int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
