"""Derivation of every key from the root key (design 7).

``HKDF-SHA512(ikm = root (64 bytes), salt = "keyturn-kdf/1", info, length)`` (RFC 5869), where ``info`` is
the deterministic CBOR (RFC 8949 4.2.1) of the map in docs/formats.md, "Derivation". The kind is inside, so
keys of two kinds never share bytes.

Secrets are 32 bytes: raw bytes (raw-256, aes-256), RFC 8032 and RFC 7748 private keys (ed25519, x25519), or
big-endian scalars (secp256k1, p256), which are 48 derived bytes, big-endian, ``mod (n - 1) + 1``: never
zero, and biased by less than 2^-127. Public halves are 32 bytes raw, or 33 bytes as a compressed point
(SEC 1, 2.3.3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from measurements.app_manifest import KeyKind, KeyScope
from measurements.errors import FormatError

ROOT_SIZE = 64
SALT = b"keyturn-kdf/1"
FORMAT_VERSION = 1
SECRET_SIZE = 32
WIDE_SIZE = 48
"""Bytes that are reduced to a scalar."""

ADDRESS_SIZE = 20
HASH_SIZE = 32
INSTANCE_ID_SIZE = 16
LARGEST_U64 = (1 << 64) - 1
AGENT_PATHS = "keyturn/"
"""Paths below this are the guest agent's own."""

_PATH = re.compile(r"[a-z0-9][a-z0-9/_.-]{0,127}")


class DerivationError(FormatError):
    """A key context that is not well formed."""

    code = "key-context"


class KeyDomain(StrEnum):
    """Whose keys: apps' or the KMS's own. A development KMS has domains, hence keys, of its own."""

    APP = "keyturn-key"
    KMS = "keyturn-kms"
    APP_DEVELOPMENT = "keyturn-key-development"
    KMS_DEVELOPMENT = "keyturn-kms-development"


_SCOPE_ID_SIZES = {KeyScope.APP: 0, KeyScope.CODE: HASH_SIZE, KeyScope.INSTANCE: INSTANCE_ID_SIZE}

_CURVES: dict[KeyKind, tuple[ec.EllipticCurve, int]] = {
    # Orders: SEC 2 (2.4.1) and FIPS 186-4 (D.1.2.3).
    KeyKind.SECP256K1: (
        ec.SECP256K1(),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    ),
    KeyKind.P256: (
        ec.SECP256R1(),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyContext:
    """Everything that tells one key from another. ``contract`` and ``app_id``: 20 bytes; ``scope_id``: empty
    (app), app hash (code) or instance id (instance).
    """

    domain: KeyDomain
    chain_id: int
    contract: bytes
    app_id: bytes
    scope: KeyScope
    scope_id: bytes
    path: str
    kind: KeyKind
    epoch: int

    def __post_init__(self) -> None:
        checks = {
            "chain id": 0 < self.chain_id <= LARGEST_U64,
            "contract": len(self.contract) == ADDRESS_SIZE and any(self.contract),
            "app id": len(self.app_id) == ADDRESS_SIZE,
            "scope id": len(self.scope_id) == _SCOPE_ID_SIZES[self.scope],
            "path": is_key_path(self.path),
            "epoch": 0 <= self.epoch <= LARGEST_U64,
        }
        for name, holds in checks.items():
            if not holds:
                raise DerivationError(
                    f"{name} is out of range",
                    subject=f"key {self.path!r}",
                    advice="see docs/formats.md, Derivation, for sizes and ranges",
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivedKey:
    """A key: 32 secret bytes, and the public half where the kind has one."""

    secret: bytes = field(repr=False)
    public: bytes | None


def is_key_path(path: str) -> bool:
    """Whether ``path`` is of the form that docs/formats.md allows."""
    return _PATH.fullmatch(path) is not None


def key_info(context: KeyContext) -> bytes:
    """The ``info`` of HKDF: deterministic CBOR of the context."""
    # Every key is shorter than 24 bytes, so cbor2's "shorter key first" is the bytewise order of 4.2.1.
    return cbor2.dumps(
        {
            "domain": context.domain.value,
            "version": FORMAT_VERSION,
            "chain_id": context.chain_id,
            "contract": context.contract,
            "app_id": context.app_id,
            "scope": context.scope.value,
            "scope_id": context.scope_id,
            "path": context.path,
            "kind": context.kind.value,
            "epoch": context.epoch,
        },
        canonical=True,
    )


def derive_key(root: bytes, context: KeyContext) -> DerivedKey:
    """The key of ``context`` under ``root`` (64 bytes). Raises ``DerivationError`` for another root size."""
    if len(root) != ROOT_SIZE:
        raise DerivationError(
            f"the root key has {len(root)} bytes, not {ROOT_SIZE}",
            subject="root key",
            advice="restore the root key that this KMS was made with",
        )
    if context.kind in _CURVES:
        return _scalar_key(context.kind, _expand(root, context, WIDE_SIZE))
    secret = _expand(root, context, SECRET_SIZE)
    return DerivedKey(secret=secret, public=_raw_public(context.kind, secret))


def _expand(root: bytes, context: KeyContext, length: int) -> bytes:
    return HKDF(algorithm=SHA512(), length=length, salt=SALT, info=key_info(context)).derive(root)


def _scalar_key(kind: KeyKind, wide: bytes) -> DerivedKey:
    curve, order = _CURVES[kind]
    scalar = int.from_bytes(wide, "big") % (order - 1) + 1
    public = ec.derive_private_key(scalar, curve).public_key()
    return DerivedKey(
        secret=scalar.to_bytes(SECRET_SIZE, "big"),
        public=public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
    )


def _raw_public(kind: KeyKind, secret: bytes) -> bytes | None:
    match kind:
        case KeyKind.ED25519:
            return ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        case KeyKind.X25519:
            return x25519.X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        case _:
            return None
