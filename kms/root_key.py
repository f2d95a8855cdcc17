"""The root key of a KMS, its identity, and the keys that are its own.

KMS id (docs/formats.md, Identities)::

    H("keyturn-kms-root/1\\0" ‖ Ed25519 public key (32) ‖ secp256k1 public key, compressed (33))

The identity is bound to chain and registry. A development KMS derives in other domains, so even the same root
bytes would give it another identity and other keys than a release KMS has.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_keys.datatypes import PrivateKey

from kms.derivation import ADDRESS_SIZE, ROOT_SIZE, DerivedKey, KeyContext, KeyDomain, derive_key
from measurements.app_manifest import KeyKind, KeyScope

KMS_ID_PREFIX = b"keyturn-kms-root/1\0"
NO_APP = bytes(ADDRESS_SIZE)

_APP_DOMAINS = {False: KeyDomain.APP, True: KeyDomain.APP_DEVELOPMENT}
_KMS_DOMAINS = {False: KeyDomain.KMS, True: KeyDomain.KMS_DEVELOPMENT}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainPin:
    """The chain and the registry a KMS belongs to; ``contract`` is 20 bytes."""

    chain_id: int
    contract: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The public side of a KMS: what its receipts and anchors are checked with."""

    kms_id: bytes
    ed25519: bytes
    secp256k1: bytes
    address: bytes
    development: bool
    pin: ChainPin


@dataclass(frozen=True, kw_only=True, slots=True)
class RootKey:
    """A root key in use: derives apps' keys, signs receipts and anchors, authenticates challenges."""

    root: bytes = field(repr=False)
    pin: ChainPin
    development: bool
    identity: Identity = field(init=False)
    receipt_key: Ed25519PrivateKey = field(init=False, repr=False)
    anchor_key: PrivateKey = field(init=False, repr=False)
    challenge_mac_key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        receipt = self._own_key("receipt-ed25519", KeyKind.ED25519)
        anchor = self._own_key("receipt-secp256k1", KeyKind.SECP256K1)
        anchor_key = PrivateKey(anchor.secret)
        public, point = receipt.public or b"", anchor.public or b""
        identity = Identity(
            kms_id=kms_id(public, point),
            ed25519=public,
            secp256k1=point,
            address=anchor_key.public_key.to_canonical_address(),
            development=self.development,
            pin=self.pin,
        )
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "receipt_key", Ed25519PrivateKey.from_private_bytes(receipt.secret))
        object.__setattr__(self, "anchor_key", anchor_key)
        object.__setattr__(self, "challenge_mac_key", self._own_key("challenge-mac", KeyKind.RAW_256).secret)

    def app_key(
        self, *, app_id: bytes, scope: KeyScope, scope_id: bytes, path: str, kind: KeyKind, epoch: int
    ) -> DerivedKey:
        """One key of an app."""
        context = KeyContext(
            domain=_APP_DOMAINS[self.development],
            chain_id=self.pin.chain_id,
            contract=self.pin.contract,
            app_id=app_id,
            scope=scope,
            scope_id=scope_id,
            path=path,
            kind=kind,
            epoch=epoch,
        )
        return derive_key(self.root, context)

    def own_secret(self, path: str) -> bytes:
        """32 bytes for a use of the KMS itself, named by ``path``."""
        return self._own_key(path, KeyKind.RAW_256).secret

    def _own_key(self, path: str, kind: KeyKind) -> DerivedKey:
        context = KeyContext(
            domain=_KMS_DOMAINS[self.development],
            chain_id=self.pin.chain_id,
            contract=self.pin.contract,
            app_id=NO_APP,
            scope=KeyScope.APP,
            scope_id=b"",
            path=path,
            kind=kind,
            epoch=0,
        )
        return derive_key(self.root, context)


def kms_id(ed25519: bytes, secp256k1: bytes) -> bytes:
    """32 bytes: the KMS id of two public keys (32 bytes; 33 bytes, compressed)."""
    return hashlib.sha256(KMS_ID_PREFIX + ed25519 + secp256k1).digest()


def new_root() -> bytes:
    """A fresh root key: 64 bytes of the system's random number generator."""
    return os.urandom(ROOT_SIZE)
