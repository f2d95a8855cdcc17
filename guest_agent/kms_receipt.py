"""Checks of what a KMS signs: its public keys against the pinned KMS id, and the receipt of one release.

The pin in the measured app manifest is a hash of both public keys of the KMS (docs/formats.md, "Identities"),
so the keys themselves may come from anywhere. A receipt is a DSSE envelope; its signature is Ed25519 over the
pre-authentication encoding ``"DSSEv1" SP len(type) SP type SP len(payload) SP payload``. The agent checks
every field that it knows the value of, and takes nothing from the envelope that is not signed.
"""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple, NoReturn

from attestation.report_data import KeyRequest
from measurements.app_manifest import KeyKind, KeyScope
from measurements.canonical import Json, parse_canonical, parse_json
from measurements.errors import FormatError, RefusedError
from measurements.strict_fields import Fields

KMS_ID_PREFIX = b"keyturn-kms-root/1\0"
PAYLOAD_TYPE = "application/vnd.keyturn.receipt+json"
RECEIPT_TYPE = "keyturn-receipt/1"
MAX_PAYLOAD = 1 << 16
ENVELOPE_KEYS = ("payloadType", "payload", "signatures")
RECEIPT_KEYS = (
    *("type", "kms_id", "seq", "prev_hash", "time", "development", "decision", "reason"),
    *("nonce", "role", "app_id", "instance_id", "app_hash", "image_id", "reference_digest"),
    *("platform", "platform_root", "platform_id", "keys", "report_data", "evidence_hash"),
    *("format_permitted", "confirms", "chain", "verifier"),
)
CHAIN_KEYS = (
    *("chain_id", "contract", "block_number", "block_hash", "state_root"),
    *("policy_version", "app_policy_version"),
)
KEY_KEYS = ("path", "kind", "scope", "epoch", "public")


class KmsFormatError(FormatError):
    """An answer of a KMS that is not well formed."""

    code = "kms-answer"


class KmsIdentityError(RefusedError):
    """Something that the pinned KMS did not sign, or signed about something else."""

    code = "kms-identity"


class Pin(NamedTuple):
    """What the app manifest pins: KMS id (32 bytes), chain id and registry contract (20 bytes).
    ``development`` permits that the pinned KMS is one for development; only a development image says so.
    """

    kms_id: bytes
    chain_id: int
    contract: bytes
    development: bool = False


class Signer(NamedTuple):
    """The pinned KMS: its Ed25519 public key (32 bytes), and whether it is one for development. Everything
    that it signs must say the same about itself.
    """

    ed25519: bytes
    development: bool


class Release(NamedTuple):
    """What a receipt of this release must say; ``evidence`` is the evidence that has its evidence hash."""

    pin: Pin
    nonce: bytes
    role: str
    platform: str
    app_id: bytes
    instance_id: bytes
    app_hash: bytes
    report_data: bytes
    evidence_hash: bytes
    evidence: Json
    keys: tuple[KeyRequest, ...]


class ReceiptKey(NamedTuple):
    """A key as the receipt names it."""

    path: str
    kind: KeyKind
    scope: KeyScope
    epoch: int
    public: bytes | None


class Receipt(NamedTuple):
    """A checked receipt: the envelope as JSON, the payload's bytes, and what it grants."""

    envelope: Json
    payload: bytes
    keys: tuple[ReceiptKey, ...]
    format_permitted: bool

    @property
    def hash(self) -> bytes:
        """The receipt hash: ``H(payload)``."""
        return hashlib.sha256(self.payload).digest()


def check_public_keys(body: bytes, pin: Pin) -> Signer:
    """Who signs, from an answer of ``/v1/public-key``, if it is the pinned KMS.

    Raises ``KmsFormatError`` or ``KmsIdentityError``.
    """
    fields = Fields(
        parse_json(body, subject="KMS public key"),
        ("kms_id", "ed25519", "secp256k1", "address", "chain_id", "contract", "development"),
        path="",
        refuse=format_error,
    )
    ed25519, secp256k1 = fields.octets("ed25519", 32), fields.octets("secp256k1", 33)
    development = fields.boolean("development")
    if development and not pin.development:
        refuse("it is a development KMS, which has no place in a release")
    if hashlib.sha256(KMS_ID_PREFIX + ed25519 + secp256k1).digest() != pin.kms_id:
        refuse("its public keys are not those that the app manifest pins")
    if fields.octets("kms_id", 32) != pin.kms_id:
        refuse("it calls itself by another id than its keys have")
    if (fields.integer("chain_id", 1), fields.address("contract")) != (pin.chain_id, pin.contract):
        refuse("it obeys another chain or contract than the app manifest pins")
    return Signer(ed25519, development)


def check_issue(envelope: Json, signer: Signer, release: Release) -> Receipt:
    """The receipt, if it grants exactly ``release``. Raises ``KmsFormatError`` or ``KmsIdentityError``."""
    payload, fields = _open(envelope, signer, release.pin)
    if fields.raw("decision") != "issue" or not fields.is_null("reason") or not fields.is_null("confirms"):
        refuse("the receipt is of another decision than to issue")
    _check_release(fields, release)
    keys = fields.objects("keys", KEY_KEYS, _key)
    if tuple(KeyRequest(key.path, key.kind.value, key.scope.value) for key in keys) != release.keys:
        refuse("the receipt names other keys than were asked for")
    return Receipt(envelope, payload, keys, fields.boolean("format_permitted"))


