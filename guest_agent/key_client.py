"""The agent's side of key release, step by step, without any input or output (docs/formats.md, "KMS").

    challenge_request -> [POST /v1/challenge] -> check_challenge -> activate -> report_data -> [quote]
    -> key_request -> [POST /v1/keys] -> open_response -> [format] -> confirm_request
    -> [POST /v1/instances/confirm] -> check_confirmation

Everything that the KMS answers is checked against the pin in the measured app manifest before it is used.
``expires_at`` is not checked: the guest's clock is the host's, and the KMS checks its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, NamedTuple

from attestation.report_data import KeyRelease, KeyRequest, key_release_report_data
from guest_agent.backend import Identity, Platform
from guest_agent.keys import HeldKey, KeyStore
from guest_agent.kms_receipt import (
    Pin,
    Receipt,
    Release,
    Signer,
    check_issue,
    check_refusal,
    decode_base64,
    format_error,
    refuse,
)
from guest_agent.kms_receipt import check_confirmation as _check_confirmation
from measurements.app_manifest import KeyKind, KeyScope, app_hash
from measurements.canonical import Json, encode_canonical, parse_canonical, parse_json
from measurements.errors import RefusedError
from measurements.strict_fields import Fields

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, Suite

VERSION = 1
ROLE = "app"
SUITE = "MLKEM768_X25519/HKDF_SHA256/AES_256_GCM"
RESPONSE_INFO = b"keyturn-key-response/1\0"
CONFIRM_PREFIX = b"keyturn-confirm/1\0"
NONCE_SIZE = 32
MAX_SEALED = 1 << 18
MAX_REASON = 240
_CHALLENGE_KEYS = (
    *("version", "nonce", "kms_id", "chain_id", "contract", "block", "platforms", "suites"),
    *("expires_at", "binding", "secret_hash", "credential", "mac"),
)
_TRANSIENT = ("challenge-expired", "stale-head", "older-head")
"""Refusals that another KMS, or the same one a little later, need not repeat."""


class RefusedByKmsError(RefusedError):
    """The KMS said no, with a receipt that it signed. ``final`` says that asking again is pointless."""

    code = "kms-refused"

    def __init__(self, kms_code: str, reason: str, *, advice: str) -> None:
        super().__init__(f"{printable(kms_code)}: {printable(reason)}", subject="KMS refuses", advice=advice)
        self.kms_code = kms_code
        self.final = kms_code not in _TRANSIENT


class Request(NamedTuple):
    """What this boot asks for, the same for every KMS that is tried."""

    pin: Pin
    platform: Platform
    identity: Identity
    app_id: bytes
    instance_id: bytes
    app_manifest: bytes
    keys: tuple[KeyRequest, ...]
    hpke_public: bytes


class Challenge(NamedTuple):
    """A checked challenge; ``document`` goes back to the KMS as it came."""

    document: Json
    nonce: bytes
    secret_hash: bytes
    id_object: bytes
    encrypted_secret: bytes


class Released(NamedTuple):
    """What a KMS released. Never print it: the keys are inside."""

    keys: KeyStore
    format_permitted: bool
    confirm_key: bytes
    receipt: Receipt
    release: Release
    signer: Signer

    def __repr__(self) -> str:
        return f"Released({self.keys!r}, receipt={self.receipt.hash.hex()})"


class HpkeKey(NamedTuple):
    """A key pair for one release; ``public`` is ML-KEM-768 (1184 bytes), then X25519 (32)."""

    private: MLKEM768X25519PrivateKey
    public: bytes


def new_hpke_key() -> HpkeKey:
    """A fresh key pair."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    return HpkeKey(MLKEM768X25519PrivateKey(mlkem, x25519), public)


def challenge_request(request: Request, client_nonce: bytes) -> dict[str, Json]:
    """The body of ``POST /v1/challenge``."""
    return {
        "version": VERSION,
        "platform": request.platform.value,
        "app_id": "0x" + request.app_id.hex(),
        "instance_id": request.instance_id.hex(),
        "client_nonce": client_nonce.hex(),
        "ak_public": _b64(request.identity.ak_public),
        "ek_certificate": _b64(request.identity.ek_certificate),
    }


