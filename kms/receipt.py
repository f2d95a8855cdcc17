"""Receipts: what the KMS decided, signed.

The payload is canonical JSON (RFC 8785) as in docs/formats.md, "Receipt"; it travels in a DSSE envelope
(Dead Simple Signing Envelope, protocol version 1) whose signature is Ed25519 over the pre-authentication
encoding::

    "DSSEv1" SP len(payloadType) SP payloadType SP len(payload) SP payload      lengths in ASCII decimal

The receipt hash is ``H(payload)``. Reading is strict: a payload that is not the one canonical encoding of its
receipt is refused. Errors are ``ReceiptError``, or ``FieldError`` of ``kms.strict_json``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kms.derivation import is_key_path
from kms.strict_json import Fields, canonical_json, fail, member, read_object
from measurements.app_manifest import KeyKind, KeyScope
from measurements.errors import RefusedError
from measurements.version import VERSION

RECEIPT_PAYLOAD_TYPE = "application/vnd.keyturn.receipt+json"
RECEIPT_TYPE = "keyturn-receipt/1"
VERIFIER_NAME = "keyturn"
NO_PREVIOUS = bytes(32)
MOST_KEYS = 64
LARGEST_PAYLOAD = 1 << 16


class ReceiptError(RefusedError):
    """A receipt whose signature or signer is not what it should be."""

    code = "receipt"


class Decision(StrEnum):
    """What a receipt records."""

    ISSUE = "issue"
    REFUSE = "refuse"
    CONFIRM = "confirm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why something was refused: a stable code and a sentence."""

    code: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptKey:
    """One key that a receipt names; ``public`` is None for kinds without a public half and in refusals."""

    path: str
    kind: KeyKind
    scope: KeyScope
    epoch: int
    public: bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainPosition:
    """The block and the policy versions a decision was made under."""

    chain_id: int
    contract: bytes
    block_number: int
    block_hash: bytes
    state_root: bytes
    policy_version: int
    app_policy_version: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """Who asked, and what was established about it before the decision fell; None is "not established"."""

    nonce: bytes
    role: str
    app_id: bytes
    instance_id: bytes
    platform: str
    evidence_hash: bytes
    app_hash: bytes | None = None
    image_id: bytes | None = None
    reference_digest: bytes | None = None
    platform_root: bytes | None = None
    platform_id: bytes | None = None
    report_data: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was decided. A refusal has a reason and permits nothing; a confirmation names a receipt."""

    decision: Decision
    reason: Reason | None = None
    keys: tuple[ReceiptKey, ...] = ()
    format_permitted: bool = False
    confirms: bytes | None = None
    chain: ChainPosition | None = None

    def __post_init__(self) -> None:
        consistent = (
            (self.reason is not None) == (self.decision is Decision.REFUSE)
            and (self.confirms is not None) == (self.decision is Decision.CONFIRM)
            and (self.decision is Decision.ISSUE or not self.format_permitted)
            and (self.decision is not Decision.ISSUE or self.chain is not None)
        )
        if not consistent:
            fail("receipt", f"its members do not belong to decision {self.decision.value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """One decision at its place in the journal: ``seq`` from 1, ``time`` in seconds since 1970."""

    kms_id: bytes
    seq: int
    prev_hash: bytes
    time: int
    development: bool
    subject: Subject
    outcome: Outcome
    version: str = VERSION


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """A signed payload (DSSE)."""

    payload_type: str
    payload: bytes
    key_id: bytes
    signature: bytes

    def as_json(self) -> dict[str, Any]:
        """The envelope as it is sent."""
        return {
            "payloadType": self.payload_type,
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "signatures": [
                {"keyid": self.key_id.hex(), "sig": base64.b64encode(self.signature).decode("ascii")}
            ],
        }


def receipt_hash(payload: bytes) -> bytes:
    """32 bytes: the hash that names a receipt."""
    return hashlib.sha256(payload).digest()


def receipt_payload(receipt: Receipt) -> bytes:
    """The canonical JSON of ``receipt``."""
    return canonical_json(
        {
            "type": RECEIPT_TYPE,
            "kms_id": receipt.kms_id.hex(),
            "seq": receipt.seq,
            "prev_hash": receipt.prev_hash.hex(),
            "time": receipt.time,
            "development": receipt.development,
            **_subject_json(receipt.subject),
            **_outcome_json(receipt.outcome),
            "verifier": {"name": VERIFIER_NAME, "version": receipt.version},
        }
    )


def parse_receipt(payload: bytes) -> Receipt:
    """The receipt that ``payload`` is the canonical JSON of."""
    if len(payload) > LARGEST_PAYLOAD:
        fail("receipt", f"it is larger than {LARGEST_PAYLOAD} bytes")
    fields = read_object(payload, subject="receipt")
    fields.exactly("type", RECEIPT_TYPE)
    verifier = fields.fields("verifier")
    verifier.exactly("name", VERIFIER_NAME)
    receipt = Receipt(
        kms_id=fields.hexadecimal("kms_id", size=32),
        seq=fields.integer("seq", least=1),
        prev_hash=fields.hexadecimal("prev_hash", size=32),
        time=fields.integer("time"),
        development=fields.boolean("development"),
        subject=_read_subject(fields),
        outcome=_read_outcome(fields),
        version=verifier.text("version"),
    )
    verifier.done()
    fields.done()
    if receipt_payload(receipt) != payload:
        fail("receipt", "it is not in canonical form")
    return receipt


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload: bytes, *, payload_type: str, key_id: bytes, key: Ed25519PrivateKey) -> Envelope:
    """``payload`` signed by ``key``, which belongs to the KMS ``key_id``."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    return Envelope(payload_type=payload_type, payload=payload, key_id=key_id, signature=signature)


