"""Service proofs: that a service which answers now runs in the machine that its keys were released to.

Layout (docs/formats.md, "Service proof"), the answer to ``GET /.well-known/keyturn?nonce=HEX``::

    {"type": "keyturn-service/1", "nonce": hex (32),
     "key": {"path": text, "kind": text, "public": b64, "signature": b64},
     "quote": {...}, "receipt": envelope, "evidence": {...}}

``signature`` is that of ``POST /v1/sign`` with the key over ``"keyturn-service/1\\0" ‖ nonce``; ``quote`` is
evidence of purpose ``app``, whose data is ``SHA-512("keyturn-service/1\\0" ‖ nonce ‖ H(JCS(key)))``;
``receipt`` and ``evidence`` are those of ``GET /v1/release``. A bundle keeps nonce, key and quote. Reading
checks form and sizes only; errors are ``FormatError``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.evidence import MAX_EVIDENCE, Evidence, parse_evidence
from attestation.report_data import PURPOSE_APP, quote_report_data
from kms.derivation import is_key_path
from kms.strict_json import Fields, canonical_json, fail, member, read_object
from measurements.app_manifest import KeyKind

TYPE = "keyturn-service/1"
PATH = "/.well-known/keyturn"
DOMAIN = b"keyturn-service/1\0"
SIGN_PREFIX = b"keyturn-sign/1\0"
"""What the agent puts before everything that an app has it sign."""

LARGEST_PROOF = 2 * MAX_EVIDENCE + (1 << 20)
LARGEST_SIGNATURE = 128
_CURVES: dict[KeyKind, ec.EllipticCurve] = {KeyKind.SECP256K1: ec.SECP256K1(), KeyKind.P256: ec.SECP256R1()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceKey:
    """The key that the service signs with, as it shows it; ``document`` is its JSON."""

    path: str
    kind: KeyKind
    public: bytes
    signature: bytes
    document: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class FreshPart:
    """What the service showed for a nonce (32 bytes)."""

    nonce: bytes
    key: ServiceKey
    quote: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceProof:
    """A whole proof, as parts of a bundle that are not read yet."""

    fresh: dict[str, Any]
    receipt: Any
    evidence: Any


def parse_service_proof(data: bytes) -> ServiceProof:
    """The proof in an answer."""
    if len(data) > LARGEST_PROOF:
        fail("service proof", f"it is larger than {LARGEST_PROOF} bytes")
    fields = read_object(data, subject="service proof")
    fields.exactly("type", TYPE)
    proof = ServiceProof(
        fresh={name: fields.raw(name) for name in ("nonce", "key", "quote")},
        receipt=fields.raw("receipt"),
        evidence=fields.raw("evidence"),
    )
    fields.done()
    return proof


def parse_fresh(document: object) -> FreshPart:
    """Nonce, key and quote."""
    fields = Fields(document, subject="service proof")
    fresh = FreshPart(
        nonce=fields.hexadecimal("nonce", size=32),
        key=_parse_key(fields.raw("key")),
        quote=parse_evidence(fields.raw("quote")),
    )
    fields.done()
    return fresh


def service_report_data(fresh: FreshPart) -> bytes:
    """The 64 bytes that the quote must bind: nonce, key and signature."""
    key = hashlib.sha256(canonical_json(fresh.key.document)).digest()
    return quote_report_data(PURPOSE_APP, hashlib.sha512(DOMAIN + fresh.nonce + key).digest())


def signature_holds(fresh: FreshPart) -> bool:
    """Whether the key signed the nonce for this purpose: Ed25519, or ECDSA with SHA-256 (DER)."""
    key, message = fresh.key, SIGN_PREFIX + DOMAIN + fresh.nonce
    try:
        if key.kind is KeyKind.ED25519:
            Ed25519PublicKey.from_public_bytes(key.public).verify(key.signature, message)
        else:
            public = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[key.kind], key.public)
            public.verify(key.signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, KeyError):
        return False
    return True


def _parse_key(document: object) -> ServiceKey:
    fields = Fields(document, subject="service proof, key")
    path = fields.text("path", longest=128)
    if not is_key_path(path):
        fail("service proof, key", "'path' is no path of a key")
    key = ServiceKey(
        path=path,
        kind=member(KeyKind, fields.text("kind"), subject="service proof, key"),
        public=fields.base64("public", largest=33),
        signature=fields.base64("signature", largest=LARGEST_SIGNATURE),
        document=fields.document,
    )
    fields.done()
    return key