def check_challenge(body: bytes, request: Request, client_nonce: bytes) -> Challenge:
    """The challenge, if it answers this request and is of the pinned KMS, chain and contract."""
    document = parse_json(body, subject="challenge")
    fields = Fields(document, _CHALLENGE_KEYS, path="challenge", refuse=format_error)
    pin = request.pin
    if fields.raw("version") != VERSION:
        refuse("the challenge is of another version")
    if fields.octets("kms_id", 32) != pin.kms_id:
        refuse("the challenge is of another KMS than the app manifest pins")
    if (fields.integer("chain_id", 1), fields.address("contract")) != (pin.chain_id, pin.contract):
        refuse("the challenge is for another chain or contract than the app manifest pins")
    if request.platform.value not in fields.texts("platforms") or SUITE not in fields.texts("suites"):
        refuse("the KMS does not take this platform or this encryption")
    if fields.octets("binding", 32) != _hash_json(challenge_request(request, client_nonce)):
        refuse("the challenge answers another request")
    _check_shape(fields)
    credential = fields.object("credential", ("id_object", "encrypted_secret"))
    return Challenge(
        document=document,
        nonce=fields.not_zero("nonce", fields.octets("nonce", NONCE_SIZE)),
        secret_hash=fields.octets("secret_hash", 32),
        id_object=decode_base64(credential, "id_object", most=1024),
        encrypted_secret=decode_base64(credential, "encrypted_secret", most=1024),
    )


def _check_shape(fields: Fields) -> None:
    """What the agent has no use for must still be of its form."""
    block = fields.object("block", ("number", "hash", "time"))
    block.integer("number")
    block.octets("hash", 32)
    block.integer("time")
    fields.integer("expires_at", 1)
    fields.octets("mac", 32)


def check_activation(challenge: Challenge, secret: bytes) -> None:
    """Refuse a credential that holds another secret than the challenge is made with."""
    if not hmac.compare_digest(hashlib.sha256(secret).digest(), challenge.secret_hash):
        refuse("the credential holds another secret than the challenge says")


def report_data(request: Request, challenge: Challenge, client_nonce: bytes) -> bytes:
    """64 bytes: what the quote binds."""
    return key_release_report_data(
        KeyRelease(
            role=ROLE,
            kms_nonce=challenge.nonce,
            client_nonce=client_nonce,
            kms_id=request.pin.kms_id,
            chain_id=request.pin.chain_id,
            contract=request.pin.contract,
            app_id=request.app_id,
            instance_id=request.instance_id,
            hpke_public=request.hpke_public,
            keys=request.keys,
            app_manifest=request.app_manifest,
        )
    )


def key_request(
    request: Request, challenge: Challenge, client_nonce: bytes, *, secret: bytes, evidence: Json
) -> dict[str, Json]:
    """The body of ``POST /v1/keys``; ``secret`` is the activated credential's."""
    return {
        "version": VERSION,
        "challenge": challenge.document,
        "client_nonce": client_nonce.hex(),
        "role": ROLE,
        "app_id": "0x" + request.app_id.hex(),
        "instance_id": request.instance_id.hex(),
        "keys": [key._asdict() for key in request.keys],
        "hpke_public": _b64(request.hpke_public),
        "activation": secret.hex(),
        "evidence": evidence,
    }


def expected_release(request: Request, challenge: Challenge, client_nonce: bytes, evidence: Json) -> Release:
    """What the receipt of this attempt must say."""
    return Release(
        pin=request.pin,
        nonce=challenge.nonce,
        role=ROLE,
        platform=request.platform.value,
        app_id=request.app_id,
        instance_id=request.instance_id,
        app_hash=app_hash(request.app_manifest),
        report_data=report_data(request, challenge, client_nonce),
        evidence_hash=_hash_json(evidence),
        evidence=evidence,
        keys=request.keys,
    )


