"""Envelopes of an owner, and what they are for, for tests."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keyturn.envelope_seal import seal_envelope
from measurements.envelope import Target

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OWNER_KEY = OWNER.public_key().public_bytes_raw()
APP_SECRET = bytes(range(64, 96))
ENV = {"DATABASE_PASSWORD": "correct horse = battery", "TOKEN": "na\u00efve \u2713"}
TARGET = Target(
    owner_key=OWNER_KEY,
    app_id=b"\x11" * 20,
    kms_id=b"\x33" * 32,
    chain_id=31337,
    contract=b"\x22" * 20,
    epoch=3,
)


def public_of(secret: bytes) -> bytes:
    """The X25519 public key of a private one."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def sealed(
    env: Mapping[str, str] = ENV,
    *,
    target: Target = TARGET,
    counter: int = 7,
    secret: bytes = APP_SECRET,
    owner: Ed25519PrivateKey = OWNER,
) -> bytes:
    """An envelope's bytes, well made whatever it is for."""
    named = target._replace(owner_key=owner.public_key().public_bytes_raw())
    return seal_envelope(dict(env), named, counter=counter, public=public_of(secret), owner=owner)
