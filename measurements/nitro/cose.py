"""COSE_Sign1 messages: what Nitro signs registers and attestation documents with.

Layout (RFC 8152 sections 4.2 and 4.4): CBOR array of protected header (byte string, itself CBOR of a map),
unprotected header (map), payload (byte string) and signature (byte string, r and s in as many bytes each as
the curve's order has). Nitro writes it without the tag 18, with ``{1: algorithm}`` as protected and an empty
unprotected header (aws-nitro-enclaves-cose 0.5; "EifSectionSignature" in the README of
aws-nitro-enclaves-image-format). Signed is CBOR of ``["Signature1", protected, b"", payload]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from measurements.errors import FormatError
from measurements.strict_cbor import parse_cbor

MAX_MESSAGE = 32768
_ALGORITHM = 1
_HASHES: dict[int, tuple[str, hashes.HashAlgorithm]] = {
    -7: ("secp256r1", hashes.SHA256()),
    -35: ("secp384r1", hashes.SHA384()),
    -36: ("secp521r1", hashes.SHA512()),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CoseSign1:
    """One signed message; ``algorithm`` is the number of the COSE registry."""

    protected: bytes
    algorithm: int
    payload: bytes
    signature: bytes

    def is_signed_by(self, key: PublicKeyTypes) -> bool:
        """Whether ``key``, on the curve that the algorithm names, made the signature."""
        curve, algorithm = _HASHES[self.algorithm]
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
            return False
        size = (key.curve.key_size + 7) // 8
        if len(self.signature) != 2 * size:
            return False
        r, s = (int.from_bytes(half, "big") for half in (self.signature[:size], self.signature[size:]))
        signed = cbor2.dumps(["Signature1", self.protected, b"", self.payload])
        try:
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
        except InvalidSignature:
            return False
        return True


def parse_cose_sign1(data: bytes, *, subject: str) -> CoseSign1:
    """The message; raises ``FormatError`` for any other structure, header or algorithm."""
    parts = parse_cbor(data, limit=MAX_MESSAGE, subject=subject)
    if not isinstance(parts, list) or len(parts) != 4:
        _refuse(subject, "is not an array of four parts")
    protected, unprotected, payload, signature = parts
    for name, part in (("protected header", protected), ("payload", payload), ("signature", signature)):
        if not isinstance(part, bytes):
            _refuse(subject, f"its {name} is not a byte string")
    if unprotected != {}:
        _refuse(subject, "has an unprotected header, which nothing signs")
    header = parse_cbor(protected, limit=MAX_MESSAGE, subject=f"{subject}, protected header")
    if not isinstance(header, dict) or set(header) != {_ALGORITHM}:
        _refuse(subject, "its protected header names more or less than the algorithm")
    algorithm = header[_ALGORITHM]
    if isinstance(algorithm, bool) or not isinstance(algorithm, int) or algorithm not in _HASHES:
        _refuse(subject, f"its algorithm {algorithm!r} is none of {', '.join(map(str, _HASHES))}")
    return CoseSign1(protected=protected, algorithm=algorithm, payload=payload, signature=signature)


def _refuse(subject: str, reason: str) -> NoReturn:
    raise FormatError(reason, subject=subject, advice="give a COSE_Sign1 message as Nitro's tools write it")
