"""Verification of one key release from its bundle, as one tree:

parts → hardware root → firmware → kernel → root → app → KMS receipt → anchored batch → policy at block N.
Where the bundle has them, the service that answers now (``kms.service_tree``) comes before the release's
evidence, and the KMS (``kms.node_tree``) after the policy. With a policy for the app's TCB rule, what it says
of the evidence (``attestation.tpm_policy``) comes last.

A pure function of bundle, trust anchors and clock. The evidence is held against the report data that the KMS
signed, at the time of the receipt; the policy against the block that the receipt names. Names and order of
checks are those of ``attestation.evidence_tree`` and of ``RECEIPT_CHECKS`` and ``kms.policy_tree``.

What rests on the word of the KMS: that attestation key and EK sit in one TPM (the credential was opened),
that report data holds the KMS's fresh nonce, the time, and which block was final. That the anchor's block is
final is the word of the node that was asked for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from attestation.evidence import encode_evidence
from attestation.evidence_tree import (
    AppFacts,
    EvidenceAnchors,
    EvidenceTree,
    ExpectedAppId,
    describe_provider,
    evidence_groups,
    verify_evidence_tree,
)
from attestation.policy import Policy
from attestation.tpm_evidence import LogPart
from attestation.tpm_policy import RULE_CHECKS, check_tpm_policy
from attestation.verdict import CheckFailedError, CheckList, Verdict
from attestation.verdict_tree import Group, Tree, group_of
from kms.anchor_proof import ANCHOR_CHECKS, check_anchor
from kms.anchors import Anchor, anchor_signer
from kms.bundle import PART_CHECKS, Bundle, KmsKeys, Parts, read_parts
from kms.chain_view import ChainPins, ChainView
from kms.merkle import proof_holds
from kms.messages import listed_keys
from kms.node_tree import Registered, node_group
from kms.policy_tree import POLICY_CHECKS, check_policy_tree
from kms.receipt import Decision, Envelope, Receipt, verify_receipt
from kms.root_key import ChainPin, kms_id
from kms.service_tree import Released, service_groups
from measurements.runtime_events import KmsProvider

RECEIPT_CHECKS = (
    "kms-id",
    "receipt-signature",
    "receipt-decision",
    "receipt-development",
    "receipt-app",
    "receipt-complete",
    "receipt-time",
    "receipt-evidence",
    "receipt-app-hash",
    "receipt-instance",
    "receipt-reference",
    "receipt-platform-root",
    "receipt-platform-id",
    "receipt-keys",
    "kms-pin",
    "receipt-inclusion",
    "receipt-batch",
    "batch-signature",
)
ESTABLISHED = ("app_hash", "image_id", "reference_digest", "platform_root", "platform_id", "report_data")
"""What a release establishes about its guest."""

_OTHER = "take the parts of a bundle from one and the same key release"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierAnchors:
    """What the user trusts: DER certificates, chain and contracts, the KMS (32 bytes), the app (20 bytes).

    ``development`` accepts development images and a development KMS. ``nonce`` (32 bytes) is the one that a
    service must have answered; None accepts a proof that was kept, with its own. ``rule`` is the policy that
    the app has to name as its TCB rule; None accepts only an app without one.
    """

    roots: Sequence[bytes]
    intermediates: Sequence[bytes]
    pins: ChainPins
    kms_id: bytes
    app_id: bytes
    development: bool = False
    nonce: bytes | None = None
    rule: Policy | None = None


def verify_bundle(bundle: Bundle, anchors: VerifierAnchors, *, now: int) -> Tree:
    """The whole tree; bad parts are failed checks, never errors. ``now`` is in seconds since 1970."""
    parts = read_parts(bundle)
    core, agreement, batch, anchored, policy = (CheckList() for _ in range(5))
    receipt = _receipt(core, parts, anchors, now=now)
    evidence = _evidence(parts, receipt, anchors)
    with suppress(CheckFailedError):
        _check_agreement(agreement, receipt, parts, evidence.facts)
    with suppress(CheckFailedError):
        _check_batch(batch, receipt, parts)
        _check_anchoring(anchored, receipt, parts)
    view = None
    if receipt is not None and parts.chain is not None and parts.kms is not None:
        with suppress(CheckFailedError):
            view = check_policy_tree(
                policy, receipt, parts.chain, anchors.pins, signer=parts.kms.address, rule=anchors.rule
            )
    made = (*core.verdict().checks, *agreement.verdict().checks, *batch.verdict().checks)
    return Tree(
        groups=(
            group_of("parts", "parts of the bundle", PART_CHECKS, parts.verdict),
            *_service(bundle, parts, receipt, evidence.facts, anchors, now=now),
            *evidence.groups,
            group_of("receipt", "KMS receipt", RECEIPT_CHECKS, Verdict(checks=made)),
            group_of("anchor", "anchored on chain", ANCHOR_CHECKS, anchored.verdict()),
            _policy_group(receipt, policy.verdict()),
            *_node(bundle, receipt, view, anchors),
            *_rule(receipt, parts, evidence.facts, anchors),
        )
    )


def _service(
    bundle: Bundle,
    parts: Parts,
    receipt: Receipt | None,
    facts: AppFacts | None,
    anchors: VerifierAnchors,
    *,
    now: int,
) -> tuple[Group, ...]:
    """The groups of the service, where there is one or has to be."""
    if bundle.service is None and anchors.nonce is None:
        return ()
    released = None
    if not (receipt is None or facts is None or parts.evidence is None or parts.reference is None):
        released = Released(receipt=receipt, evidence=parts.evidence, facts=facts, reference=parts.reference)
    trusted = _evidence_anchors(anchors, report_data=b"", now=now, part=LogPart.FULL)
    return service_groups(bundle.service, released, trusted, nonce=anchors.nonce)


def _node(
    bundle: Bundle, receipt: Receipt | None, view: ChainView | None, anchors: VerifierAnchors
) -> tuple[Group, ...]:
    """The group of the KMS, where its identity is given."""
    if bundle.kms_node is None:
        return ()
    known = None if receipt is None or view is None else Registered(receipt=receipt, entry=view.kms_node)
    group = node_group(
        bundle.kms_node,
        bundle.kms_reference,
        known,
        roots=anchors.roots,
        intermediates=anchors.intermediates,
        development=anchors.development,
    )
    return (group,)


def _rule(
    receipt: Receipt | None, parts: Parts, facts: AppFacts | None, anchors: VerifierAnchors
) -> tuple[Group, ...]:
    """The group of the app's TCB rule, where its policy is given."""
    if anchors.rule is None:
        return ()
    verdict, report_data = Verdict(checks=()), None if receipt is None else receipt.subject.report_data
    if not (facts is None or parts.evidence is None or report_data is None):
        verdict = check_tpm_policy(anchors.rule, facts.tpm, pcrs=parts.evidence.pcrs, report_data=report_data)
    return (_renamed(group_of("tcb-rule", f"TCB rule {anchors.rule.name}", RULE_CHECKS, verdict)),)


