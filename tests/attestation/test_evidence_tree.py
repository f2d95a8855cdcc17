"""The evidence tree: every check of a verification has its place, and a missing one has failed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from attestation.evidence import Evidence
from attestation.evidence_tree import (
    LAYERS,
    EvidenceAnchors,
    EvidenceTree,
    ExpectedAppId,
    ExpectedManifest,
    evidence_groups,
    verify_evidence_tree,
)
from attestation.tpm_evidence import Expectations, LogPart, verify_tpm_evidence
from attestation.verdict import Verdict
from attestation.verdict_tree import NOT_CHECKED, Tree
from measurements.app_manifest import app_hash
from measurements.reference import Reference, parse_reference, reference_values
from measurements.runtime_events import (
    DEV_IMAGE,
    KeyProvider,
    KmsProvider,
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
from tests.support.app_documents import manifest_bytes
from tests.support.paper_tpm import NOW, Authority, PaperTpm, firmware_log
from tests.support.reference_documents import reference_document

REPORT_DATA = bytes(range(64))
MANIFEST = manifest_bytes()
APP_ID = b"\x11" * 20
PROVIDER = KmsProvider(kms_root=b"\x33" * 32, chain_id=31337, contract=b"\x22" * 20)
ROOT = Authority("root")
TPM = PaperTpm(ROOT)
FIRMWARE = firmware_log()


def reference_of(log: bytes = FIRMWARE[0], *, dev: bool = False) -> Reference:
    return parse_reference(json.dumps(reference_document(log, dev=dev)).encode())


REFERENCE = reference_of()
ANCHORS = EvidenceAnchors(
    roots=[ROOT.certificate],
    intermediates=[],
    report_data=REPORT_DATA,
    now=NOW,
    part=LogPart.FULL,
    app=ExpectedManifest(manifest=MANIFEST),
    development=False,
)


def events_of(
    manifest: bytes = MANIFEST,
    *,
    app_id: bytes = APP_ID,
    provider: KeyProvider = PROVIDER,
    dev: bool = False,
) -> list[RuntimeEvent]:
    return [
        *([DEV_IMAGE] if dev else []),
        boot_event(),
        app_id_event(app_id),
        app_hash_event(app_hash(manifest)),
        config_hash_event(b"\x03" * 32),
        instance_id_event(b"\x04" * 16),
        key_provider_event(provider),
        storage_event(Storage.OPENED),
        boot_complete_event(),
    ]


def evidence_of(manifest: bytes = MANIFEST, **changes: Any) -> Evidence:
    reference = reference_values(reference_of(dev=changes.get("dev", False)))
    return TPM.evidence(
        report_data=REPORT_DATA,
        runtime_events=events_of(manifest, **changes),
        app_manifest=manifest,
        firmware=FIRMWARE,
        reference=reference,
    )


def failures(tree: EvidenceTree) -> list[str]:
    found = [check.name for check in Tree(groups=tree.groups).failures]
    assert (tree.facts is None) is bool(found)
    return found


def test_a_good_boot_passes_with_every_check_in_its_place() -> None:
    tree = verify_evidence_tree(evidence_of(), REFERENCE, ANCHORS)
    assert failures(tree) == []
    assert [group.name for group in tree.groups] == ["hardware-root", "firmware", "kernel", "root", "app"]
    assert tree.facts is not None
    assert tree.facts.manifest.app_id == APP_ID


def test_no_check_of_the_evidence_is_left_out_of_the_tree() -> None:
    made = verify_tpm_evidence(
        evidence_of(),
        Expectations(
            report_data=REPORT_DATA,
            roots=[ROOT.certificate],
            reference=reference_values(REFERENCE),
            now=NOW,
            part=LogPart.FULL,
        ),
    ).verdict
    shown = {check.name for group in evidence_groups(made) for check in group.checks}
    assert {check.name for check in made.checks} <= shown


def test_every_register_has_a_layer() -> None:
    assert sorted(pcr for pcrs in LAYERS.values() for pcr in pcrs) == list(range(14))


def test_evidence_that_was_not_checked_has_failed() -> None:
    groups = evidence_groups(Verdict(checks=()))
    assert all(check.found == NOT_CHECKED and not check.passed for g in groups for check in g.checks)
    assert not Tree(groups=groups).passed


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"roots": []}, "ek-chain"),
        ({"roots": [Authority("other").certificate]}, "ek-chain"),
        ({"report_data": bytes(64)}, "report-data"),
        ({"part": LogPart.RELEASE}, "runtime-log"),
        ({"app": ExpectedManifest(manifest=manifest_bytes(version="2"))}, "expected-app"),
        ({"app": ExpectedAppId(app_id=b"\x77" * 20)}, "expected-app"),
        ({"now": 4_000_000_000}, "ek-chain"),
    ],
)
def test_a_wrong_anchor_fails(change: dict[str, Any], check: str) -> None:
    anchors = dataclasses.replace(ANCHORS, **change)
    assert failures(verify_evidence_tree(evidence_of(), REFERENCE, anchors)) == [check]


def test_an_app_id_alone_may_be_expected() -> None:
    anchors = dataclasses.replace(ANCHORS, app=ExpectedAppId(app_id=APP_ID))
    assert failures(verify_evidence_tree(evidence_of(), REFERENCE, anchors)) == []


@pytest.mark.parametrize(
    ("manifest", "change", "check"),
    [
        (b'{"name":"no manifest"}', {}, "manifest-form"),
        (MANIFEST, {"app_id": b"\x12" * 20}, "manifest-app"),
        (MANIFEST, {"provider": PROVIDER._replace(kms_root=b"\x34" * 32)}, "manifest-provider"),
        (MANIFEST, {"provider": TpmSealProvider(chain_id=31337, contract=b"\x22" * 20)}, "manifest-provider"),
        (MANIFEST, {"dev": True}, "release-image"),
    ],
)
def test_a_boot_that_contradicts_its_manifest_fails(
    manifest: bytes, change: dict[str, Any], check: str
) -> None:
    reference = reference_of(dev=change.get("dev", False))
    tree = verify_evidence_tree(evidence_of(manifest, **change), reference, ANCHORS)
    assert failures(tree) == [check]


def test_a_development_image_may_be_accepted() -> None:
    anchors = dataclasses.replace(ANCHORS, development=True)
    assert failures(verify_evidence_tree(evidence_of(dev=True), reference_of(dev=True), anchors)) == []


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_another_register_fails_in_its_layer(layer: str) -> None:
    """The guest declares the expected reference values, but booted something else in one layer."""
    document = reference_document(FIRMWARE[0], other_pcr=LAYERS[layer][0])
    reference = parse_reference(json.dumps(document).encode())
    evidence = evidence_of()._replace(reference=reference_values(reference))
    tree = verify_evidence_tree(evidence, reference, ANCHORS)
    assert set(failures(tree)) == {layer, "registers"}
    reasons = {check.name: check.reason for group in tree.groups for check in group.checks}
    assert "first: " in reasons[layer]
