"""The owner's side of envelopes (docs/formats.md, "Envelope"): reads secrets and key, seals, signs.

Secrets are lines ``NAME=value`` in UTF-8; everything behind the first ``=`` up to the end of the line is the
value, as it stands. Empty lines and lines that begin with ``#`` are skipped. The owner's key is an Ed25519
private key, PKCS #8 in PEM (RFC 5958, RFC 7468). No error shows a value.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from measurements.envelope import (
    MAX_SECRETS,
    Envelope,
    Target,
    encode_envelope,
    encode_secrets,
    hpke_info,
    parse_envelope,
    signed_bytes,
)
from measurements.errors import KeyturnError

LARGEST_INPUT = 2 * MAX_SECRETS
"""Bytes that are read: comments may take as much as values."""


class SecretsError(KeyturnError):
    """Secrets or a key that cannot be read."""

    code = "secrets"


def read_secrets(data: bytes) -> dict[str, str]:
    """Variables by name."""
    if len(data) > LARGEST_INPUT:
        raise _error(f"they have more than {LARGEST_INPUT} bytes", "seal less")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _error("they are not UTF-8", "write binary values as base64") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.removesuffix("\r").partition("=")
        if not equals or name in found:
            raise _error(
                f"line {number} is not NAME=value, or names a variable a second time",
                "give each variable once, on one line",
            )
        found[name] = value
    return found


def read_owner_key(pem: bytes) -> Ed25519PrivateKey:
    """The owner's private key."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise _key_error("it is not an unencrypted private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _key_error("it is not an Ed25519 key")
    return key


def seal_envelope(
    env: dict[str, str], target: Target, *, counter: int, public: bytes, owner: Ed25519PrivateKey
) -> bytes:
    """An envelope's bytes; ``public`` is the app's X25519 key (32 bytes). Raises ``EnvelopeFormatError``."""
    if owner.public_key().public_bytes_raw() != target.owner_key:
        raise _key_error(
            f"the app manifest names the owner key {target.owner_key.hex()}, and this is another"
        )
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    sealed = suite.encrypt(
        encode_secrets(env), X25519PublicKey.from_public_bytes(public), info=hpke_info(target, counter)
    )
    signature = owner.sign(signed_bytes(target, counter, sealed))
    data = encode_envelope(Envelope(target, counter, sealed, signature))
    parse_envelope(data)
    return data


def _error(reason: str, advice: str) -> SecretsError:
    return SecretsError(reason, subject="secrets", advice=advice)


def _key_error(reason: str) -> SecretsError:
    return SecretsError(
        reason, subject="owner key", advice="give the Ed25519 private key whose public half is app.owner-key"
    )
