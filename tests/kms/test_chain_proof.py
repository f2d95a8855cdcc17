"""Proofs: made by the ``trie`` library; no byte of them can change unnoticed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import layout
from kms.chain_proof import parse_header, parse_proof, prove_account, prove_word
from kms.refusal import RefusalError
from tests.kms.fake_chain import IMAGE_ID, REGISTRY_CODE, FakeChain
from tests.kms.receipts import PIN

CHAIN = FakeChain()
BLOCK = CHAIN.block()
HEADER = CHAIN.finalized()
SLOTS = [*layout.image_slots(IMAGE_ID), *layout.registry_state_slots(), b"\x77" * 32]
ANSWER = CHAIN.proof_answer(PIN.contract, SLOTS)


def words(answer: dict[str, Any], *, state_root: bytes = HEADER.state_root) -> list[bytes]:
    proof = parse_proof(answer)
    account = prove_account(proof, state_root=state_root, address=PIN.contract)
    assert account.code_hash == REGISTRY_CODE
    return [prove_word(proof, account=account, slot=slot) for slot in SLOTS]


def flip(text: str, position: int) -> str:
    index = 2 + position % (len(text) - 2)
    return text[:index] + format(int(text[index], 16) ^ 1, "x") + text[index + 1 :]


def test_words_and_their_absence_are_proven() -> None:
    assert words(ANSWER) == [CHAIN.registry[SLOTS[0]], CHAIN.registry[SLOTS[1]], bytes(32)]


@pytest.mark.parametrize("key", sorted(set(BLOCK) - {"transactions"}))
def test_a_changed_header_is_refused(key: str) -> None:
    block = {**BLOCK, key: flip(BLOCK[key], 5) if BLOCK[key] != "0x0" else "0x1"}
    with pytest.raises(RefusalError) as caught:
        parse_header(block)
    assert caught.value.code == "block-header"


@pytest.mark.parametrize("key", sorted(set(BLOCK) - {"transactions"}))
def test_a_header_without_a_field_is_refused(key: str) -> None:
    with pytest.raises(RefusalError):
        parse_header({name: value for name, value in BLOCK.items() if name != key})


@given(data=st.data())
def test_tampered_proof(data: st.DataObject) -> None:
    answer = copy.deepcopy(ANSWER)
    lists = [answer["accountProof"], *(entry["proof"] for entry in answer["storageProof"])]
    nodes = data.draw(st.sampled_from(lists))
    node = data.draw(st.integers(0, len(nodes) - 1))
    nodes[node] = flip(nodes[node], data.draw(st.integers(0, len(nodes[node]))))
    with pytest.raises(RefusalError) as caught:
        words(answer)
    assert caught.value.code == "state-proof"


@pytest.mark.parametrize("place", range(4))
def test_a_proof_that_ends_early_is_refused(place: int) -> None:
    answer = copy.deepcopy(ANSWER)
    [answer["accountProof"], *(entry["proof"] for entry in answer["storageProof"])][place].pop()
    with pytest.raises(RefusalError):
        words(answer)


def test_a_proof_of_another_block_is_refused() -> None:
    other = FakeChain()
    other.registry[SLOTS[0]] = bytes(31) + b"\x01"
    with pytest.raises(RefusalError):
        words(ANSWER, state_root=other.finalized().state_root)


def test_the_proof_of_another_slot_is_refused() -> None:
    answer = copy.deepcopy(ANSWER)
    first, second = answer["storageProof"][:2]
    first["proof"], second["proof"] = second["proof"], first["proof"]
    with pytest.raises(RefusalError):
        words(answer)


def test_a_slot_that_was_not_proven_is_refused() -> None:
    answer = copy.deepcopy(ANSWER)
    del answer["storageProof"][2]
    with pytest.raises(RefusalError):
        words(answer)


def test_an_absent_account_is_refused() -> None:
    proof = parse_proof(CHAIN.proof_answer(b"\x99" * 20, []))
    with pytest.raises(RefusalError, match="no account"):
        prove_account(proof, state_root=HEADER.state_root, address=b"\x99" * 20)


@pytest.mark.parametrize(
    "answer",
    [{}, {"accountProof": [], "storageProof": [1]}, {"accountProof": ["0xzz"], "storageProof": []}],
    ids=str,
)
def test_answers_of_another_form_are_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(RefusalError):
        prove_account(parse_proof(answer), state_root=HEADER.state_root, address=PIN.contract)
