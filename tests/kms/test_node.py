"""KMS nodes: the identity of a KMS verifies, and every lie about it is refused."""

from __future__ import annotations

import base64
import copy
import hashlib
from typing import Any

import pytest

from attestation.evidence_tree import ExpectedManifest
from attestation.verdict_tree import Tree
from kms.node import TYPE, parse_node, verify_node
from kms.root_key import ChainPin, kms_id
from kms.strict_json import canonical_json
from measurements.app_manifest import app_hash
from measurements.errors import FormatError
from measurements.runtime_events import KmsProvider, TpmSealProvider
from tests.kms.guests import AUTHORITY
from tests.kms.nodes import MANIFEST, NONCE, kms_events, kms_manifest, make_node, node_anchors
from tests.kms.receipts import PIN, ROOT
from tests.support.paper_tpm import Authority, PaperTpm


def failures(node: Any, **anchors: Any) -> list[str]:
    tree = Tree(groups=verify_node(node, node_anchors(**anchors)))
    assert tree.passed == (not tree.failures)
    return [check.name for check in tree.failures]


def test_a_node_verifies() -> None:
    node = make_node()
    assert failures(node) == []
    read = parse_node(node)
    assert read.kms_id == ROOT.identity.kms_id
    assert read.pin == ChainPin(chain_id=PIN.chain_id, contract=PIN.contract)
    assert read.app_hash == app_hash(MANIFEST)


def test_attack_evidence_of_another_nonce() -> None:
    assert failures(make_node(nonce=b"\x4f" * 32)) == ["report-data"]


def test_attack_evidence_for_another_kms_id() -> None:
    node = make_node()
    other = b"\x99" * 32
    node["ed25519"] = other.hex()
    assert failures(node) == ["node-form"]
    node["kms_id"] = kms_id(other, bytes.fromhex(node["secp256k1"])).hex()
    assert failures(node) == ["report-data"]


def test_attack_another_app_with_the_same_keys() -> None:
    other = kms_manifest(version="9")
    node = make_node(manifest=other)
    assert failures(node) == ["expected-app"]


def test_attack_kms_that_has_no_keys_yet() -> None:
    assert failures(make_node(events=kms_events()[:-2])) == ["runtime-log"]


def test_attack_kms_whose_root_another_kms_gave() -> None:
    provider = KmsProvider(kms_root=b"\x33" * 32, chain_id=PIN.chain_id, contract=PIN.contract)
    shown = {
        "mode": "kms",
        "chain_id": PIN.chain_id,
        "contract": f"0x{PIN.contract.hex()}",
        "kms_root": "33" * 32,
    }
    manifest = kms_manifest(key_provider=shown)
    node = make_node(manifest=manifest, events=kms_events(manifest=manifest, provider=provider))
    assert failures(node, app=ExpectedManifest(manifest=manifest)) == ["node-provider"]


def test_attack_kms_of_another_registry() -> None:
    other = b"\x77" * 20
    manifest = kms_manifest(app_id=f"0x{other.hex()}")
    node = make_node(manifest=manifest, events=kms_events(manifest=manifest, app_id=other))
    assert failures(node, app=ExpectedManifest(manifest=manifest)) == ["node-registry"]


def test_attack_kms_sealed_for_another_chain() -> None:
    provider = TpmSealProvider(chain_id=1, contract=PIN.contract)
    shown = {"mode": "tpm-seal", "chain_id": 1, "contract": f"0x{PIN.contract.hex()}"}
    manifest = kms_manifest(key_provider=shown)
    node = make_node(manifest=manifest, events=kms_events(manifest=manifest, provider=provider))
    assert failures(node, app=ExpectedManifest(manifest=manifest)) == ["node-provider"]


def test_attack_tpm_of_another_authority() -> None:
    assert failures(make_node(tpm=PaperTpm(Authority("other")))) == ["ek-chain"]
    assert failures(make_node(), roots=(Authority("other").certificate,)) == ["ek-chain"]
    assert AUTHORITY.certificate in node_anchors().roots


def test_a_development_image_only_where_it_is_accepted() -> None:
    node = make_node(events=kms_events(dev=True))
    assert failures(node, dev=True) == []
    assert failures(node, dev=True, development=False) == ["release-image"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "keyturn-kms-node/2"),
        ("kms_id", "99" * 32),
        ("ed25519", "99" * 32),
        ("secp256k1", "02" + "99" * 32),
        ("secp256k1", "05" + "99" * 32),
        ("address", "0x" + "99" * 20),
        ("chain_id", 0),
        ("contract", "0x99"),
        ("app_hash", "99" * 32),
        ("evidence_hash", "99" * 32),
        ("evidence", {}),
        ("evidence", None),
        ("nonce", "00" * 32),
        ("nonce", "99"),
        ("surplus", 1),
    ],
)
def test_a_file_that_contradicts_itself_is_none(key: str, value: Any) -> None:
    node = {**make_node(), key: value}
    with pytest.raises(FormatError):
        parse_node(node)
    assert failures(node) == ["node-form"]


@pytest.mark.parametrize("key", sorted(make_node()))
def test_a_file_without_a_part_is_none(key: str) -> None:
    node = make_node()
    del node[key]
    with pytest.raises(FormatError):
        parse_node(node)


@pytest.mark.parametrize("part", ["quote", "signature", "ak_public", "ek_certificate", "event_log"])
def test_a_flipped_byte_in_the_evidence_is_refused(part: str) -> None:
    node = make_node()
    evidence = copy.deepcopy(node["evidence"])
    data = bytearray(base64.b64decode(evidence[part]))
    data[len(data) // 2] ^= 1
    evidence[part] = base64.b64encode(data).decode()
    assert failures({**node, "evidence": evidence}) == ["node-form"]
    repaired = {**node, "evidence": evidence}
    repaired["evidence_hash"] = hashlib.sha256(canonical_json(evidence)).hexdigest()
    assert failures(repaired) != []


@pytest.mark.parametrize("document", [None, [], "node", {"type": TYPE}, NONCE.hex()])
def test_what_is_no_node(document: Any) -> None:
    assert failures(document) == ["node-form"]
