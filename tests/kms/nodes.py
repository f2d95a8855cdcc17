"""KMS nodes on paper: the identity of a KMS whose guest is a TPM on paper."""

from __future__ import annotations

import json
from typing import Any

from attestation.evidence import evidence_document
from attestation.evidence_tree import ExpectedApp, ExpectedManifest
from kms.answers import identity_json
from kms.node import NodeAnchors, identity_report_data, node_document
from kms.root_key import RootKey
from measurements.app_manifest import app_hash
from measurements.reference import parse_reference
from measurements.runtime_events import (
    DEV_IMAGE,
    KeyProvider,
    RuntimeEvent,
    Storage,
    TpmSealProvider,
    app_hash_event,
    app_id_event,
    boot_complete_event,
    boot_event,
    config_hash_event,
    instance_id_event,
    key_provider_event,
    storage_event,
)
from tests.kms.guests import AUTHORITY, BOOTED, TPM
from tests.kms.receipts import PIN, ROOT
from tests.support.app_documents import manifest_bytes
from tests.support.paper_tpm import NOW, PaperTpm
from tests.support.reference_documents import reference_document

NONCE = b"\x4e" * 32
SEALED = TpmSealProvider(chain_id=PIN.chain_id, contract=PIN.contract)


def kms_manifest(**changes: Any) -> bytes:
    """A manifest of the KMS app of ``PIN``."""
    contract = f"0x{PIN.contract.hex()}"
    provider = {"mode": "tpm-seal", "chain_id": PIN.chain_id, "contract": contract}
    return manifest_bytes(**{"name": "kms", "app_id": contract, "key_provider": provider, **changes})


MANIFEST = kms_manifest()


def kms_events(
    *,
    manifest: bytes = MANIFEST,
    app_id: bytes = PIN.contract,
    provider: KeyProvider = SEALED,
    dev: bool = False,
) -> list[RuntimeEvent]:
    """The whole log of the KMS's guest."""
    return [
        *([DEV_IMAGE] if dev else []),
        boot_event(),
        app_id_event(app_id),
        app_hash_event(app_hash(manifest)),
        config_hash_event(b"\xcf" * 32),
        instance_id_event(b"\x0a" * 16),
        key_provider_event(provider),
        storage_event(Storage.OPENED),
        boot_complete_event(),
    ]


def identity_evidence(
    *,
    nonce: bytes = NONCE,
    root: RootKey = ROOT,
    manifest: bytes = MANIFEST,
    events: list[RuntimeEvent] | None = None,
    tpm: PaperTpm = TPM,
) -> dict[str, Any]:
    """What ``/v1/identity`` answers with."""
    evidence = tpm.evidence(
        report_data=identity_report_data(nonce=nonce, identifier=root.identity.kms_id),
        runtime_events=kms_events(manifest=manifest) if events is None else events,
        app_manifest=manifest,
        firmware=BOOTED,
    )
    document: dict[str, Any] = json.loads(json.dumps(evidence_document(evidence)))
    return document


def make_node(**changes: Any) -> dict[str, Any]:
    """The document of a node; ``changes`` are those of ``identity_evidence``."""
    return node_document(identity_json(ROOT.identity), evidence=identity_evidence(**changes), nonce=NONCE)


def node_anchors(*, app: ExpectedApp | None = None, dev: bool = False, **changes: Any) -> NodeAnchors:
    """What a user trusts about the node."""
    trusted: dict[str, Any] = {
        "roots": (AUTHORITY.certificate,),
        "intermediates": (),
        "reference": parse_reference(json.dumps(reference_document(BOOTED[0], dev=dev)).encode()),
        "app": app or ExpectedManifest(manifest=MANIFEST),
        "now": NOW,
        "development": dev,
        **changes,
    }
    return NodeAnchors(**trusted)