def open_response(body: bytes, release: Release, signer: Signer, hpke_key: HpkeKey) -> Released:
    """What is inside a 200 of ``/v1/keys``: first the receipt is checked, then the sealed part is opened.

    Raises ``KmsFormatError`` or ``KmsIdentityError``.
    """
    from cryptography.exceptions import InvalidTag

    fields = Fields(
        parse_json(body, subject="KMS answer"), ("sealed", "receipt"), path="", refuse=format_error
    )
    receipt = check_issue(fields.raw("receipt"), signer, release)
    info = RESPONSE_INFO + release.report_data + receipt.hash
    try:
        opened = _suite().decrypt(
            decode_base64(fields, "sealed", most=MAX_SEALED), hpke_key.private, info=info
        )
    except (InvalidTag, ValueError):
        refuse("the sealed keys were not sealed to this release and its receipt")
    return _read_opened(opened, receipt, release, signer)


def _read_opened(opened: bytes, receipt: Receipt, release: Release, signer: Signer) -> Released:
    document = parse_canonical(opened, subject="sealed keys")
    fields = Fields(document, ("keys", "format_permitted", "confirm_key"), path="sealed", refuse=format_error)
    keys = fields.objects("keys", ("path", "kind", "scope", "epoch", "secret", "public"), _held_key)
    named = tuple((key.path, key.kind, key.scope, key.epoch, key.public) for key in keys)
    if named != tuple(tuple(key) for key in receipt.keys):
        refuse("the sealed keys are not those that the receipt names")
    permitted = fields.boolean("format_permitted")
    if permitted != receipt.format_permitted:
        refuse("the receipt says otherwise whether the disk may be formatted")
    confirm_key = fields.not_zero("confirm_key", fields.octets("confirm_key", 32))
    store = KeyStore(keys, wanted=release.keys)
    return Released(store, permitted, confirm_key, receipt, release, signer)


def _held_key(fields: Fields) -> HeldKey:
    return HeldKey(
        path=fields.text("path"),
        kind=fields.choice("kind", KeyKind),
        scope=fields.choice("scope", KeyScope),
        epoch=fields.integer("epoch"),
        secret=decode_base64(fields, "secret", most=64),
        public=None if fields.is_null("public") else decode_base64(fields, "public", most=64),
    )


def read_refusal(body: bytes, release: Release, signer: Signer) -> RefusedByKmsError:
    """The refusal in a 403, if the pinned KMS signed it for this request; otherwise raises."""
    fields = Fields(
        parse_json(body, subject="KMS answer"), ("error", "receipt"), path="", refuse=format_error
    )
    error = fields.object("error", ("code", "reason", "advice"))
    code, reason = check_refusal(fields.raw("receipt"), signer, release)
    return RefusedByKmsError(code, reason, advice=printable(error.text("advice")))


def confirm_request(released: Released) -> dict[str, Json]:
    """The body of ``POST /v1/instances/confirm``."""
    mac = hmac.digest(released.confirm_key, CONFIRM_PREFIX + released.receipt.hash, "sha256")
    return {"version": VERSION, "receipt_hash": released.receipt.hash.hex(), "mac": mac.hex()}


def check_confirmation(body: bytes, released: Released, signer: Signer) -> None:
    """Raises unless ``body`` is the pinned KMS's confirmation of this release."""
    fields = Fields(parse_json(body, subject="KMS answer"), ("receipt",), path="", refuse=format_error)
    _check_confirmation(fields.raw("receipt"), signer, released.release, released.receipt)


def printable(text: str) -> str:
    """Text of another machine as one short line of ASCII, safe for a console."""
    line = "".join(character if " " <= character <= "~" else "?" for character in text[: MAX_REASON + 1])
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 3] + "..."


def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _hash_json(document: Json) -> bytes:
    return hashlib.sha256(encode_canonical(document)).digest()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
