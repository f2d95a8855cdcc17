"""Checks that a TPM key signed a quote.

RSASSA is PKCS #1 v1.5, RSAPSS uses the largest salt that fits or one as long as the hash (TPM 2.0 Library
part 1, annex B.7), ECDSA is as in FIPS 186 (annex C). SHA-1 and keys below 2048 or 256 bits are refused.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.tpm_structures import (
    Curve,
    EccParameters,
    HashAlgorithm,
    Public,
    RsaParameters,
    Scheme,
    Signature,
)
from measurements.errors import RefusedError

MIN_RSA_BITS = 2048
_HASHES: dict[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}
_CURVES: dict[Curve, ec.EllipticCurve] = {Curve.P256: ec.SECP256R1(), Curve.P384: ec.SECP384R1()}


class TpmSignatureError(RefusedError):
    """A signature that does not hold, or of a kind that is not accepted."""

    code = "tpm-signature"


@lru_cache(maxsize=256)
def public_key(public: Public) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The key of a public area. Raises ``TpmSignatureError`` for numbers that are no key."""
    parameters = public.parameters
    try:
        if isinstance(parameters, EccParameters):
            curve = _CURVES[parameters.curve]
            return ec.EllipticCurvePublicNumbers(parameters.x, parameters.y, curve).public_key()
        _check_rsa(parameters)
        return rsa.RSAPublicNumbers(parameters.exponent, parameters.modulus).public_key()
    except ValueError as error:
        raise _error(f"the key is none: {error}") from error


def verify_signature(public: Public, signature: Signature, message: bytes) -> None:
    """Raises ``TpmSignatureError`` unless ``public`` signed ``message`` with its own scheme and hash."""
    if (public.scheme, public.scheme_hash) != (signature.scheme, signature.hash_algorithm):
        raise _error("the signature is not of the scheme and hash that the key is bound to")
    algorithm = _HASHES.get(signature.hash_algorithm)
    if algorithm is None:
        raise _error(f"hash {signature.hash_algorithm.bank} is not accepted")
    key = public_key(public)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(_dss(signature), message, ec.ECDSA(algorithm))
        else:
            key.verify(signature.rsa, message, _padding(signature.scheme, algorithm), algorithm)
    except (InvalidSignature, ValueError) as error:
        raise _error("the signature does not hold") from error


def _check_rsa(parameters: RsaParameters) -> None:
    if parameters.bits < MIN_RSA_BITS or parameters.exponent < 3 or not parameters.exponent & 1:
        raise _error(f"an RSA key of {parameters.bits} bits, exponent {parameters.exponent}, is not accepted")


def _dss(signature: Signature) -> bytes:
    if signature.scheme is not Scheme.ECDSA:
        raise _error(f"an ECC key does not sign with {signature.scheme.name}")
    return encode_dss_signature(signature.r, signature.s)


def _padding(scheme: Scheme, algorithm: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    if scheme is Scheme.RSASSA:
        return padding.PKCS1v15()
    if scheme is Scheme.RSAPSS:
        return padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.AUTO)
    raise _error(f"an RSA key does not sign with {scheme.name}")


def _error(reason: str) -> TpmSignatureError:
    return TpmSignatureError(
        reason, subject="TPM signature", advice="use evidence that its own TPM signed, unchanged"
    )
