"""Anchors: Merkle batches of receipts, signed for ``KeyturnRegistry.anchorReceipts``.

The signature is EIP-712 (EIP-191 version 0x01) with the KMS's secp256k1 key, 65 bytes ``r ‖ s ‖ v`` with v 27
or 28, over ``keccak256(0x1901 ‖ domain separator ‖ struct hash)``; every field is a word of 32 bytes,
big-endian::

    domain  EIP712Domain(string name,string version,uint256 chainId,address verifyingContract), "keyturn", "1"
    struct  Anchor(bytes32 kmsId,uint64 fromSeq,uint64 toSeq,bytes32 root)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey, Signature
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from kms.merkle import merkle_root
from kms.root_key import ChainPin, RootKey

DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
ANCHOR_TYPE = b"Anchor(bytes32 kmsId,uint64 fromSeq,uint64 toSeq,bytes32 root)"
DOMAIN_NAME = b"keyturn"
DOMAIN_VERSION = b"1"
SIGNATURE_SIZE = 65
FIRST_RECOVERY_VALUE = 27


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """One batch: the Merkle root (RFC 6962) over the payloads of receipts ``from_seq`` to ``to_seq``."""

    kms_id: bytes
    from_seq: int
    to_seq: int
    root: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedAnchor:
    """A batch with its signature (65 bytes), as the contract takes it."""

    anchor: Anchor
    signature: bytes

    def as_json(self) -> dict[str, str | int]:
        """The batch as ``GET /v1/anchors`` shows it."""
        return {
            "kms_id": self.anchor.kms_id.hex(),
            "from_seq": self.anchor.from_seq,
            "to_seq": self.anchor.to_seq,
            "root": self.anchor.root.hex(),
            "signature": self.signature.hex(),
        }


def sign_batch(root: RootKey, *, from_seq: int, payloads: Sequence[bytes]) -> SignedAnchor:
    """The batch of the receipts whose payloads are given in order, the first being ``from_seq``."""
    anchor = Anchor(
        kms_id=root.identity.kms_id,
        from_seq=from_seq,
        to_seq=from_seq + len(payloads) - 1,
        root=merkle_root(payloads),
    )
    return SignedAnchor(anchor=anchor, signature=_sign(anchor, root.pin, root.anchor_key))


def anchor_digest(anchor: Anchor, pin: ChainPin) -> bytes:
    """The 32 bytes that are signed."""
    separator = keccak(
        keccak(DOMAIN_TYPE)
        + keccak(DOMAIN_NAME)
        + keccak(DOMAIN_VERSION)
        + pin.chain_id.to_bytes(32, "big")
        + pin.contract.rjust(32, b"\0")
    )
    struct = keccak(
        keccak(ANCHOR_TYPE)
        + anchor.kms_id
        + anchor.from_seq.to_bytes(32, "big")
        + anchor.to_seq.to_bytes(32, "big")
        + anchor.root
    )
    return keccak(b"\x19\x01" + separator + struct)


def anchor_signer(signed: SignedAnchor, pin: ChainPin) -> bytes | None:
    """Address (20 bytes) of the key that signed, or None where no key can have."""
    if len(signed.signature) != SIGNATURE_SIZE:
        return None
    parts = signed.signature[:-1] + bytes([(signed.signature[-1] - FIRST_RECOVERY_VALUE) % 256])
    try:
        signature = Signature(parts)
        key = signature.recover_public_key_from_msg_hash(anchor_digest(signed.anchor, pin))
    except (BadSignature, ValidationError):
        return None
    return key.to_canonical_address()


def _sign(anchor: Anchor, pin: ChainPin, key: PrivateKey) -> bytes:
    signature = key.sign_msg_hash(anchor_digest(anchor, pin))
    data = signature.to_bytes()
    return data[:-1] + bytes([data[-1] + FIRST_RECOVERY_VALUE])
