"""The identity of a KMS node: evidence that a KMS's keys live in the measured KMS app, as one JSON file.

Layout (docs/formats.md, "KMS node"), the answers of ``/v1/public-key`` and ``/v1/identity`` put together::

    {"type": "keyturn-kms-node/1",
     "kms_id": hex (32), "ed25519": hex (32), "secp256k1": hex (33, compressed), "address": "0x…" (20),
     "chain_id": int, "contract": "0x…" (20), "app_hash": hex (32), "evidence_hash": hex (32),
     "evidence": {...}, "nonce": hex (32)}

``evidence_hash`` is ``H(JCS(evidence))`` and ``app_hash`` that of the manifest in it: what the registry keeps
of a node. Reading checks form and that the file does not contradict itself; ``verify_node`` checks the rest.
The quote is of the moment when the file was made: its data is
``SHA-512("keyturn-kms-identity/1" ‖ nonce ‖ KMS id)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from eth_keys.datatypes import PublicKey
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from attestation.evidence import Evidence, parse_evidence
from attestation.evidence_tree import (
    AppFacts,
    EvidenceAnchors,
    ExpectedApp,
    describe_provider,
    evidence_groups,
    verify_evidence_tree,
)
from attestation.report_data import PURPOSE_APP, kms_identity_data, quote_report_data
from attestation.tpm_evidence import LogPart
from attestation.verdict import CheckFailedError, CheckList, Verdict
from attestation.verdict_tree import Group, group_of
from kms.root_key import ChainPin, kms_id
from kms.strict_json import Fields, canonical_json, fail
from measurements.app_manifest import app_hash
from measurements.reference import Reference
from measurements.runtime_events import TpmSealProvider

TYPE = "keyturn-kms-node/1"
NODE_CHECKS = ("node-form", "node-provider", "node-registry")

_OTHER_APP = "run the KMS app that was written for this registry"


@dataclass(frozen=True, kw_only=True, slots=True)
class KmsNode:
    """A node as its file says; hashes and ids of 32 bytes, ``address`` of 20, ``secp256k1`` compressed."""

    kms_id: bytes
    ed25519: bytes
    secp256k1: bytes
    address: bytes
    pin: ChainPin
    app_hash: bytes
    evidence_hash: bytes
    evidence: Evidence
    nonce: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeAnchors:
    """What the user trusts about a node: DER certificates, the registers of its machine, its app.

    ``now`` is in seconds since 1970; ``development`` accepts a development image.
    """

    roots: Sequence[bytes]
    intermediates: Sequence[bytes]
    reference: Reference
    app: ExpectedApp
    now: int
    development: bool


def node_document(keys: dict[str, Any], *, evidence: Any, nonce: bytes) -> dict[str, Any]:
    """The document; ``keys`` is the answer to ``/v1/public-key``, ``evidence`` that to ``/v1/identity``.

    Raises ``FormatError`` for evidence that is not well formed; nothing is verified.
    """
    manifest = parse_evidence(evidence).app_manifest
    names = ("kms_id", "ed25519", "secp256k1", "address", "chain_id", "contract")
    return {
        "type": TYPE,
        **{name: keys[name] for name in names},
        "app_hash": app_hash(manifest).hex(),
        "evidence_hash": hashlib.sha256(canonical_json(evidence)).hexdigest(),
        "evidence": evidence,
        "nonce": nonce.hex(),
    }


def parse_node(document: object) -> KmsNode:
    """Read the document; raises ``FormatError`` where it has another form or contradicts itself."""
    fields = Fields(document, subject="KMS node")
    fields.exactly("type", TYPE)
    shown = fields.raw("evidence")
    node = KmsNode(
        kms_id=fields.hexadecimal("kms_id", size=32),
        ed25519=fields.hexadecimal("ed25519", size=32),
        secp256k1=fields.hexadecimal("secp256k1", size=33),
        address=fields.address("address"),
        pin=ChainPin(chain_id=fields.integer("chain_id", least=1), contract=fields.address("contract")),
        app_hash=fields.hexadecimal("app_hash", size=32),
        evidence_hash=fields.hexadecimal("evidence_hash", size=32),
        evidence=parse_evidence(shown),
        nonce=fields.hexadecimal("nonce", size=32),
    )
    fields.done()
    contradictions = {
        "'kms_id' is not that of its keys": kms_id(node.ed25519, node.secp256k1) != node.kms_id,
        "'address' is not that of 'secp256k1'": _address(node.secp256k1) != node.address,
        "'app_hash' is not that of the evidence": app_hash(node.evidence.app_manifest) != node.app_hash,
        "'evidence_hash' is not that of the evidence": (
            hashlib.sha256(canonical_json(shown)).digest() != node.evidence_hash
        ),
        "'nonce' is zero": not any(node.nonce),
    }
    for reason, wrong in contradictions.items():
        if wrong:
            fail("KMS node", reason)
    return node


def verify_node(document: object, anchors: NodeAnchors) -> tuple[Group, ...]:
    """The groups of the evidence, and the group ``node``; bad documents are failed checks, never errors."""
    checks = CheckList()
    try:
        with checks.step("node-form", expected="the identity of a KMS that does not contradict itself"):
            node = parse_node(document)
    except CheckFailedError:
        return (*evidence_groups(Verdict(checks=())), _group(checks))
    tree = verify_evidence_tree(
        node.evidence,
        anchors.reference,
        EvidenceAnchors(
            roots=anchors.roots,
            intermediates=anchors.intermediates,
            report_data=identity_report_data(nonce=node.nonce, identifier=node.kms_id),
            now=anchors.now,
            part=LogPart.FULL,
            app=anchors.app,
            development=anchors.development,
        ),
    )
    if tree.facts is not None:
        with suppress(CheckFailedError):
            _check_app(checks, node, tree.facts)
    return (*tree.groups, _group(checks))


def identity_report_data(*, nonce: bytes, identifier: bytes) -> bytes:
    """The 64 bytes that the quote in a KMS's identity binds, for a nonce and a KMS id of 32 bytes each."""
    data = hashlib.sha512(kms_identity_data(nonce, identifier)).digest()
    return quote_report_data(PURPOSE_APP, data)


def _check_app(checks: CheckList, node: KmsNode, facts: AppFacts) -> None:
    release = facts.tpm.release
    expected = TpmSealProvider(chain_id=node.pin.chain_id, contract=node.pin.contract)
    checks.require(
        "node-provider",
        release.key_provider == expected,
        expected=describe_provider(expected),
        found=describe_provider(release.key_provider),
        reason="the root key of the KMS is not sealed to its own TPM, for its own chain",
        advice=_OTHER_APP,
    )
    checks.equal(
        "node-registry",
        expected=node.pin.contract,
        found=release.app_id,
        reason="the guest is not the KMS of this registry, whose address is its app id",
        advice=_OTHER_APP,
    )


def _group(checks: CheckList) -> Group:
    return group_of("node", "KMS", NODE_CHECKS, checks.verdict())


def _address(point: bytes) -> bytes:
    try:
        return PublicKey.from_compressed_bytes(point).to_canonical_address()
    except (ValidationError, BadSignature, ValueError) as error:
        fail("KMS node", "'secp256k1' is no compressed point", cause=error)
