"""The policy at the block that a receipt names, as named checks: every word proven, every entry judged.

It is the policy that ``kms.decision.check_policy`` holds against a request, seen afterwards and by anybody:
entries must hold at the block's time and at the time of the receipt.
"""

from __future__ import annotations

from attestation.policy import Policy
from attestation.policy_document import policy_digest
from attestation.verdict import CheckList
from contracts import layout
from contracts.layout import NEVER, Entry
from kms.bundle import ChainPart
from kms.chain_proof import prove_account
from kms.chain_view import (
    ChainPins,
    ChainView,
    PolicyQuery,
    app_slots,
    build_view,
    check_head,
    registry_slots,
)
from kms.decision import EntryName, entry_fault
from kms.receipt import ChainPosition, Receipt

POLICY_CHECKS = (
    "chain-pin",
    "block",
    "block-age",
    "state-proof",
    "registry-code",
    "app-code",
    "policy-words",
    "policy-slots",
    "policy-version",
    "policy-image-id",
    "registry-open",
    "policy-kms-node",
    "kms-signer",
    "policy-platform-root",
    "policy-reference",
    "policy-image",
    "policy-app",
    "app-open",
    "app-expiry",
    "policy-app-image",
    "policy-app-hash",
    "policy-device",
    "policy-tcb-rule",
    "policy-epoch",
)

_SAME = "take header and proofs at the block that the receipt names"
_ALLOW = "keyturn chain history shows what was allowed when; keys were released against it"


def receipt_query(receipt: Receipt) -> PolicyQuery:
    """What to look up for a release. A fact that it does not establish gives an empty value, which no slot
    is computed for: ``ZeroKeyError``.
    """
    subject = receipt.subject
    return PolicyQuery(
        kms_id=receipt.kms_id,
        reference_digest=subject.reference_digest or b"",
        platform_root=subject.platform_root or b"",
        platform_id=subject.platform_id or b"",
        app_id=subject.app_id,
        app_hash=subject.app_hash or b"",
    )


def check_policy_tree(
    checks: CheckList,
    receipt: Receipt,
    chain: ChainPart,
    pins: ChainPins,
    *,
    signer: bytes,
    rule: Policy | None = None,
) -> ChainView:
    """Make ``POLICY_CHECKS`` and return what was proven; ``signer`` is the address (20 bytes) of the KMS's
    second key, ``rule`` the policy that the app has to name as its TCB rule; without it, it may name none.
    Raises ``CheckFailedError`` at the first that fails.
    """
    position = receipt.outcome.chain
    assert position is not None  # every release has it
    _check_block(checks, receipt, position, chain, pins)
    view = _proven_view(checks, receipt, chain, pins)
    _check_position(checks, receipt, position, view)
    times = (view.head.time, max(receipt.time, view.head.time))
    _check_registry(checks, receipt, view, times, signer)
    _check_app(checks, receipt, view, times)
    _check_rule(checks, view, rule)
    _check_epoch(checks, receipt, view)
    return view


def _check_block(
    checks: CheckList, receipt: Receipt, position: ChainPosition, chain: ChainPart, pins: ChainPins
) -> None:
    expected = f"registry 0x{pins.pin.contract.hex()} on chain {pins.pin.chain_id}"
    found = f"registry 0x{position.contract.hex()} on chain {position.chain_id}"
    checks.require(
        "chain-pin",
        expected == found,
        expected=expected,
        found=found,
        reason="the KMS obeyed another registry than the trusted one",
        advice="compare chain id and registry with what the app manifest pins",
    )
    head = chain.header
    named = f"{position.block_number} {position.block_hash.hex()}, state {position.state_root.hex()}"
    shown = f"{head.number} {head.hash.hex()}, state {head.state_root.hex()}"
    checks.require(
        "block",
        named == shown,
        expected=named,
        found=shown,
        reason="the header is not that of the receipt's block",
        advice=_SAME,
    )
    with checks.step("block-age", expected=f"at most {pins.head_age_seconds} s before the receipt"):
        check_head(head, pins=pins, chain_id=position.chain_id, now=receipt.time, highest=None)


def _proven_view(checks: CheckList, receipt: Receipt, chain: ChainPart, pins: ChainPins) -> ChainView:
    query, root = receipt_query(receipt), chain.header.state_root
    with checks.step("state-proof", expected="registry and app, proven in the block's state"):
        registry = prove_account(chain.registry, state_root=root, address=pins.pin.contract)
        app = prove_account(chain.app, state_root=root, address=query.app_id)
    for name, expected, found in (
        ("registry-code", pins.registry_code_hash, registry.code_hash),
        ("app-code", pins.app_code_hash, app.code_hash),
    ):
        checks.equal(
            name,
            expected=expected,
            found=found,
            reason="the contract has other code than the trusted one",
            advice="compare the code hash with that of the contracts you trust",
        )
    with checks.step("policy-words", expected="every word of the policy, proven"):
        view = build_view(
            head=chain.header,
            pins=pins,
            query=query,
            registry=chain.registry,
            image=chain.image,
            app=chain.app,
        )
    proven = (set(chain.registry.storage), set(chain.image.storage), set(chain.app.storage))
    wanted = (
        set(registry_slots(query)),
        set(layout.image_slots(view.image_id)),
        set(app_slots(query, view.image_id)),
    )
    checks.require(
        "policy-slots",
        proven == wanted,
        expected="the slots of this policy and no others",
        found="the same" if proven == wanted else "other slots",
        reason="the proofs are not those of this policy",
        advice=_SAME,
    )
    return view


