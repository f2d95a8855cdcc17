"""What the agent decides about an envelope of the app's owner (docs/formats.md, "Envelope"). Pure.

In this order: the envelope names exactly this app, its measured owner, KMS, chain, registry and key epoch;
the owner signed it; it opens with the app's key; its counter is not below the highest seen, and the same
counter is the same envelope; every value goes to a container that takes it, and the host set none of these
names.

The highest counter seen is kept on the encrypted disk, as canonical JSON
``{"counter": int, "digest": hex, "type": "keyturn-envelope-seen/1"}``, ``digest`` being SHA-256 of what the
owner signed. It is as old as that disk: a new instance has seen nothing, and a host that puts back an old
disk puts back the counter with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

from guest_agent.keys import HeldKey
from measurements.app_manifest import AppManifest, Container
from measurements.canonical import encode_canonical, parse_canonical
from measurements.config_disk import Config
from measurements.envelope import (
    Envelope,
    EnvelopeFormatError,
    Target,
    hpke_info,
    parse_envelope,
    parse_secrets,
    signed_bytes,
)
from measurements.errors import FormatError, RefusedError
from measurements.strict_fields import Fields

SEEN_TYPE = "keyturn-envelope-seen/1"


class EnvelopeError(RefusedError):
    """An envelope that is not for this boot of this app."""

    code = "envelope"


class Seen(NamedTuple):
    """The envelope with the highest counter so far; ``digest`` 32 bytes."""

    counter: int
    digest: bytes


class Accepted(NamedTuple):
    """What comes of an envelope: all variables from outside of the manifest, and the record to keep. Never
    print it.
    """

    env: dict[str, str]
    record: bytes
    counter: int

    def __repr__(self) -> str:
        return f"Accepted(counter {self.counter})"


class Opened(NamedTuple):
    """A verified and opened envelope. Never print it: the secrets are inside."""

    env: dict[str, str]
    seen: Seen

    def __repr__(self) -> str:
        return f"Opened({len(self.env)} values, counter {self.seen.counter})"


def accept_envelope(config: Config, manifest: AppManifest, *, key: HeldKey, record: bytes | None) -> Accepted:
    """All decisions, in their order; ``record`` is what the encrypted disk remembers.

    Raises ``EnvelopeError``, ``EnvelopeFormatError`` or ``CanonicalError``.
    """
    if config.envelope is None:
        _refuse("there is none")
    envelope = parse_envelope(config.envelope)
    opened = open_envelope(envelope, target_of(manifest, epoch=key.epoch), key.secret)
    check_counter(opened.seen, None if record is None else parse_seen(record))
    env = container_env(opened.env, config.env, manifest.containers)
    return Accepted(env, encode_seen(opened.seen), envelope.counter)


def target_of(manifest: AppManifest, *, epoch: int) -> Target:
    """Whom an envelope for the app with this measured manifest has to name."""
    provider = manifest.key_provider
    if manifest.owner_key is None or provider.kms_root is None:
        _refuse("the app manifest names no owner, or no KMS")
    return Target(
        owner_key=manifest.owner_key,
        app_id=manifest.app_id,
        kms_id=provider.kms_root,
        chain_id=provider.chain_id,
        contract=provider.contract,
        epoch=epoch,
    )


def open_envelope(envelope: Envelope, target: Target, secret: bytes) -> Opened:
    """What is inside an envelope for ``target`` (what was measured); ``secret``: the app's X25519 private key
    (32 bytes). Raises ``EnvelopeError``, ``EnvelopeFormatError`` or ``CanonicalError``.
    """
    signed = check_owner(envelope, target)
    env = parse_secrets(_decrypt(envelope, secret))
    return Opened(env, Seen(envelope.counter, hashlib.sha256(signed).digest()))


def check_owner(envelope: Envelope, target: Target) -> bytes:
    """What the owner signed, if the envelope is for ``target``; that needs no secret. Raises
    ``EnvelopeError``.
    """
    _check_target(envelope.target, target)
    signed = signed_bytes(envelope.target, envelope.counter, envelope.sealed)
    _check_signature(target.owner_key, envelope.signature, signed)
    return signed


def check_counter(seen: Seen, before: Seen | None) -> None:
    """Refuse an envelope older than the newest one that this disk has seen."""
    if before is None:
        return
    if seen.counter < before.counter:
        _refuse(
            f"its counter is {seen.counter}, and this instance has seen {before.counter}: "
            "somebody replays an old envelope"
        )
    if seen.counter == before.counter and seen.digest != before.digest:
        _refuse(f"another envelope with counter {seen.counter} was seen before")


def container_env(
    secrets: Mapping[str, str], host: Mapping[str, str], containers: Iterable[Container]
) -> dict[str, str]:
    """The owner's and the host's variables together; which container gets which, ``allowed_env`` says.

    Refuses a name that the host sets, too, and one that reaches no container: none allows it, or the
    manifest's own value would stand in its place.
    """
    taken = {name for each in containers for name in each.allowed_env if name not in each.env}
    for name in secrets:
        if name in host:
            _refuse(f"the host sets {name}, which the owner's envelope sets")
        if name not in taken:
            _refuse(f"it sets {name}, which no container takes")
    return {**host, **secrets}


def encode_seen(seen: Seen) -> bytes:
    """The record on the encrypted disk."""
    return encode_canonical({"type": SEEN_TYPE, "counter": seen.counter, "digest": seen.digest.hex()})


def parse_seen(data: bytes) -> Seen:
    """The record from its bytes. Raises ``EnvelopeFormatError`` or ``CanonicalError``."""
    document = parse_canonical(data, subject="record of envelopes")
    fields = Fields(document, ("type", *Seen._fields), path="", refuse=_record_error)
    fields.constant("type", SEEN_TYPE)
    return Seen(fields.integer("counter", 1), fields.octets("digest", 32))


def _check_target(named: Target, measured: Target) -> None:
    for field, found, expected in zip(Target._fields, named, measured, strict=True):
        if found != expected:
            _refuse(f"it is for another {field} than this boot's")


def _check_signature(owner_key: bytes, signature: bytes, signed: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(owner_key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        _refuse("its signature is not the owner's that the app manifest names")


def _decrypt(envelope: Envelope, secret: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    private = X25519PrivateKey.from_private_bytes(secret)
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    try:
        return suite.decrypt(envelope.sealed, private, info=hpke_info(envelope.target, envelope.counter))
    except (InvalidTag, ValueError):
        _refuse("it does not open with the app's key")


def _record_error(reason: str) -> FormatError:
    return EnvelopeFormatError(
        reason, subject="record of envelopes", advice="start a new instance; the disk's record is damaged"
    )


def _refuse(reason: str) -> NoReturn:
    raise EnvelopeError(
        reason,
        subject="envelope",
        advice="seal it for this app and key epoch with a counter above all before: `keyturn app seal`",
    )