def _renamed(group: Group) -> Group:
    """The group with names that no other check of the tree has."""
    checks = tuple(replace(check, name=f"{group.name}-{check.name}") for check in group.checks)
    return replace(group, checks=checks)


def _policy_group(receipt: Receipt | None, verdict: Verdict) -> Group:
    chain = None if receipt is None else receipt.outcome.chain
    block = "an unknown block" if chain is None else f"block {chain.block_number}"
    return group_of("policy", f"policy at {block}", POLICY_CHECKS, verdict)


def _evidence(parts: Parts, receipt: Receipt | None, anchors: VerifierAnchors) -> EvidenceTree:
    """The evidence against what the receipt says; without a verified receipt nothing can be checked."""
    report_data = None if receipt is None else receipt.subject.report_data
    if receipt is None or report_data is None or parts.evidence is None or parts.reference is None:
        return EvidenceTree(groups=evidence_groups(Verdict(checks=())), facts=None)
    return verify_evidence_tree(
        parts.evidence,
        parts.reference,
        _evidence_anchors(anchors, report_data=report_data, now=receipt.time, part=LogPart.RELEASE),
    )


def _evidence_anchors(
    anchors: VerifierAnchors, *, report_data: bytes, now: int, part: LogPart
) -> EvidenceAnchors:
    return EvidenceAnchors(
        roots=anchors.roots,
        intermediates=anchors.intermediates,
        report_data=report_data,
        now=now,
        part=part,
        app=ExpectedAppId(app_id=anchors.app_id),
        development=anchors.development,
    )