def _check_position(checks: CheckList, receipt: Receipt, position: ChainPosition, view: ChainView) -> None:
    named = f"registry {position.policy_version}, app {position.app_policy_version}"
    shown = f"registry {view.registry.policy_version}, app {view.app_state.policy_version}"
    checks.require(
        "policy-version",
        named == shown,
        expected=named,
        found=shown,
        reason="the receipt names other versions of the policy than its block has",
        advice=_SAME,
    )
    checks.equal(
        "policy-image-id",
        expected=receipt.subject.image_id or b"",
        found=view.image_id,
        reason="the reference values stand for another image than the receipt says",
        advice=_SAME,
    )


def _check_registry(
    checks: CheckList, receipt: Receipt, view: ChainView, times: tuple[int, int], signer: bytes
) -> None:
    query = receipt_query(receipt)
    _check_open(checks, "registry-open", paused=view.registry.paused)
    _check_entry(checks, EntryName.KMS_NODE, view.kms_node.entry, query.kms_id, times)
    checks.equal(
        "kms-signer",
        expected=view.kms_node.signer,
        found=signer,
        reason="the KMS is registered with another signer",
        advice="take the public keys of the registered KMS",
    )
    _check_entry(checks, EntryName.PLATFORM_ROOT, view.platform_root, query.platform_root, times)
    _check_entry(checks, EntryName.REFERENCE, view.reference, query.reference_digest, times)
    _check_entry(checks, EntryName.IMAGE, view.image, view.image_id, times)
    _check_entry(checks, EntryName.APP, view.app, query.app_id, times)


def _check_app(checks: CheckList, receipt: Receipt, view: ChainView, times: tuple[int, int]) -> None:
    query, state = receipt_query(receipt), view.app_state
    _check_open(checks, "app-open", paused=state.paused)
    checks.require(
        "app-expiry",
        all(time < state.expiry for time in times),
        expected="not expired",
        found=f"expires at {_time(state.expiry)}",
        reason="the app had expired",
        advice=_ALLOW,
    )
    _check_entry(checks, EntryName.APP_IMAGE, view.app_image, view.image_id, times)
    _check_entry(checks, EntryName.APP_HASH, view.app_hash, query.app_hash, times)
    if state.any_device:
        text = "any device: the app allows all"
        checks.require("policy-device", True, expected=text, found=text, reason="", advice="")
    else:
        _check_entry(checks, EntryName.DEVICE, view.device, query.platform_id, times)


def _check_rule(checks: CheckList, view: ChainView, rule: Policy | None) -> None:
    expected = None if rule is None else policy_digest(rule)
    checks.require(
        "policy-tcb-rule",
        view.tcb_rule == expected,
        expected="no rule" if expected is None else expected.hex(),
        found="no rule" if view.tcb_rule is None else view.tcb_rule.hex(),
        reason="the app names another TCB rule than the policy that is given, or none is given",
        advice="give the policy whose digest the app names: keyturn policy digest FILE",
    )


def _check_epoch(checks: CheckList, receipt: Receipt, view: ChainView) -> None:
    state = view.app_state
    epochs = sorted({key.epoch for key in receipt.outcome.keys} | {state.epoch})
    checks.require(
        "policy-epoch",
        epochs == [state.epoch],
        expected=f"keys of epoch {state.epoch}",
        found=f"epochs {', '.join(map(str, epochs))}",
        reason="keys of another epoch than the app's were released",
        advice="do not trust this KMS",
    )


def _check_open(checks: CheckList, name: str, *, paused: bool) -> None:
    checks.require(
        name,
        not paused,
        expected="not paused",
        found="paused" if paused else "not paused",
        reason="nothing may be released while it is paused",
        advice=_ALLOW,
    )


def _check_entry(
    checks: CheckList, name: EntryName, entry: Entry, value: bytes, times: tuple[int, int]
) -> None:
    fault = entry_fault(entry, times)
    checks.require(
        f"policy-{name.value}",
        fault is None,
        expected=f"{value.hex()} allowed",
        found=f"allowed from {_time(entry.not_before)} to {_time(entry.not_after)}"
        if fault is None
        else fault.value,
        reason=f"the contracts did not allow this {name.value} when keys were released",
        advice=_ALLOW,
    )


def _time(seconds: int) -> str:
    return "no end" if seconds == NEVER else str(seconds)
