"""Public halves of app keys, as a KMS signs them for anybody (docs/formats.md, "KMS, version 1").

A DSSE envelope of type ``application/vnd.keyturn.public-key+json``; payload, canonical JSON::

    {"type": "keyturn-public-key/1", "kms_id", "development", "chain_id", "contract", "app_id",
     "scope": "app", "path", "kind", "epoch", "public": hex}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from kms.receipt import Envelope, verify_envelope
from kms.strict_json import canonical_json, read_object
from measurements.app_manifest import KeyKind, KeyScope
from measurements.errors import RefusedError

PUBLIC_KEY_PAYLOAD_TYPE = "application/vnd.keyturn.public-key+json"
PUBLIC_KEY_TYPE = "keyturn-public-key/1"


class PublicHalfError(RefusedError):
    """A public half that is not the one that was asked for."""

    code = "public-key"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicKeyOf:
    """Which key: its KMS (32 bytes), chain id, registry and app (20 bytes each), path, kind and epoch."""

    kms_id: bytes
    chain_id: int
    contract: bytes
    app_id: bytes
    path: str
    kind: KeyKind
    epoch: int


def public_half_payload(key: PublicKeyOf, *, development: bool, public: bytes) -> bytes:
    """What the KMS signs."""
    return canonical_json(_document(key, development=development) | {"public": public.hex()})


def read_public_half(envelope: Envelope, key: PublicKeyOf, *, ed25519: bytes, development: bool) -> bytes:
    """The public half (32 or 33 bytes), once its KMS's signature and every other field are checked.

    Raises ``ReceiptError`` for a signature that does not hold, ``PublicHalfError`` and ``FormatError``.
    """
    payload = verify_envelope(
        envelope, payload_type=PUBLIC_KEY_PAYLOAD_TYPE, kms_id=key.kms_id, ed25519=ed25519
    )
    fields = read_object(payload, subject="public key")
    size = 33 if key.kind in (KeyKind.SECP256K1, KeyKind.P256) else 32
    public = fields.hexadecimal("public", size=size)
    if public_half_payload(key, development=development, public=public) != payload:
        _refuse(_difference(dict(fields.document), _document(key, development=development)))
    return public


def _document(key: PublicKeyOf, *, development: bool) -> dict[str, Any]:
    return {
        "type": PUBLIC_KEY_TYPE,
        "kms_id": key.kms_id.hex(),
        "development": development,
        "chain_id": key.chain_id,
        "contract": f"0x{key.contract.hex()}",
        "app_id": f"0x{key.app_id.hex()}",
        "scope": KeyScope.APP.value,
        "path": key.path,
        "kind": key.kind.value,
        "epoch": key.epoch,
    }


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    names = [name for name in expected if found.get(name) != expected[name]]
    return f"it is of another {names[0]}" if names else "it is not in canonical form"


def _refuse(reason: str) -> NoReturn:
    raise PublicHalfError(
        reason, subject="public key of the KMS", advice="ask the KMS that the app pins, about this app"
    )