def parse_envelope(document: object, *, subject: str = "envelope") -> Envelope:
    """The envelope that a JSON document holds: exactly one signature."""
    fields = Fields(document, subject=subject)
    signatures = fields.array("signatures", most=1)
    signed = Fields(signatures[0] if signatures else None, subject=f"{subject}, signature")
    envelope = Envelope(
        payload_type=fields.text("payloadType"),
        payload=fields.base64("payload", largest=LARGEST_PAYLOAD),
        key_id=signed.hexadecimal("keyid", size=32),
        signature=signed.base64("sig", largest=64),
    )
    signed.done()
    fields.done()
    return envelope


def verify_envelope(envelope: Envelope, *, payload_type: str, kms_id: bytes, ed25519: bytes) -> bytes:
    """The payload, once signer, type and signature are checked. ``ed25519``: the KMS's public key (32 bytes).

    Raises ``ReceiptError``.
    """
    if envelope.payload_type != payload_type:
        _refuse(f"it is of type {envelope.payload_type!r}, not {payload_type!r}")
    if envelope.key_id != kms_id:
        _refuse(f"it is signed by KMS {envelope.key_id.hex()}, not {kms_id.hex()}")
    signed = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    try:
        Ed25519PublicKey.from_public_bytes(ed25519).verify(envelope.signature, signed)
    except (InvalidSignature, ValueError):
        _refuse("its signature does not hold")
    return envelope.payload


def verify_receipt(envelope: Envelope, *, kms_id: bytes, ed25519: bytes) -> Receipt:
    """The receipt in ``envelope``, which KMS ``kms_id`` signed for itself."""
    payload = verify_envelope(envelope, payload_type=RECEIPT_PAYLOAD_TYPE, kms_id=kms_id, ed25519=ed25519)
    receipt = parse_receipt(payload)
    if receipt.kms_id != kms_id:
        _refuse(f"it is a receipt of KMS {receipt.kms_id.hex()}")
    return receipt


