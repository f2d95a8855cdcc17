"""Services on paper: an app that holds a released key and answers with proofs."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.evidence import evidence_document
from attestation.report_data import KeyRequest
from kms.bundle import Bundle
from kms.service_proof import DOMAIN, SIGN_PREFIX, TYPE, FreshPart, parse_fresh, service_report_data
from measurements.app_manifest import KeyKind, KeyScope
from measurements.runtime_events import RuntimeEvent, Storage, boot_complete_event, storage_event
from tests.kms.guests import BOOTED, SIGNING, Guest, World
from tests.support.paper_tpm import PaperTpm

NONCE = b"\x71" * 32


def signing_key(world: World, key: KeyRequest = SIGNING, *, epoch: int = 1) -> Ed25519PrivateKey:
    """The key that the KMS releases under this path."""
    derived = world.root.app_key(
        app_id=world.app_id,
        scope=KeyScope(key.scope),
        scope_id=b"",
        path=key.path,
        kind=KeyKind(key.kind),
        epoch=epoch,
    )
    return Ed25519PrivateKey.from_private_bytes(derived.secret)


def make_fresh(
    world: World,
    guest: Guest,
    *,
    nonce: bytes = NONCE,
    key: Ed25519PrivateKey | None = None,
    signed: bytes | None = None,
    quoted: bytes | None = None,
    events: Sequence[RuntimeEvent] | None = None,
    tpm: PaperTpm | None = None,
    path: str = SIGNING.path,
) -> dict[str, Any]:
    """The part of a bundle; by default everything is as it should be."""
    signer = key or signing_key(world)
    document: dict[str, Any] = {
        "path": path,
        "kind": "ed25519",
        "public": base64.b64encode(signer.public_key().public_bytes_raw()).decode(),
        "signature": base64.b64encode(signer.sign(SIGN_PREFIX + DOMAIN + (signed or nonce))).decode(),
    }
    evidence = (tpm or guest.tpm).evidence(
        report_data=_report_data(quoted or nonce, document, guest),
        runtime_events=running(guest) if events is None else events,
        app_manifest=guest.manifest,
        firmware=BOOTED,
    )
    return {
        "nonce": nonce.hex(),
        "key": document,
        "quote": json.loads(json.dumps(evidence_document(evidence))),
    }


def running(guest: Guest) -> list[RuntimeEvent]:
    """The whole log of a guest whose app runs."""
    return [*guest.events(), storage_event(Storage.FORMATTED), boot_complete_event()]


def service_proof(fresh: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    """What the service of ``bundle`` answers with."""
    return {"type": TYPE, **fresh, "receipt": bundle.receipt, "evidence": bundle.evidence}


def _report_data(nonce: bytes, key: dict[str, Any], guest: Guest) -> bytes:
    blank = guest.tpm.evidence(report_data=bytes(64), runtime_events=[], app_manifest=b"{}", firmware=BOOTED)
    shown = {"nonce": nonce.hex(), "key": key, "quote": json.loads(json.dumps(evidence_document(blank)))}
    fresh: FreshPart = parse_fresh(shown)
    return service_report_data(fresh)
