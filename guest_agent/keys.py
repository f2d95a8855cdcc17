"""The keys that the agent holds: which ones to ask for, handing them out by path and kind, signing with them.

Secrets are 32 bytes; public halves are raw (32 bytes) or compressed points (33 bytes, SEC 1 section 2.3.3),
as in docs/formats.md. What is signed is ``"keyturn-sign/1" 0x00 ‖ data``: no signature made here can be taken
for one over another protocol's bytes.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from attestation.report_data import KeyRequest
from measurements.app_manifest import AppManifest, KeyKind, KeyScope
from measurements.errors import FormatError, RefusedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

SECRET_SIZE = 32
PUBLIC_SIZES = {KeyKind.ED25519: 32, KeyKind.X25519: 32, KeyKind.SECP256K1: 33, KeyKind.P256: 33}
SIGN_PREFIX = b"keyturn-sign/1\0"
AGENT_PATHS = "keyturn/"
STORAGE_KEY = KeyRequest("keyturn/storage", KeyKind.RAW_256.value, KeyScope.INSTANCE.value)
ENVELOPE_KEY = KeyRequest("keyturn/envelope", KeyKind.X25519.value, KeyScope.APP.value)


class NoKeyError(RefusedError):
    """A key that the app does not have, or that cannot do what is asked."""

    code = "no-key"


class KeyFormatError(FormatError):
    """Keys that are not well formed or not those that were asked for."""

    code = "key-format"


class HeldKey(NamedTuple):
    """One key. Never print it: ``secret`` is inside."""

    path: str
    kind: KeyKind
    scope: KeyScope
    epoch: int
    secret: bytes
    public: bytes | None

    def __repr__(self) -> str:
        return f"HeldKey({self.path!r}, {self.kind.value})"


class Signature(NamedTuple):
    """A signature with the public half that checks it."""

    signature: bytes
    public: bytes
    kind: KeyKind


def wanted_keys(manifest: AppManifest) -> tuple[KeyRequest, ...]:
    """What to ask for: the manifest's keys in their order, then the disk's if there is one, then that of
    envelopes if there is an owner who may send them.
    """
    listed = tuple(KeyRequest(key.path, key.kind.value, key.scope.value) for key in manifest.keys)
    disk = () if manifest.storage is None else (STORAGE_KEY,)
    return (*listed, *disk, *(() if manifest.owner_key is None else (ENVELOPE_KEY,)))


class KeyStore:
    """All keys of one boot."""

    def __init__(self, keys: Iterable[HeldKey], *, wanted: Sequence[KeyRequest]) -> None:
        """Raises ``KeyFormatError`` unless ``keys`` are exactly those wanted, and whole."""
        held = tuple(keys)
        if [(key.path, key.kind.value, key.scope.value) for key in held] != [tuple(key) for key in wanted]:
            raise _format_error("the keys are not those that were asked for")
        for key in held:
            check_key(key)
        self._keys = {(key.path, key.kind): key for key in held}
        if len(self._keys) != len(held):
            raise _format_error("a key comes twice")

    def __repr__(self) -> str:
        return f"KeyStore({len(self._keys)} keys)"

    def app_key(self, path: str, kind: KeyKind) -> HeldKey:
        """A key of the app. The agent's own are never given out."""
        key = None if path.startswith(AGENT_PATHS) else self._keys.get((path, kind))
        if key is None:
            raise _no_key(f"there is no key of kind {kind.value} at this path", path)
        return key

    def storage_secret(self) -> bytes:
        """The secret of the encrypted disk."""
        key = self._keys.get((STORAGE_KEY.path, KeyKind.RAW_256))
        if key is None:
            raise _no_key("the app has no encrypted disk", STORAGE_KEY.path)
        return key.secret

    def envelope_key(self) -> HeldKey:
        """The key that the owner's envelopes are sealed to."""
        key = self._keys.get((ENVELOPE_KEY.path, KeyKind.X25519))
        if key is None:
            raise _no_key("the app has no owner who may send envelopes", ENVELOPE_KEY.path)
        return key

    def sign(self, path: str, data: bytes) -> Signature:
        """Sign ``SIGN_PREFIX ‖ data`` with the one signing key at ``path``: Ed25519, or ECDSA with SHA-256
        (DER).
        """
        kinds = [kind for held, kind in self._keys if held == path and kind in _SIGNING]
        if len(kinds) != 1:
            raise _no_key("there is no signing key, or more than one, at this path", path)
        key = self.app_key(path, kinds[0])
        signature = _sign(key, SIGN_PREFIX + data)
        return Signature(signature, public_half(key.kind, key.secret) or b"", key.kind)


_SIGNING = (KeyKind.ED25519, KeyKind.SECP256K1, KeyKind.P256)


def check_key(key: HeldKey) -> None:
    """Raises ``KeyFormatError`` unless sizes fit the kind and the public half belongs to the secret."""
    if len(key.secret) != SECRET_SIZE or not any(key.secret):
        raise _format_error(f"the secret of {key.path!r} is not {SECRET_SIZE} bytes that are not all zero")
    expected = public_half(key.kind, key.secret)
    if (expected is None) != (key.public is None):
        raise _format_error(f"{key.path!r} has a public half exactly if its kind has one")
    if expected is not None and not hmac.compare_digest(expected, key.public or b""):
        raise _format_error(f"the public half of {key.path!r} belongs to another secret")


def public_half(kind: KeyKind, secret: bytes) -> bytes | None:
    """The public half of a secret; ``None`` for kinds without one. Raises ``KeyFormatError``."""
    if kind not in PUBLIC_SIZES:
        return None
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

    try:
        if kind is KeyKind.ED25519:
            return ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        if kind is KeyKind.X25519:
            return x25519.X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        return (
            _curve_key(kind, secret)
            .public_key()
            .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
        )
    except ValueError as error:
        raise _format_error(f"a secret is no {kind.value} key") from error


def _sign(key: HeldKey, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.hashes import SHA256

    if key.kind is KeyKind.ED25519:
        return ed25519.Ed25519PrivateKey.from_private_bytes(key.secret).sign(message)
    return _curve_key(key.kind, key.secret).sign(message, ec.ECDSA(SHA256()))


def _curve_key(kind: KeyKind, secret: bytes) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = ec.SECP256K1() if kind is KeyKind.SECP256K1 else ec.SECP256R1()
    return ec.derive_private_key(int.from_bytes(secret, "big"), curve)


def _no_key(reason: str, path: str) -> NoKeyError:
    return NoKeyError(reason, subject=f"key {path!r}", advice="list the key under keys in the app manifest")


def _format_error(reason: str) -> KeyFormatError:
    return KeyFormatError(reason, subject="keys", advice="check that the KMS is of this version")
