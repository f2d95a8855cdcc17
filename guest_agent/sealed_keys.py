"""Keys of an app whose root the TPM seals (key provider tpm-seal): derived in the guest, no KMS asked.

The derivation is that of the KMS (docs/formats.md, "Derivation"), in a domain of its own and always at epoch
0: ``HKDF-SHA512(ikm = root (64 bytes), salt = "keyturn-kdf/1", info, length)`` with ``info`` the
deterministic CBOR (RFC 8949 section 4.2.1) of a map of texts, byte strings and unsigned integers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from attestation.report_data import KeyRequest
from guest_agent.backend import SECRET_SIZE as ROOT_SIZE
from guest_agent.backend import Backend
from guest_agent.keys import SECRET_SIZE, HeldKey, public_half
from measurements.app_manifest import KeyKind, KeyScope
from measurements.errors import RefusedError

SALT = b"keyturn-kdf/1"
DOMAIN = "keyturn-sealed"
WIDE_SIZE = 48
_ORDERS = {
    # SEC 2, sections 2.4.1 and 2.4.2.
    KeyKind.SECP256K1: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    KeyKind.P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}


class RootError(RefusedError):
    """The root that the TPM gave back is not one."""

    code = "sealed-root"


class KeyOwner(NamedTuple):
    """Whose keys are derived; ``app_id`` and ``contract`` 20 bytes, ``app_hash`` 32, ``instance_id`` 16."""

    chain_id: int
    contract: bytes
    app_id: bytes
    app_hash: bytes
    instance_id: bytes


class Root(NamedTuple):
    """The root, and whether it was made in this boot."""

    secret: bytes
    made: bool

    def __repr__(self) -> str:
        return f"Root(made={self.made})"


def open_root(backend: Backend) -> Root:
    """The root that ``backend`` seals, made if there is none yet. A sealed root that does not open is a
    refusal: another one would be another identity.
    """
    made = not backend.holds_secret()
    if made:
        backend.seal(os.urandom(ROOT_SIZE))
    # The root in use is the one that was read back, so what cannot be unsealed now is never used.
    secret = backend.unseal()
    if len(secret) != ROOT_SIZE or not any(secret):
        raise RootError("has another size, or is zero", subject="sealed root", advice="replace the TPM")
    return Root(secret, made)


def derive_sealed_key(root: bytes, owner: KeyOwner, key: KeyRequest, *, domain: str = DOMAIN) -> HeldKey:
    """One key of the app. ``root``: 64 bytes."""
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    kind, scope = KeyKind(key.kind), KeyScope(key.scope)
    order = _ORDERS.get(kind)
    length = SECRET_SIZE if order is None else WIDE_SIZE
    info = _info(owner, scope, key.path, kind, domain)
    secret = HKDF(algorithm=SHA512(), length=length, salt=SALT, info=info).derive(root)
    if order is not None:
        secret = (int.from_bytes(secret, "big") % (order - 1) + 1).to_bytes(SECRET_SIZE, "big")
    return HeldKey(key.path, kind, scope, 0, secret, public_half(kind, secret))


def _info(owner: KeyOwner, scope: KeyScope, path: str, kind: KeyKind, domain: str) -> bytes:
    scope_ids = {KeyScope.APP: b"", KeyScope.CODE: owner.app_hash, KeyScope.INSTANCE: owner.instance_id}
    return encode_cbor(
        {
            "domain": domain,
            "version": 1,
            "chain_id": owner.chain_id,
            "contract": owner.contract,
            "app_id": owner.app_id,
            "scope": scope.value,
            "scope_id": scope_ids[scope],
            "path": path,
            "kind": kind.value,
            "epoch": 0,
        }
    )


def encode_cbor(members: Mapping[str, str | bytes | int]) -> bytes:
    """Deterministic CBOR of a flat map: shortest heads, keys in bytewise order of their encodings."""
    encoded = sorted((_item(key), _item(value)) for key, value in members.items())
    return _head(5, len(encoded)) + b"".join(key + value for key, value in encoded)


def _item(value: str | bytes | int) -> bytes:
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    text = value.encode("utf-8")
    return _head(3, len(text)) + text


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | code]) + argument.to_bytes(size, "big")
    raise OverflowError(argument)