def _subject_json(subject: Subject) -> dict[str, Any]:
    return {
        "nonce": subject.nonce.hex(),
        "role": subject.role,
        "app_id": _address(subject.app_id),
        "instance_id": subject.instance_id.hex(),
        "app_hash": _hex(subject.app_hash),
        "image_id": _hex(subject.image_id),
        "reference_digest": _hex(subject.reference_digest),
        "platform": subject.platform,
        "platform_root": _hex(subject.platform_root),
        "platform_id": _hex(subject.platform_id),
        "report_data": _hex(subject.report_data),
        "evidence_hash": subject.evidence_hash.hex(),
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    reason = outcome.reason
    return {
        "decision": outcome.decision.value,
        "reason": None if reason is None else {"code": reason.code, "text": reason.text},
        "keys": [key_json(key) for key in outcome.keys],
        "format_permitted": outcome.format_permitted,
        "confirms": _hex(outcome.confirms),
        "chain": None if outcome.chain is None else _chain_json(outcome.chain),
    }


def key_json(key: ReceiptKey) -> dict[str, Any]:
    """One key as receipts show it."""
    return {
        "path": key.path,
        "kind": key.kind.value,
        "scope": key.scope.value,
        "epoch": key.epoch,
        "public": _hex(key.public),
    }


def _chain_json(chain: ChainPosition) -> dict[str, Any]:
    return {
        "chain_id": chain.chain_id,
        "contract": _address(chain.contract),
        "block_number": chain.block_number,
        "block_hash": chain.block_hash.hex(),
        "state_root": chain.state_root.hex(),
        "policy_version": chain.policy_version,
        "app_policy_version": chain.app_policy_version,
    }


def _read_subject(fields: Fields) -> Subject:
    def hash_or_null(key: str) -> bytes | None:
        return fields.optional(key, lambda name: fields.hexadecimal(name, size=32))

    return Subject(
        nonce=fields.hexadecimal("nonce", size=32),
        role=fields.text("role", longest=16),
        app_id=fields.address("app_id"),
        instance_id=fields.hexadecimal("instance_id", size=16),
        platform=fields.text("platform", longest=16),
        evidence_hash=fields.hexadecimal("evidence_hash", size=32),
        app_hash=hash_or_null("app_hash"),
        image_id=hash_or_null("image_id"),
        reference_digest=hash_or_null("reference_digest"),
        platform_root=hash_or_null("platform_root"),
        platform_id=hash_or_null("platform_id"),
        report_data=fields.optional("report_data", lambda name: fields.hexadecimal(name, size=64)),
    )


def _read_outcome(fields: Fields) -> Outcome:
    return Outcome(
        decision=member(Decision, fields.text("decision"), subject="receipt"),
        reason=fields.optional("reason", lambda name: _read_reason(fields.fields(name))),
        keys=tuple(_read_key(entry) for entry in fields.array("keys", most=MOST_KEYS)),
        format_permitted=fields.boolean("format_permitted"),
        confirms=fields.optional("confirms", lambda name: fields.hexadecimal(name, size=32)),
        chain=fields.optional("chain", lambda name: _read_chain(fields.fields(name))),
    )


def _read_reason(fields: Fields) -> Reason:
    reason = Reason(code=fields.text("code"), text=fields.text("text", longest=4096))
    fields.done()
    return reason


def _read_key(document: Mapping[str, Any]) -> ReceiptKey:
    fields = Fields(document, subject="receipt, key")
    path = fields.text("path")
    kind = member(KeyKind, fields.text("kind"), subject=fields.subject)
    size = 33 if kind in (KeyKind.SECP256K1, KeyKind.P256) else 32
    key = ReceiptKey(
        path=path if is_key_path(path) else fail(fields.subject, f"{path!r} is not a key path"),
        kind=kind,
        scope=member(KeyScope, fields.text("scope"), subject=fields.subject),
        epoch=fields.integer("epoch"),
        public=fields.optional("public", lambda name: fields.hexadecimal(name, size=size)),
    )
    fields.done()
    return key


def _read_chain(fields: Fields) -> ChainPosition:
    position = ChainPosition(
        chain_id=fields.integer("chain_id", least=1),
        contract=fields.address("contract"),
        block_number=fields.integer("block_number"),
        block_hash=fields.hexadecimal("block_hash", size=32),
        state_root=fields.hexadecimal("state_root", size=32),
        policy_version=fields.integer("policy_version"),
        app_policy_version=fields.optional("app_policy_version", fields.integer),
    )
    fields.done()
    return position


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _address(data: bytes) -> str:
    return f"0x{data.hex()}"


def _refuse(reason: str) -> NoReturn:
    raise ReceiptError(
        reason,
        subject="receipt",
        advice="check the KMS id that the app pins, and where the receipt comes from",
    )