def _receipt(checks: CheckList, parts: Parts, anchors: VerifierAnchors, *, now: int) -> Receipt | None:
    """The receipt, once everything about it holds that needs no other part."""
    if parts.receipt is None or parts.kms is None:
        return None
    try:
        return _check_receipt(checks, parts.receipt, parts.kms, anchors, now=now)
    except CheckFailedError:
        return None


def _check_receipt(
    checks: CheckList, envelope: Envelope, keys: KmsKeys, anchors: VerifierAnchors, *, now: int
) -> Receipt:
    checks.equal(
        "kms-id",
        expected=anchors.kms_id,
        found=kms_id(keys.ed25519, keys.secp256k1),
        reason="these are the keys of another KMS than the trusted one",
        advice="compare the KMS id with what the app manifest pins",
    )
    with checks.step("receipt-signature", expected="a receipt that the KMS signed"):
        receipt = verify_receipt(envelope, kms_id=anchors.kms_id, ed25519=keys.ed25519)
    outcome, subject = receipt.outcome, receipt.subject
    checks.require(
        "receipt-decision",
        outcome.decision is Decision.ISSUE,
        expected=Decision.ISSUE.value,
        found=outcome.decision.value if outcome.reason is None else f"refuse: {outcome.reason.text}",
        reason="this receipt does not say that keys were released",
        advice="show the receipt that came with the keys",
    )
    checks.require(
        "receipt-development",
        anchors.development or not receipt.development,
        expected="a KMS of any kind" if anchors.development else "a release KMS",
        found="a development KMS" if receipt.development else "a release KMS",
        reason="a development KMS runs on a host that can read its keys",
        advice="use a KMS in a guest of its own, or accept development",
    )
    checks.equal(
        "receipt-app",
        expected=anchors.app_id,
        found=subject.app_id,
        reason="keys were released to another app",
        advice="show a receipt of the app that is meant",
    )
    absent = [name for name in ESTABLISHED if getattr(subject, name) is None]
    checks.require(
        "receipt-complete",
        not absent,
        expected=", ".join(ESTABLISHED),
        found=f"no {', '.join(absent)}" if absent else "all of them",
        reason="the receipt does not say what keys were released to",
        advice="do not trust this KMS: a release establishes all of them",
    )
    checks.require(
        "receipt-time",
        receipt.time <= now,
        expected=f"at most {now}",
        found=str(receipt.time),
        reason="the receipt is from the future",
        advice="set the clock of this machine",
    )
    return receipt


