"""What the contracts say about one request, at one finalized block, every word proven.

Two steps, because the image follows from the reference values: ``registry_slots`` give registry, reference
and KMS entries, ``app_slots`` the app's for the image they name. The registry and the app must have the
pinned code, and the app must belong to the registry. Words are decoded by ``contracts.layout``. Failures are
``RefusalError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts import layout
from kms.chain_proof import Account, AccountProof, Header, prove_account, prove_word
from kms.journal import Block
from kms.receipt import ChainPosition
from kms.refusal import RefusalCode, RefusalError
from kms.root_key import ChainPin
from measurements.errors import KeyturnError

HEAD_AGE_SECONDS = 40 * 60
"""Mainnet finalizes about 15 minutes behind its head; an older head hides revocations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainPins:
    """What the KMS is pinned to: chain, registry and the code of the contracts (keccak-256, 32 bytes)."""

    pin: ChainPin
    registry_code_hash: bytes
    app_code_hash: bytes
    head_age_seconds: int = HEAD_AGE_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyQuery:
    """What to look up: 32 bytes each, ``app_id`` 20."""

    kms_id: bytes
    reference_digest: bytes
    platform_root: bytes
    platform_id: bytes
    app_id: bytes
    app_hash: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainView:
    """The policy's words for one query. ``image_id`` is what the reference values stand for."""

    head: Header
    registry: layout.RegistryState
    kms_node: layout.KmsNode
    reference: layout.Entry
    image_id: bytes
    image: layout.Entry
    platform_root: layout.Entry
    app: layout.Entry
    app_state: layout.AppState
    app_hash: layout.Entry
    app_image: layout.Entry
    device: layout.Entry
    tcb_rule: bytes | None

    def position(self, pin: ChainPin) -> ChainPosition:
        """The block and versions as a receipt names them."""
        return ChainPosition(
            chain_id=pin.chain_id,
            contract=pin.contract,
            block_number=self.head.number,
            block_hash=self.head.hash,
            state_root=self.head.state_root,
            policy_version=self.registry.policy_version,
            app_policy_version=self.app_state.policy_version,
        )


def check_head(head: Header, *, pins: ChainPins, chain_id: int, now: int, highest: Block | None) -> None:
    """Raises ``RefusalError`` unless the head is of the pinned chain, young, not below the highest seen."""
    if chain_id != pins.pin.chain_id:
        raise _refusal(RefusalCode.WRONG_CHAIN, f"the node is of chain {chain_id}, not {pins.pin.chain_id}")
    age = now - head.time
    if age > pins.head_age_seconds:
        raise _refusal(
            RefusalCode.STALE_HEAD,
            f"the finalized block {head.number} is {age} s old, more than {pins.head_age_seconds} s",
        )
    if highest is None:
        return
    if head.number < highest.number:
        raise _refusal(
            RefusalCode.OLDER_HEAD,
            f"finalized block {head.number} is below {highest.number}, seen earlier",
        )
    if head.number == highest.number and head.hash != highest.hash:
        raise _refusal(RefusalCode.OLDER_HEAD, f"block {head.number} is not the one that was final before")


def registry_slots(query: PolicyQuery) -> list[bytes]:
    """Slots of the registry to prove first."""
    return [
        *layout.registry_state_slots(),
        *layout.kms_node_slots(query.kms_id),
        *layout.reference_slots(query.reference_digest),
        *layout.platform_root_slots(query.platform_root),
        *layout.app_slots(query.app_id),
    ]


def app_slots(query: PolicyQuery, image_id: bytes) -> list[bytes]:
    """Slots of the app to prove."""
    return [
        *layout.app_state_slots(),
        *layout.app_hash_slots(query.app_hash),
        *layout.app_image_slots(image_id),
        *layout.device_slots(query.platform_id),
        *layout.tcb_rule_slots(),
        *layout.app_registry_slots(),
    ]