def check_refusal(envelope: Json, signer: Signer, release: Release) -> tuple[str, str]:
    """Code and text of a refusal of this request that the pinned KMS signed."""
    _, fields = _open(envelope, signer, release.pin)
    _equal(fields, "nonce", release.nonce.hex())
    if fields.raw("decision") != "refuse":
        refuse("the receipt of a refusal is of another decision")
    reason = fields.object("reason", ("code", "text"))
    return reason.text("code"), reason.text("text")


def check_confirmation(envelope: Json, signer: Signer, release: Release, receipt: Receipt) -> None:
    """Raises unless the pinned KMS signed that ``receipt`` is confirmed."""
    _, fields = _open(envelope, signer, release.pin)
    if fields.raw("decision") != "confirm":
        refuse("the receipt of a confirmation is of another decision")
    _equal(fields, "confirms", receipt.hash.hex())
    _equal(fields, "instance_id", release.instance_id.hex())


def _open(envelope: Json, signer: Signer, pin: Pin) -> tuple[bytes, Fields]:
    """Payload and its fields, once signature, signer and kind of KMS are checked."""
    payload = _verified_payload(envelope, signer, pin)
    document = parse_canonical(payload, subject="receipt")
    fields = Fields(document, RECEIPT_KEYS, path="receipt", refuse=format_error)
    _equal(fields, "type", RECEIPT_TYPE)
    _equal(fields, "kms_id", pin.kms_id.hex())
    development = fields.boolean("development")
    if development and not pin.development:
        refuse("the receipt is of a development KMS")
    if development != signer.development:
        refuse("the receipt and the KMS differ about whether it is one for development")
    return payload, fields


def _verified_payload(envelope: Json, signer: Signer, pin: Pin) -> bytes:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    fields = Fields(envelope, ENVELOPE_KEYS, path="envelope", refuse=format_error)
    fields.constant("payloadType", PAYLOAD_TYPE)
    signatures = fields.objects("signatures", ("keyid", "sig"), lambda item: item)
    if len(signatures) != 1:
        raise format_error("an envelope has exactly one signature")
    if signatures[0].octets("keyid", 32) != pin.kms_id:
        refuse("the receipt is signed by another KMS than the app manifest pins")
    payload = decode_base64(fields, "payload", most=MAX_PAYLOAD)
    signed = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode("ascii"), len(payload), payload)
    try:
        key = Ed25519PublicKey.from_public_bytes(signer.ed25519)
        key.verify(decode_base64(signatures[0], "sig", most=64), signed)
    except (InvalidSignature, ValueError):
        refuse("the signature of the receipt does not hold")
    return payload


def _check_release(fields: Fields, release: Release) -> None:
    expected = {
        "nonce": release.nonce.hex(),
        "role": release.role,
        "platform": release.platform,
        "app_id": "0x" + release.app_id.hex(),
        "instance_id": release.instance_id.hex(),
        "app_hash": release.app_hash.hex(),
        "report_data": release.report_data.hex(),
        "evidence_hash": release.evidence_hash.hex(),
    }
    for key, value in expected.items():
        _equal(fields, key, value)
    chain = fields.object("chain", CHAIN_KEYS)
    pinned = (release.pin.chain_id, release.pin.contract)
    if (chain.integer("chain_id", 1), chain.address("contract")) != pinned:
        refuse("the receipt is of another chain or contract than the app manifest pins")


def _key(fields: Fields) -> ReceiptKey:
    kind = fields.choice("kind", KeyKind)
    size = 33 if kind in (KeyKind.SECP256K1, KeyKind.P256) else 32
    return ReceiptKey(
        path=fields.text("path"),
        kind=kind,
        scope=fields.choice("scope", KeyScope),
        epoch=fields.integer("epoch"),
        public=None if fields.is_null("public") else fields.octets("public", size),
    )


def _equal(fields: Fields, key: str, expected: str) -> None:
    if fields.raw(key) != expected:
        refuse(f"the receipt has another {key} than this release")


def decode_base64(fields: Fields, key: str, *, most: int) -> bytes:
    """1 to ``most`` bytes in canonical base64."""
    value = fields.raw(key)
    if not isinstance(value, str) or not 0 < len(value) <= (most + 2) // 3 * 4:
        fields.fail(key, f"is not base64 of 1 to {most} bytes")
    try:
        data = base64.b64decode(value, validate=True)
    except ValueError:
        fields.fail(key, "is not base64")
    if len(data) > most or base64.b64encode(data).decode("ascii") != value:
        fields.fail(key, f"is not canonical base64 of 1 to {most} bytes")
    return data


def format_error(reason: str) -> KmsFormatError:
    """The error for an answer that is not well formed."""
    return KmsFormatError(reason, subject="KMS", advice="check that a KMS of this version is at this address")


def refuse(reason: str) -> NoReturn:
    """Refuse what a KMS said."""
    raise KmsIdentityError(
        reason, subject="KMS", advice="compare the KMS with the key provider in the app manifest"
    )
