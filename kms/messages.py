"""Requests to the KMS, read strictly (docs/formats.md, "KMS, version 1").

Sizes are capped before anything is parsed; unknown, missing and duplicate keys are refused. What was read is
of the right form, nothing more. Errors are ``FormatError``.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from attestation.evidence import MAX_EVIDENCE, Evidence, parse_evidence
from attestation.report_data import ROLE_APP, KeyRequest
from kms.derivation import AGENT_PATHS, is_key_path
from kms.receipt import MOST_KEYS
from kms.strict_json import Fields, canonical_json, fail, member, read_object
from measurements.app_manifest import AppManifest, KeyKind, KeyScope
from measurements.envelope import ENVELOPE_PATH

VERSION = 1
PLATFORM = "tpm"
SUITE = "MLKEM768_X25519/HKDF_SHA256/AES_256_GCM"
LARGEST_CHALLENGE_REQUEST = 1 << 15
LARGEST_KEY_REQUEST = MAX_EVIDENCE + (1 << 16)
LARGEST_CONFIRM_REQUEST = 1 << 10
HPKE_PUBLIC_SIZE = 1184 + 32
"""ML-KEM-768 encapsulation key, then X25519."""

LARGEST_TPM_PART = 2048
LARGEST_CERTIFICATE = 8192
STORAGE_KEY = KeyRequest(path="keyturn/storage", kind="raw-256", scope="instance")
"""What the agent asks for besides the app's keys when the manifest has storage."""