def prove_registry(proof: AccountProof, *, head: Header, pins: ChainPins) -> Account:
    """The registry, whose code is the pinned one."""
    account = prove_account(proof, state_root=head.state_root, address=pins.pin.contract)
    if account.code_hash != pins.registry_code_hash:
        raise _refusal(RefusalCode.REGISTRY_CODE, "the registry has other code than the pinned one")
    return account


def named_image(proof: AccountProof, *, head: Header, pins: ChainPins, query: PolicyQuery) -> bytes:
    """The image (32 bytes) that the reference values stand for; refused where they are not on chain."""
    account = prove_registry(proof, head=head, pins=pins)
    words = _words(proof, account, layout.reference_slots(query.reference_digest))
    try:
        reference = layout.decode_reference(words)
    except layout.StorageWordError as error:
        raise _refusal(RefusalCode.PROOF, f"{error.subject}: {error.reason}") from error
    if not reference.entry.exists or not any(reference.image_id):
        raise RefusalError(
            "reference-not-allowed",
            f"the reference values {query.reference_digest.hex()} are not on chain",
            subject="policy",
            advice="register the reference values of this image on this machine shape",
        )
    return reference.image_id


def build_view(
    *,
    head: Header,
    pins: ChainPins,
    query: PolicyQuery,
    registry: AccountProof,
    image: AccountProof,
    app: AccountProof,
) -> ChainView:
    """The view, from three proofs at the same block: registry, the image's slot of it, and the app."""
    try:
        return _build_view(head=head, pins=pins, query=query, registry=registry, image=image, app=app)
    except RefusalError:
        raise
    except KeyturnError as error:
        raise _refusal(RefusalCode.PROOF, f"{error.subject}: {error.reason}") from error


def _build_view(
    *,
    head: Header,
    pins: ChainPins,
    query: PolicyQuery,
    registry: AccountProof,
    image: AccountProof,
    app: AccountProof,
) -> ChainView:
    image_id = named_image(registry, head=head, pins=pins, query=query)
    account = prove_registry(registry, head=head, pins=pins)
    image_account = prove_registry(image, head=head, pins=pins)
    app_account = prove_account(app, state_root=head.state_root, address=query.app_id)
    if app_account.code_hash != pins.app_code_hash:
        raise _refusal(RefusalCode.APP_CODE, "the app's contract has other code than the pinned one")
    if layout.decode_address(_words(app, app_account, layout.app_registry_slots())) != pins.pin.contract:
        raise _refusal(RefusalCode.APP_REGISTRY, "the app belongs to another registry")

    def entry(proof: AccountProof, owner: Account, slots: Sequence[bytes]) -> layout.Entry:
        return layout.decode_entry(_words(proof, owner, slots))

    reference = layout.decode_reference(
        _words(registry, account, layout.reference_slots(query.reference_digest))
    )
    return ChainView(
        head=head,
        registry=layout.decode_registry_state(_words(registry, account, layout.registry_state_slots())),
        kms_node=layout.decode_kms_node(_words(registry, account, layout.kms_node_slots(query.kms_id))),
        reference=reference.entry,
        image_id=image_id,
        image=entry(image, image_account, layout.image_slots(image_id)),
        platform_root=entry(registry, account, layout.platform_root_slots(query.platform_root)),
        app=entry(registry, account, layout.app_slots(query.app_id)),
        app_state=layout.decode_app_state(_words(app, app_account, layout.app_state_slots())),
        app_hash=entry(app, app_account, layout.app_hash_slots(query.app_hash)),
        app_image=entry(app, app_account, layout.app_image_slots(image_id)),
        device=entry(app, app_account, layout.device_slots(query.platform_id)),
        tcb_rule=layout.decode_tcb_rule(_words(app, app_account, layout.tcb_rule_slots())),
    )


def _words(proof: AccountProof, account: Account, slots: Sequence[bytes]) -> list[bytes]:
    return [prove_word(proof, account=account, slot=slot) for slot in slots]


def _refusal(code: RefusalCode, reason: str) -> RefusalError:
    return RefusalError(
        code, reason, subject="chain", advice="give the KMS an honest, synchronised node of the pinned chain"
    )
