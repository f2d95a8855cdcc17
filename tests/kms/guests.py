"""A KMS over a fake chain, and guests with a TPM on paper that ask it through the agent's own code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.evidence import Evidence, evidence_document
from attestation.report_data import KeyRequest
from guest_agent import key_client
from guest_agent.backend import Identity, Platform
from guest_agent.kms_receipt import Pin, Signer
from kms.chain_view import PolicyQuery
from kms.journal import Journal
from kms.messages import parse_challenge_request, parse_keys_request
from kms.release import Issued, Kms, TrustAnchors
from kms.root_key import RootKey
from measurements.app_manifest import app_hash
from measurements.reference_digest import ReferenceValues, reference_digest
from measurements.runtime_events import DEV_IMAGE, RuntimeEvent
from tests.kms.fake_chain import NOW, PINS, FakeChain
from tests.kms.receipts import APP_ID, INSTANCE_ID, ROOT
from tests.support.app_documents import manifest_bytes
from tests.support.paper_tpm import Authority, PaperTpm, firmware_log, reference_of

AUTHORITY = Authority("paper root")
TPM = PaperTpm(AUTHORITY)
BOOTED = firmware_log()
STORAGE = KeyRequest("keyturn/storage", "raw-256", "instance")
ENVELOPE = KeyRequest("keyturn/envelope", "x25519", "app")
SIGNING = KeyRequest("web/signing", "ed25519", "app")
CLIENT_NONCE = b"\x0c" * 32


def app_manifest(root: RootKey = ROOT, app_id: bytes = APP_ID, **changes: Any) -> bytes:
    """A manifest pinned to the KMS of ``root``."""
    provider = {
        "mode": "kms",
        "chain_id": root.pin.chain_id,
        "contract": f"0x{root.pin.contract.hex()}",
        "kms_root": root.identity.kms_id.hex(),
    }
    return manifest_bytes(**{"app_id": f"0x{app_id.hex()}", "key_provider": provider, **changes})


def query_of(
    manifest: bytes, *, root: RootKey, reference: ReferenceValues, app_id: bytes = APP_ID
) -> PolicyQuery:
    """What the KMS asks the chain about a guest with ``TPM`` and ``manifest``."""
    return PolicyQuery(
        kms_id=root.identity.kms_id,
        reference_digest=reference_digest(reference),
        platform_root=hashlib.sha256(AUTHORITY.certificate).digest(),
        platform_id=hashlib.sha256(
            TPM.ek.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).digest(),
        app_id=app_id,
        app_hash=app_hash(manifest),
    )


def signer_of(root: RootKey) -> Signer:
    """Who signs for the KMS of ``root``."""
    return Signer(root.identity.ed25519, root.development)


class KmsWorld(Protocol):
    """What a guest needs to know of the world."""

    root: RootKey
    manifest: bytes
    app_id: bytes
    kms: Kms


class World:
    """A KMS, its chain and its clock; everything may be changed between calls."""

    def __init__(
        self, folder: Path, *, root: RootKey = ROOT, manifest: bytes | None = None, dev: bool = False
    ) -> None:
        self.root, self.path, self.now = root, folder / "journal.sqlite", NOW
        self.manifest = manifest or app_manifest(root)
        self.app_id = APP_ID
        reference = reference_of(BOOTED[1], dev=dev)
        query = query_of(self.manifest, root=root, reference=reference)
        self.chain = FakeChain(query, signer=root.identity.address)
        self.kms = self._open()

    def _open(self) -> Kms:
        return Kms(
            root=self.root,
            pins=PINS,
            node=self.chain,
            journal=Journal(self.path, self.root),
            anchors=TrustAnchors(roots=(AUTHORITY.certificate,)),
            clock=lambda: self.now,
        )

    def restart(self) -> None:
        """Stop the KMS and start it again on the same disk."""
        self.kms.journal.close()
        self.kms = self._open()

    def guest(self, **changes: Any) -> Guest:
        """A guest of this world's app."""
        return Guest(self, **changes)


class Guest:
    """One boot of a guest."""

    def __init__(
        self,
        world: KmsWorld,
        *,
        manifest: bytes | None = None,
        keys: Sequence[KeyRequest] = (SIGNING, STORAGE),
        instance_id: bytes = INSTANCE_ID,
        dev: bool = False,
        tpm: PaperTpm = TPM,
        booted: tuple[bytes, dict[str, dict[int, bytes]]] = BOOTED,
        pinned: bytes | None = None,
    ) -> None:
        self.world, self.tpm, self.dev, self.booted = world, tpm, dev, booted
        self.manifest = manifest or world.manifest
        kms_id = pinned or world.root.identity.kms_id
        self.hpke = key_client.new_hpke_key()
        self.request = key_client.Request(
            pin=Pin(kms_id, world.root.pin.chain_id, world.root.pin.contract, development=dev),
            platform=Platform.TPM,
            identity=Identity(ak_public=tpm.ak_public, ek_certificate=tpm.ek_certificate),
            app_id=world.app_id,
            instance_id=instance_id,
            app_manifest=self.manifest,
            keys=tuple(keys),
            hpke_public=self.hpke.public,
        )

    def challenge_document(self) -> dict[str, Any]:
        """What the KMS answers to this guest's request."""
        asked = key_client.challenge_request(self.request, CLIENT_NONCE)
        request = parse_challenge_request(json.dumps(asked).encode())
        return self.world.kms.challenge(request).as_json()

    def key_request(self, document: dict[str, Any] | None = None) -> dict[str, Any]:
        """The body of ``POST /v1/keys``."""
        body = json.dumps(document or self.challenge_document()).encode()
        self.challenge = key_client.check_challenge(body, self.request, CLIENT_NONCE)
        secret = self.tpm.activate(self.challenge.id_object, self.challenge.encrypted_secret)
        key_client.check_activation(self.challenge, secret)
        return key_client.key_request(
            self.request,
            self.challenge,
            CLIENT_NONCE,
            secret=secret,
            evidence=evidence_document(self.evidence()),
        )

    def evidence(self) -> Evidence:
        """Evidence of this boot for the current challenge."""
        return self.tpm.evidence(
            report_data=key_client.report_data(self.request, self.challenge, CLIENT_NONCE),
            runtime_events=self.events(),
            app_manifest=self.manifest,
            firmware=self.booted,
        )

    def events(self) -> list[RuntimeEvent]:
        """The runtime events before the quote."""
        pin = self.request.pin
        provider = b"\x01" + pin.kms_id + pin.chain_id.to_bytes(8, "big") + pin.contract
        return [
            *([DEV_IMAGE] if self.dev else []),
            RuntimeEvent("keyturn-boot", b"1"),
            RuntimeEvent("app-id", self.request.app_id),
            RuntimeEvent("app-hash", app_hash(self.manifest)),
            RuntimeEvent("config-hash", b"\xcf" * 32),
            RuntimeEvent("instance-id", self.request.instance_id),
            RuntimeEvent("key-provider", provider),
        ]

    def ask(self, document: dict[str, Any] | None = None) -> Issued:
        """Send a request for keys (by default a fresh one)."""
        body = json.dumps(document if document is not None else self.key_request()).encode()
        return self.world.kms.release(parse_keys_request(body))

    def open(self, body: bytes, document: dict[str, Any]) -> key_client.Released:
        """Open a 200 of ``/v1/keys`` as the agent does."""
        release = key_client.expected_release(
            self.request, self.challenge, CLIENT_NONCE, document["evidence"]
        )
        return key_client.open_response(body, release, signer_of(self.world.root), self.hpke)
