"""The tree of one piece of evidence: hardware root → firmware → kernel → root → app.

The checks are those of ``attestation.tpm_evidence`` in groups, with the registers of each layer on their own,
and these about the app:

=====================  ===================================================================================
``release-image``      no development image, unless one is accepted
``manifest-form``      the app manifest is one
``manifest-app``       it is of the measured app id
``manifest-provider``  it names the measured source of keys
``expected-app``       the app is the expected one
=====================  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from attestation.evidence import Evidence
from attestation.tpm_evidence import Expectations, LogPart, TpmFacts, verify_tpm_evidence
from attestation.verdict import Check, CheckFailedError, CheckList, Verdict
from attestation.verdict_tree import Group, group_of
from measurements.app_manifest import AppManifest, ProviderMode, app_hash, parse_manifest
from measurements.boot_sequence import Prediction
from measurements.booted import Booted, tpm_log
from measurements.eventlog import parse_event_log
from measurements.events import Bank
from measurements.explain import explain
from measurements.platforms import Platform
from measurements.reference import Reference, reference_values, tpm_prediction
from measurements.runtime_events import KeyProvider, KmsProvider, TpmSealProvider

HARDWARE_CHECKS = (
    "size",
    "ek-chain",
    "ak-key",
    "ak-attributes",
    "quote-signature",
    "quote-type",
    "quote-signer",
    "report-data",
    "pcr-selection",
    "pcr-digest",
)
FIRMWARE_CHECKS = (
    "event-log",
    "event-log-registers",
    "event-log-replay",
    "reference-form",
    "reference",
    "firmware-registers",
)
KERNEL_CHECKS = ("kernel-registers",)
ROOT_CHECKS = ("root-registers", "registers")
APP_CHECKS = (
    "runtime-events",
    "runtime-replay",
    "runtime-log",
    "image-kind",
    "app-manifest",
    "release-image",
    "manifest-form",
    "manifest-app",
    "manifest-provider",
    "expected-app",
)
LAYERS = {
    "firmware-registers": (0, 1, 2, 3, 6, 7, 8),
    "kernel-registers": (4, 5, 11),
    "root-registers": (9, 10, 12, 13),
}
"""Registers of each layer. The verity root lies in the initrd (PCR 9); PCR 14 belongs to the app."""

_AGAIN = "build the app and its configuration disk again, and boot that"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedManifest:
    """The app is the one with exactly this manifest (bytes)."""

    manifest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedAppId:
    """The app is the one with this id (20 bytes), in whatever version its contract allows."""

    app_id: bytes


ExpectedApp = ExpectedManifest | ExpectedAppId


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceAnchors:
    """What the verifier holds against the evidence: DER certificates, ``report_data`` of 64 bytes, ``now`` in
    seconds since 1970.
    """

    roots: Sequence[bytes]
    intermediates: Sequence[bytes]
    report_data: bytes
    now: int
    part: LogPart
    app: ExpectedApp
    development: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AppFacts:
    """What verified evidence says, with its manifest read."""

    tpm: TpmFacts
    manifest: AppManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceTree:
    """The groups, and the facts only if all of them passed."""

    groups: tuple[Group, ...]
    facts: AppFacts | None


def verify_evidence_tree(evidence: Evidence, reference: Reference, anchors: EvidenceAnchors) -> EvidenceTree:
    """Make all checks. Raises only ``ReportDataError`` for ``report_data`` of another size."""
    verification = verify_tpm_evidence(
        evidence,
        Expectations(
            report_data=anchors.report_data,
            roots=anchors.roots,
            intermediates=anchors.intermediates,
            reference=reference_values(reference),
            now=anchors.now,
            part=anchors.part,
        ),
    )
    checks, manifest = CheckList(), None
    if verification.facts is not None:
        with suppress(CheckFailedError):
            manifest = _check_app(checks, verification.facts, anchors)
    layers = _layers(evidence, reference, verification.verdict)
    verdict = Verdict(checks=(*verification.verdict.checks, *layers, *checks.verdict().checks))
    groups = evidence_groups(verdict)
    if verification.facts is None or manifest is None or not all(group.passed for group in groups):
        return EvidenceTree(groups=groups, facts=None)
    return EvidenceTree(groups=groups, facts=AppFacts(tpm=verification.facts, manifest=manifest))


def evidence_groups(verdict: Verdict) -> tuple[Group, ...]:
    """The groups of a verdict; of an empty one those of evidence that could not be checked."""
    return (
        group_of("hardware-root", "hardware root", HARDWARE_CHECKS, verdict),
        group_of("firmware", "firmware", FIRMWARE_CHECKS, verdict),
        group_of("kernel", "kernel", KERNEL_CHECKS, verdict),
        group_of("root", "root file system", ROOT_CHECKS, verdict),
        group_of("app", "app", APP_CHECKS, verdict),
    )


def _layers(evidence: Evidence, reference: Reference, verdict: Verdict) -> list[Check]:
    """The layers' registers, once all registers were compared: then quote, log and reference hold."""
    if all(check.name != "registers" for check in verdict.checks):
        return []
    wrong = {
        name: [
            f"{bank.value} PCR {pcr}"
            for pcr in pcrs
            for bank in Bank
            if evidence.pcrs[bank.value][pcr] != reference.registers[bank][pcr]
        ]
        for name, pcrs in LAYERS.items()
    }
    cause = _cause(evidence, reference) if any(wrong.values()) else ""
    return [_layer(name, LAYERS[name], found, cause) for name, found in wrong.items()]


