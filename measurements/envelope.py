"""Envelopes: an app's secrets, sealed to the app's key and signed by its owner (docs/formats.md, "Envelope").

Canonical JSON of at most 128 KiB::

    {"type": "keyturn-envelope/1", "owner_key": hex, "app_id": "0x…", "kms_id": hex, "chain_id": int,
     "contract": "0x…", "epoch": int, "counter": int, "sealed": b64, "signature": hex}

``sealed`` is HPKE in base mode (RFC 9180: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM), the
encapsulated key (32 bytes), then the ciphertext, with ``info = "keyturn-envelope/1" 0x00 ‖ head``; inside,
canonical JSON ``{"env": {NAME: value}}`` of at most 64 KiB. ``signature`` is Ed25519 over
``"keyturn-envelope-signature/1" 0x00 ‖ document without signature``. The head is the canonical document
without ``sealed`` and ``signature``.

The module ships in the guest: standard library only. Sealing, signing and opening are elsewhere.
"""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

from measurements.canonical import Json, encode_canonical, parse_canonical
from measurements.errors import FormatError
from measurements.strict_fields import Fields

ENVELOPE_TYPE = "keyturn-envelope/1"
ENVELOPE_PATH = "keyturn/envelope"
"""Path of the app's key (kind x25519, scope app) that envelopes are sealed to."""

INFO_PREFIX = b"keyturn-envelope/1\0"
SIGNATURE_PREFIX = b"keyturn-envelope-signature/1\0"
MAX_ENVELOPE = 128 << 10
MAX_SECRETS = 64 << 10
SEALED_OVERHEAD = 32 + 16
"""Encapsulated key and authentication tag."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class EnvelopeFormatError(FormatError):
    """An envelope, or what is sealed inside, that is not well formed."""

    code = "envelope-format"


class Target(NamedTuple):
    """For whom an envelope is, and by whom: the owner's Ed25519 key (32 bytes), app id (20), KMS id (32),
    chain id, registry (20), and the epoch of the app's keys.
    """

    owner_key: bytes
    app_id: bytes
    kms_id: bytes
    chain_id: int
    contract: bytes
    epoch: int


class Envelope(NamedTuple):
    """A parsed envelope: nothing of it is verified yet. ``counter`` grows with every envelope of an owner."""

    target: Target
    counter: int
    sealed: bytes
    signature: bytes


def hpke_info(target: Target, counter: int) -> bytes:
    """What the encryption is bound to."""
    return INFO_PREFIX + encode_canonical(_head(target, counter))


def signed_bytes(target: Target, counter: int, sealed: bytes) -> bytes:
    """What the owner signs."""
    return SIGNATURE_PREFIX + encode_canonical(_unsigned(target, counter, sealed))


def encode_envelope(envelope: Envelope) -> bytes:
    """The bytes of an envelope."""
    unsigned = _unsigned(envelope.target, envelope.counter, envelope.sealed)
    return encode_canonical({**unsigned, "signature": envelope.signature.hex()}, subject="envelope")


def parse_envelope(data: bytes) -> Envelope:
    """An envelope from its bytes. Raises ``EnvelopeFormatError`` or ``CanonicalError``."""
    if len(data) > MAX_ENVELOPE:
        raise _error(f"has {len(data)} bytes, more than {MAX_ENVELOPE}")
    keys = ("type", *Target._fields, "counter", "sealed", "signature")
    fields = Fields(parse_canonical(data, subject="envelope"), keys, path="", refuse=_error)
    fields.constant("type", ENVELOPE_TYPE)
    target = Target(
        owner_key=fields.not_zero("owner_key", fields.octets("owner_key", 32)),
        app_id=fields.address("app_id"),
        kms_id=fields.not_zero("kms_id", fields.octets("kms_id", 32)),
        chain_id=fields.integer("chain_id", 1),
        contract=fields.address("contract"),
        epoch=fields.integer("epoch"),
    )
    return Envelope(
        target=target,
        counter=fields.integer("counter", 1),
        sealed=_sealed(fields),
        signature=fields.octets("signature", 64),
    )


def encode_secrets(env: dict[str, str]) -> bytes:
    """What is sealed: variables by name. Raises ``EnvelopeFormatError`` for what nobody could open."""
    data = encode_canonical({"env": env}, subject="secrets")
    parse_secrets(data)
    return data


def parse_secrets(data: bytes) -> dict[str, str]:
    """Variables by name, from what was sealed. Errors never show a value."""
    if len(data) > MAX_SECRETS:
        raise _error(f"holds secrets of {len(data)} bytes, more than {MAX_SECRETS}")
    fields = Fields(parse_canonical(data, subject="secrets"), ("env",), path="", refuse=_error)
    return fields.table("env", _ENV_NAME)


def _sealed(fields: Fields) -> bytes:
    value = fields.raw("sealed")
    try:
        sealed = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        sealed = b""
    if base64.b64encode(sealed).decode("ascii") != value or len(sealed) <= SEALED_OVERHEAD:
        fields.fail("sealed", f"is not base64 of more than {SEALED_OVERHEAD} bytes")
    return sealed


def _unsigned(target: Target, counter: int, sealed: bytes) -> dict[str, Json]:
    return {**_head(target, counter), "sealed": base64.b64encode(sealed).decode("ascii")}


def _head(target: Target, counter: int) -> dict[str, Json]:
    return {
        "type": ENVELOPE_TYPE,
        "owner_key": target.owner_key.hex(),
        "app_id": "0x" + target.app_id.hex(),
        "kms_id": target.kms_id.hex(),
        "chain_id": target.chain_id,
        "contract": "0x" + target.contract.hex(),
        "epoch": target.epoch,
        "counter": counter,
    }


def _error(reason: str) -> EnvelopeFormatError:
    return EnvelopeFormatError(reason, subject="envelope", advice="seal it again with `keyturn app seal`")
