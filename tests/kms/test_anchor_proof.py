"""Anchors: what the registry kept is proven by the receipts trie; nothing else passes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import rlp
from eth_hash.auto import keccak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trie.hexary import HexaryTrie

from attestation.verdict import CheckFailedError, CheckList
from kms.anchor_proof import (
    AnchorProof,
    Log,
    anchor_log,
    check_anchor,
    encode_receipt,
    prove_receipt,
    proven_logs,
)
from kms.anchors import Anchor
from kms.bundle import parse_anchoring
from kms.receipt import ChainPosition
from kms.refusal import RefusalError
from tests.kms.fake_chain import ANCHOR_INDEX, FakeChain, transaction
from tests.kms.receipts import PIN, ROOT

ANCHOR = Anchor(kms_id=ROOT.identity.kms_id, from_seq=4, to_seq=9, root=b"\x5a" * 32)


def position(number: int, contract: bytes) -> ChainPosition:
    return ChainPosition(
        chain_id=PIN.chain_id,
        contract=contract,
        block_number=number,
        block_hash=bytes(32),
        state_root=bytes(32),
        policy_version=1,
        app_policy_version=1,
    )


def failed(
    proof: AnchorProof, anchor: Anchor = ANCHOR, *, contract: bytes = PIN.contract, block: int = 100
) -> str:
    """Name of the failed check, or nothing."""
    checks = CheckList()
    try:
        check_anchor(checks, proof, anchor, position(block, contract))
    except CheckFailedError as error:
        return str(error)
    return ""


def anchored(*receipts: dict[str, Any]) -> AnchorProof:
    chain = FakeChain()
    chain.anchor(ANCHOR)
    chain.receipts[: len(receipts)] = receipts
    return parse_anchoring(chain.anchoring())


PROOF = anchored()


def test_an_anchor_is_proven() -> None:
    assert failed(PROOF) == ""
    assert proven_logs(PROOF) == [anchor_log(ANCHOR, PIN.contract)]


@pytest.mark.parametrize(
    "change",
    [{"kms_id": b"\x77" * 32}, {"from_seq": 3}, {"to_seq": 10}, {"root": b"\x77" * 32}],
)
def test_attack_event_of_another_batch(change: dict[str, Any]) -> None:
    assert failed(PROOF, dataclasses.replace(ANCHOR, **change)) == "anchored-on-chain"


def test_attack_event_of_another_contract() -> None:
    assert failed(PROOF, contract=b"\x77" * 20) == "anchored-on-chain"


@pytest.mark.parametrize("index", [0, 1, 3, 4, 200])
def test_attack_receipt_of_another_transaction(index: int) -> None:
    assert failed(dataclasses.replace(PROOF, index=index)) == "anchored-on-chain"


def test_attack_transaction_that_failed() -> None:
    log = anchor_log(ANCHOR, PIN.contract)
    chain = FakeChain()
    chain.anchor(ANCHOR)
    chain.receipts[ANCHOR_INDEX] = transaction(kind=2, logs=[log], status=0)
    assert failed(parse_anchoring(chain.anchoring())) == "anchored-on-chain"


def test_attack_event_with_another_topic() -> None:
    real = anchor_log(ANCHOR, PIN.contract)
    chain = FakeChain()
    chain.anchor(ANCHOR)
    other = dataclasses.replace(real, topics=(b"\x01" * 32, real.topics[1]))
    chain.receipts[ANCHOR_INDEX] = transaction(kind=2, logs=[other])
    assert failed(parse_anchoring(chain.anchoring())) == "anchored-on-chain"


def test_attack_header_of_another_block() -> None:
    other = FakeChain()
    other.anchor(dataclasses.replace(ANCHOR, to_seq=10))
    header = parse_anchoring(other.anchoring()).header
    assert failed(dataclasses.replace(PROOF, header=header)) == "anchored-on-chain"


@pytest.mark.parametrize("block", [101, 102])
def test_attack_anchor_before_its_receipt(block: int) -> None:
    assert failed(PROOF, block=block) == "anchor-block"


@given(st.data())
def test_a_flipped_bit_in_the_proof_fails(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(PROOF.nodes) - 1))
    node = bytearray(PROOF.nodes[place])
    node[data.draw(st.integers(0, len(node) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    nodes = (*PROOF.nodes[:place], bytes(node), *PROOF.nodes[place + 1 :])
    assert failed(dataclasses.replace(PROOF, nodes=nodes)) == "anchored-on-chain"


RLP_TREES = st.recursive(st.binary(max_size=40), lambda tree: st.lists(tree, max_size=17), max_leaves=30)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200) | RLP_TREES.map(rlp.encode))
def test_any_node_at_the_root_is_refused(node: bytes) -> None:
    """Whoever makes up a header chooses its root, so that every node is one that its hash fits."""
    header = dataclasses.replace(PROOF.header, receipts_root=keccak(node))
    assert failed(dataclasses.replace(PROOF, header=header, nodes=(node,))) == "anchored-on-chain"


@pytest.mark.parametrize("node", [b"\x00", rlp.encode([b"\x00", b"\xb8"]), rlp.encode([b"\x00", b"\x81"])])
def test_a_node_that_the_library_does_not_expect_is_refused(node: bytes) -> None:
    header = dataclasses.replace(PROOF.header, receipts_root=keccak(node))
    assert failed(dataclasses.replace(PROOF, header=header, nodes=(node,))) == "anchored-on-chain"


@given(st.binary(min_size=1, max_size=100) | RLP_TREES.map(rlp.encode))
def test_any_value_that_is_no_receipt_is_refused(value: bytes) -> None:
    trie = HexaryTrie({})
    trie[rlp.encode(PROOF.index)] = value
    header = dataclasses.replace(PROOF.header, receipts_root=trie.root_hash)
    nodes = tuple(rlp.encode(node) for node in trie.get_proof(rlp.encode(PROOF.index)))  # type: ignore[no-untyped-call]
    assert failed(dataclasses.replace(PROOF, header=header, nodes=nodes)) == "anchored-on-chain"


def test_without_nodes_nothing_is_proven() -> None:
    assert failed(dataclasses.replace(PROOF, nodes=())) == "anchored-on-chain"


@pytest.mark.parametrize(
    "change",
    [
        {"type": "0x7e"},
        {"status": None},
        {"logs": None},
        {"logs": [{}]},
        {"logsBloom": "0x0"},
        {"cumulativeGasUsed": "21000"},
    ],
)
def test_receipts_of_another_form_are_refused(change: dict[str, Any]) -> None:
    receipt = {**transaction(kind=2, logs=[]), **change}
    with pytest.raises(RefusalError):
        prove_receipt([receipt], 0, root=bytes(32))


def test_receipts_of_another_block_are_refused() -> None:
    with pytest.raises(RefusalError, match="not those of its header"):
        prove_receipt([transaction(kind=2, logs=[])], 0, root=bytes(32))


def test_the_form_of_a_receipt() -> None:
    """Bytes put together by hand, after EIP-2718 and EIP-658."""
    log = Log(address=b"\xaa" * 20, topics=(b"\xbb" * 32,), data=b"\xcc")
    encoded_log = b"\xf8\x39" + b"\x94" + b"\xaa" * 20 + b"\xe1\xa0" + b"\xbb" * 32 + b"\x81\xcc"
    body = b"\x01" + b"\x82\x52\x08" + b"\xb9\x01\x00" + bytes(256) + b"\xf8\x3b" + encoded_log
    legacy = b"\xf9" + len(body).to_bytes(2, "big") + body
    receipt = transaction(kind=0, logs=[log])
    assert encode_receipt(receipt) == legacy
    assert encode_receipt({**receipt, "type": "0x2"}) == b"\x02" + legacy