def _layer(name: str, pcrs: Sequence[int], wrong: Sequence[str], cause: str) -> Check:
    expected = f"PCR {', '.join(map(str, pcrs))} as predicted"
    if not wrong:
        return Check(name=name, passed=True, expected=expected, found=expected)
    return Check(
        name=name,
        passed=False,
        expected=expected,
        found=f"another value in {', '.join(wrong)}",
        reason=f"the machine booted something else than was predicted{cause}",
        advice="let keyturn explain name every input that differs, then build or predict again",
    )


def _cause(evidence: Evidence, reference: Reference) -> str:
    """The first difference of the boot. The log has been replayed, so what it says is what was measured."""
    predicted = Prediction(events=reference.events, registers=reference.registers)
    explanation = explain(
        tpm_prediction(predicted, shape=reference.shape),
        Booted(platform=Platform.TPM, log=tpm_log(parse_event_log(evidence.event_log))),
    )
    if not explanation.findings:
        return ""
    found = explanation.findings[0].cause
    return f"; first: {found.input.value}, {found.detail}"


def _check_app(checks: CheckList, facts: TpmFacts, anchors: EvidenceAnchors) -> AppManifest:
    release = facts.release
    checks.require(
        "release-image",
        anchors.development or not release.dev,
        expected="an image of any kind" if anchors.development else "a release image",
        found="a development image" if release.dev else "a release image",
        reason="a development image lets its operator in",
        advice="boot an image that was built without dev = true, or accept development images",
    )
    with checks.step("manifest-form", expected="an app manifest"):
        manifest = parse_manifest(facts.app_manifest)
    checks.equal(
        "manifest-app",
        expected=release.app_id,
        found=manifest.app_id,
        reason="the app manifest is of another app than was measured",
        advice=_AGAIN,
    )
    measured, named = describe_provider(release.key_provider), describe_provider(_provider(manifest))
    checks.require(
        "manifest-provider",
        measured == named,
        expected=measured,
        found=named,
        reason="the app manifest names another source of keys than was measured",
        advice=_AGAIN,
    )
    expected, found = _expected_app(anchors.app, facts)
    checks.equal(
        "expected-app",
        expected=expected,
        found=found,
        reason="this is another app, or another version of it, than was asked for",
        advice="compare with the manifest or the app id that you trust",
    )
    return manifest


def _expected_app(app: ExpectedApp, facts: TpmFacts) -> tuple[bytes, bytes]:
    if isinstance(app, ExpectedManifest):
        return app_hash(app.manifest), facts.release.app_hash
    return app.app_id, facts.release.app_id


def _provider(manifest: AppManifest) -> KeyProvider:
    pinned = manifest.key_provider
    if pinned.mode is ProviderMode.KMS:
        assert pinned.kms_root is not None  # the manifest's reader sees to it
        return KmsProvider(kms_root=pinned.kms_root, chain_id=pinned.chain_id, contract=pinned.contract)
    return TpmSealProvider(chain_id=pinned.chain_id, contract=pinned.contract)


def describe_provider(provider: KeyProvider) -> str:
    """A source of keys, in one line."""
    place = f"contract 0x{provider.contract.hex()} on chain {provider.chain_id}"
    if isinstance(provider, KmsProvider):
        return f"KMS {provider.kms_root.hex()}, {place}"
    return f"sealed to the TPM, {place}"