def _check_agreement(
    checks: CheckList, receipt: Receipt | None, parts: Parts, facts: AppFacts | None
) -> None:
    """That the receipt is about this evidence, and about what the evidence says."""
    if receipt is None or parts.evidence is None or facts is None:
        return
    subject, release, ek = receipt.subject, facts.tpm.release, facts.tpm.ek
    for name, signed, found in (
        ("receipt-evidence", subject.evidence_hash, hashlib.sha256(encode_evidence(parts.evidence)).digest()),
        ("receipt-app-hash", subject.app_hash, release.app_hash),
        ("receipt-instance", subject.instance_id, release.instance_id),
        ("receipt-reference", subject.reference_digest, facts.tpm.reference_digest),
        ("receipt-platform-root", subject.platform_root, ek.platform_root),
        ("receipt-platform-id", subject.platform_id, ek.platform_id),
    ):
        checks.equal(
            name,
            expected=signed or b"",
            found=found,
            reason="the receipt is about something else than the evidence shows",
            advice=_OTHER,
        )
    _check_keys(checks, receipt, facts)
    chain = receipt.outcome.chain
    assert chain is not None  # every release has it
    pinned = KmsProvider(kms_root=receipt.kms_id, chain_id=chain.chain_id, contract=chain.contract)
    checks.require(
        "kms-pin",
        release.key_provider == pinned,
        expected=describe_provider(pinned),
        found=describe_provider(release.key_provider),
        reason="the guest pins another KMS, chain or registry than the receipt's",
        advice=_OTHER,
    )


def _check_keys(checks: CheckList, receipt: Receipt, facts: AppFacts) -> None:
    """That only keys of the manifest were released."""
    listed = listed_keys(facts.manifest)
    released = {(key.path, key.kind.value, key.scope.value) for key in receipt.outcome.keys}
    checks.require(
        "receipt-keys",
        released <= listed,
        expected=f"keys among {_paths(listed)}",
        found=_paths(released),
        reason="keys were released that the app manifest does not list",
        advice="do not trust this KMS",
    )


def _paths(keys: Iterable[tuple[str, str, str]]) -> str:
    return ", ".join(f"{path} ({kind}, {scope})" for path, kind, scope in sorted(keys)) or "none"


def _check_batch(checks: CheckList, receipt: Receipt | None, parts: Parts) -> None:
    """That the receipt is in a batch that the KMS signed for the chain."""
    inclusion, batch, keys = parts.inclusion, parts.batch, parts.kms
    if receipt is None or parts.receipt is None or inclusion is None or batch is None or keys is None:
        return
    holds = inclusion.index == receipt.seq - inclusion.from_seq and proof_holds(
        leaf=parts.receipt.payload,
        index=inclusion.index,
        size=inclusion.to_seq - inclusion.from_seq + 1,
        path=inclusion.path,
        root=inclusion.root,
    )
    checks.require(
        "receipt-inclusion",
        holds,
        expected=f"receipt {receipt.seq} under root {inclusion.root.hex()}",
        found="in the tree" if holds else "not in the tree",
        reason="the proof does not show this receipt in this batch",
        advice="take the inclusion proof of this receipt from the KMS",
    )
    shown = Anchor(
        kms_id=receipt.kms_id,
        from_seq=inclusion.from_seq,
        to_seq=inclusion.to_seq,
        root=inclusion.root,
    )
    checks.require(
        "receipt-batch",
        batch.anchor == shown,
        expected=_batch(shown),
        found=_batch(batch.anchor),
        reason="the inclusion proof is of another batch",
        advice="take the batch that the receipt is in",
    )
    chain = receipt.outcome.chain
    assert chain is not None  # every release has it
    pin = ChainPin(chain_id=chain.chain_id, contract=chain.contract)
    checks.equal(
        "batch-signature",
        expected=keys.address,
        found=anchor_signer(batch, pin) or b"",
        reason="the batch is not signed by this KMS for this registry",
        advice="take the signed batch from the KMS",
    )


def _check_anchoring(checks: CheckList, receipt: Receipt | None, parts: Parts) -> None:
    """That the receipt's registry, which ``chain-pin`` compares with the trusted one, kept the batch."""
    if receipt is None or parts.batch is None or parts.anchoring is None:
        return
    position = receipt.outcome.chain
    assert position is not None  # every release has it
    check_anchor(checks, parts.anchoring, parts.batch.anchor, position)


def _batch(anchor: Anchor) -> str:
    return f"{anchor.root.hex()} of receipts {anchor.from_seq} to {anchor.to_seq} by {anchor.kms_id.hex()}"