ENVELOPE_KEY = KeyRequest(path=ENVELOPE_PATH, kind="x25519", scope="app")
"""What it asks for when the manifest names an owner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChallengeRequest:
    """``POST /v1/challenge``."""

    app_id: bytes
    instance_id: bytes
    client_nonce: bytes
    ak_public: bytes
    ek_certificate: bytes

    @property
    def binding(self) -> bytes:
        """32 bytes: the hash of the request's canonical JSON."""
        return hashlib.sha256(canonical_json(self.as_json())).digest()

    def as_json(self) -> dict[str, Any]:
        """The request's document."""
        return {
            "version": VERSION,
            "platform": PLATFORM,
            "app_id": f"0x{self.app_id.hex()}",
            "instance_id": self.instance_id.hex(),
            "client_nonce": self.client_nonce.hex(),
            "ak_public": encode_base64(self.ak_public),
            "ek_certificate": encode_base64(self.ek_certificate),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Challenge:
    """What the KMS hands out, and gets back: ``mac`` covers all else."""

    nonce: bytes
    kms_id: bytes
    chain_id: int
    contract: bytes
    block_number: int
    block_hash: bytes
    block_time: int
    expires_at: int
    binding: bytes
    secret_hash: bytes
    id_object: bytes
    encrypted_secret: bytes
    mac: bytes

    def as_json(self) -> dict[str, Any]:
        """The challenge's document."""
        return {**self.authenticated(), "mac": self.mac.hex()}

    def authenticated(self) -> dict[str, Any]:
        """What the MAC covers."""
        return {
            "version": VERSION,
            "nonce": self.nonce.hex(),
            "kms_id": self.kms_id.hex(),
            "chain_id": self.chain_id,
            "contract": f"0x{self.contract.hex()}",
            "block": {"number": self.block_number, "hash": self.block_hash.hex(), "time": self.block_time},
            "platforms": [PLATFORM],
            "suites": [SUITE],
            "expires_at": self.expires_at,
            "binding": self.binding.hex(),
            "secret_hash": self.secret_hash.hex(),
            "credential": {
                "id_object": encode_base64(self.id_object),
                "encrypted_secret": encode_base64(self.encrypted_secret),
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class KeysRequest:
    """``POST /v1/keys``."""

    challenge: Challenge
    client_nonce: bytes
    app_id: bytes
    instance_id: bytes
    keys: tuple[KeyRequest, ...]
    hpke_public: bytes
    activation: bytes
    evidence: Evidence
    evidence_hash: bytes

    @property
    def challenge_request(self) -> ChallengeRequest:
        """The request that the challenge must have been made for."""
        return ChallengeRequest(
            app_id=self.app_id,
            instance_id=self.instance_id,
            client_nonce=self.client_nonce,
            ak_public=self.evidence.ak_public,
            ek_certificate=self.evidence.ek_certificate,
        )

    @property
    def wants_storage(self) -> bool:
        """Whether the key of the encrypted disk is asked for."""
        return STORAGE_KEY in self.keys


def listed_keys(manifest: AppManifest) -> set[tuple[str, str, str]]:
    """(path, kind, scope) of all keys that a guest with this manifest may have."""
    listed = {(key.path, key.kind.value, key.scope.value) for key in manifest.keys}
    own = [
        *([] if manifest.storage is None else [STORAGE_KEY]),
        *([] if manifest.owner_key is None else [ENVELOPE_KEY]),
    ]
    return listed | {(key.path, key.kind, key.scope) for key in own}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmRequest:
    """``POST /v1/instances/confirm``."""

    receipt_hash: bytes
    mac: bytes


def parse_challenge_request(body: bytes) -> ChallengeRequest:
    """Read the body of ``POST /v1/challenge``."""
    fields = _object(body, LARGEST_CHALLENGE_REQUEST, "challenge request")
    fields.exactly("platform", PLATFORM)
    request = ChallengeRequest(
        app_id=_not_zero(fields, "app_id", fields.address("app_id")),
        instance_id=_not_zero(fields, "instance_id", fields.hexadecimal("instance_id", size=16)),
        client_nonce=_not_zero(fields, "client_nonce", fields.hexadecimal("client_nonce", size=32)),
        ak_public=fields.base64("ak_public", largest=LARGEST_TPM_PART),
        ek_certificate=fields.base64("ek_certificate", largest=LARGEST_CERTIFICATE),
    )
    fields.done()
    return request


def parse_keys_request(body: bytes) -> KeysRequest:
    """Read the body of ``POST /v1/keys``."""
    fields = _object(body, LARGEST_KEY_REQUEST, "key request")
    fields.exactly("role", ROLE_APP)
    document = fields.raw("evidence")
    request = KeysRequest(
        challenge=_read_challenge(fields.fields("challenge")),
        client_nonce=_not_zero(fields, "client_nonce", fields.hexadecimal("client_nonce", size=32)),
        app_id=_not_zero(fields, "app_id", fields.address("app_id")),
        instance_id=_not_zero(fields, "instance_id", fields.hexadecimal("instance_id", size=16)),
        keys=_read_keys(fields),
        hpke_public=fields.base64("hpke_public", largest=HPKE_PUBLIC_SIZE),
        activation=fields.hexadecimal("activation", size=32),
        evidence=parse_evidence(document),
        evidence_hash=hashlib.sha256(canonical_json(document)).digest(),
    )
    fields.done()
    if len(request.hpke_public) != HPKE_PUBLIC_SIZE:
        fail(fields.subject, f"'hpke_public' is not {HPKE_PUBLIC_SIZE} bytes")
    return request


def parse_confirm_request(body: bytes) -> ConfirmRequest:
    """Read the body of ``POST /v1/instances/confirm``."""
    fields = _object(body, LARGEST_CONFIRM_REQUEST, "confirmation")
    request = ConfirmRequest(
        receipt_hash=fields.hexadecimal("receipt_hash", size=32), mac=fields.hexadecimal("mac", size=32)
    )
    fields.done()
    return request


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def _object(body: bytes, largest: int, subject: str) -> Fields:
    if len(body) > largest:
        fail(subject, f"it is larger than {largest} bytes")
    fields = read_object(body, subject=subject)
    fields.exactly("version", VERSION)
    return fields


def _read_challenge(fields: Fields) -> Challenge:
    fields.exactly("version", VERSION)
    block, credential = fields.fields("block"), fields.fields("credential")
    if fields.array("platforms", most=8) != [PLATFORM] or fields.array("suites", most=8) != [SUITE]:
        fail(fields.subject, "its platforms or suites are not the ones offered")
    challenge = Challenge(
        nonce=fields.hexadecimal("nonce", size=32),
        kms_id=fields.hexadecimal("kms_id", size=32),
        chain_id=fields.integer("chain_id", least=1),
        contract=fields.address("contract"),
        block_number=block.integer("number"),
        block_hash=block.hexadecimal("hash", size=32),
        block_time=block.integer("time"),
        expires_at=fields.integer("expires_at"),
        binding=fields.hexadecimal("binding", size=32),
        secret_hash=fields.hexadecimal("secret_hash", size=32),
        id_object=credential.base64("id_object", largest=LARGEST_TPM_PART),
        encrypted_secret=credential.base64("encrypted_secret", largest=LARGEST_TPM_PART),
        mac=fields.hexadecimal("mac", size=32),
    )
    for part in (block, credential, fields):
        part.done()
    return challenge


def _read_keys(fields: Fields) -> tuple[KeyRequest, ...]:
    keys = tuple(_read_key(entry) for entry in fields.array("keys", most=MOST_KEYS))
    if len({(key.path, key.kind) for key in keys}) != len(keys):
        fail(fields.subject, "a key is asked for twice")
    return keys


def _read_key(document: object) -> KeyRequest:
    fields = Fields(document, subject="key request, key")
    key = KeyRequest(
        path=fields.text("path"),
        kind=member(KeyKind, fields.text("kind"), subject=fields.subject).value,
        scope=member(KeyScope, fields.text("scope"), subject=fields.subject).value,
    )
    fields.done()
    if not is_key_path(key.path) or (
        key.path.startswith(AGENT_PATHS) and key not in (STORAGE_KEY, ENVELOPE_KEY)
    ):
        fail(fields.subject, f"{key.path!r} is not a path that may be asked for")
    return key


def _not_zero(fields: Fields, key: str, value: bytes) -> bytes:
    if not any(value):
        fail(fields.subject, f"{key!r} is zero")
    return value
