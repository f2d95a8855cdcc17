"""Batches of receipts: the form, and that the contract takes what the key service signs."""

from __future__ import annotations

from typing import Any

import pytest

from contracts import binding, layout, policy
from contracts.batches import BatchError, parse_batches
from kms.anchors import sign_batch
from kms.root_key import ChainPin, RootKey
from tests.contracts.conftest import World

KMS_ID = b"\x11" * 32
ITEM: dict[str, Any] = {
    "kms_id": KMS_ID.hex(),
    "from_seq": 4,
    "to_seq": 6,
    "root": "22" * 32,
    "signature": "33" * 65,
}
NEXT = {**ITEM, "from_seq": 7, "to_seq": 7}


def parse(*items: Any, last_seq: int = 3) -> list[policy.Anchor]:
    return parse_batches({"batches": list(items)}, kms_id=KMS_ID, last_seq=last_seq)


def test_batches_follow_each_other() -> None:
    assert [(batch.from_seq, batch.to_seq) for batch in parse(ITEM, NEXT)] == [(4, 6), (7, 7)]
    assert parse() == []


@pytest.mark.parametrize("items", [[NEXT], [ITEM, ITEM], [NEXT, ITEM], [{**ITEM, "to_seq": 3}]])
def test_a_gap_a_repeat_or_an_empty_batch_is_refused(items: list[Any]) -> None:
    with pytest.raises(BatchError):
        parse(*items)


@pytest.mark.parametrize(
    "change",
    [
        {"kms_id": "12" * 32},
        {"root": "00" * 32},
        {"root": "AA" * 32},
        {"root": "22" * 31},
        {"root": 7},
        {"signature": "33" * 64},
        {"from_seq": True},
        {"from_seq": "4"},
        {"to_seq": 2**64},
        {"more": 1},
    ],
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BatchError):
        parse({**ITEM, **change})


@pytest.mark.parametrize(
    "document", [None, [], {}, {"batches": {}}, {"batches": [], "more": 1}, {"batches": [7]}]
)
def test_a_document_of_another_form_is_refused(document: Any) -> None:
    with pytest.raises(BatchError):
        parse_batches(document, kms_id=KMS_ID, last_seq=0)


def test_the_contract_takes_what_the_key_service_signs(world: World) -> None:
    pin = ChainPin(chain_id=world.deployment.chain_id, contract=bytes.fromhex(world.registry[2:]))
    key = RootKey(root=b"\x42" * 64, pin=pin, development=True)
    identity = key.identity
    world.govern(
        policy.allow_kms_node(
            world.registry,
            ed25519=identity.ed25519,
            secp256k1=identity.secp256k1,
            app_hash=b"\1" * 32,
            evidence_hash=b"\2" * 32,
        )
    )
    signed = [
        sign_batch(key, from_seq=1, payloads=[b"a", b"b"]).as_json(),
        sign_batch(key, from_seq=3, payloads=[b"c"]).as_json(),
    ]
    for batch in parse_batches({"batches": signed}, kms_id=identity.kms_id, last_seq=0):
        binding.send(world.web3, world.stranger, policy.anchor(world.registry, batch))
    words = binding.read_words(
        world.web3, world.registry, layout.kms_node_slots(identity.kms_id), block="latest"
    )
    node = layout.decode_kms_node(words)
    assert (node.signer, node.last_seq) == (identity.address, 3)
