"""Public areas of attestation keys: what they must be, and how a bare key gets one.

Layout: ``attestation.tpm_structures``. An attestation key (TPM 2.0 Library part 1, section 25) is a
restricted signing key that was made in its TPM and never leaves it: it signs what begins with the TPM's own
magic number only if the TPM made it.

Clouds show their vTPM's key as a bare RSA or ECC key. Its public area then follows from the template that
they use: the one of the TCG for restricted signing keys (attributes 0x50472, SHA-256, RSASSA or ECDSA with
SHA-256, no policy), as a primary key of the endorsement hierarchy. A quote names its signer by a hash over
all of this, so a wrong guess cannot pass.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestation.tpm_structures import Attributes, Curve, HashAlgorithm, KeyType, Public, Scheme
from measurements.errors import RefusedError

STANDARD_ATTRIBUTES = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.USER_WITH_AUTH
    | Attributes.NO_DA
    | Attributes.RESTRICTED
    | Attributes.SIGN
)
HIERARCHIES = {
    "endorsement": 0x4000000B,
    "owner": 0x40000001,
    "platform": 0x4000000C,
}
"""Handles of the hierarchies whose primary keys may attest (TPM 2.0 Library part 2, section 7.4)."""

_CURVES: tuple[tuple[type[ec.EllipticCurve], Curve], ...] = (
    (ec.SECP256R1, Curve.P256),
    (ec.SECP384R1, Curve.P384),
)
_DEFAULT_EXPONENT = 65537


class AkPublicError(RefusedError):
    """A key that has no public area of an attestation key."""

    code = "ak-public"


def standard_ak_public(key: rsa.RSAPublicNumbers | ec.EllipticCurvePublicNumbers) -> bytes:
    """TPMT_PUBLIC of an attestation key made from the standard template; raises ``AkPublicError``."""
    rsa_key = isinstance(key, rsa.RSAPublicNumbers)
    kind, scheme = (KeyType.RSA, Scheme.RSASSA) if rsa_key else (KeyType.ECC, Scheme.ECDSA)
    head = struct.pack(">HHIH", kind, HashAlgorithm.SHA256, STANDARD_ATTRIBUTES, 0)
    head += struct.pack(">HHH", Scheme.NULL, scheme, HashAlgorithm.SHA256)
    return head + (_rsa_tail(key) if isinstance(key, rsa.RSAPublicNumbers) else _ecc_tail(key))


def hierarchy_of(public: Public, qualified_signer: bytes) -> str | None:
    """Name of the hierarchy whose primary key ``public`` is, if that gives ``qualified_signer``."""
    return next(
        (name for name, handle in HIERARCHIES.items() if public.qualified_name(handle) == qualified_signer),
        None,
    )


def _rsa_tail(key: rsa.RSAPublicNumbers) -> bytes:
    size = (key.n.bit_length() + 7) // 8
    if key.e != _DEFAULT_EXPONENT or not 256 <= size <= 512:
        raise _error(f"an RSA key of {key.n.bit_length()} bits, exponent {key.e}, is no attestation key")
    return struct.pack(">HIH", 8 * size, 0, size) + key.n.to_bytes(size, "big")


def _ecc_tail(key: ec.EllipticCurvePublicNumbers) -> bytes:
    curve = next((mine for theirs, mine in _CURVES if isinstance(key.curve, theirs)), None)
    if curve is None:
        raise _error(f"a key on {key.curve.name} is no attestation key")
    x, y = (struct.pack(">H", curve.size) + number.to_bytes(curve.size, "big") for number in (key.x, key.y))
    return struct.pack(">HH", curve, Scheme.NULL) + x + y


def _error(reason: str) -> AkPublicError:
    return AkPublicError(reason, subject="attestation key", advice="take the public area from the TPM")
