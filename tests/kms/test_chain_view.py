"""The chain view: what it reads, and each way in which a node can lie about it."""

from __future__ import annotations

import dataclasses

import pytest

from contracts import layout
from contracts.layout import Entry
from kms.chain_reader import read_view
from kms.chain_view import check_head
from kms.journal import Block
from kms.refusal import RefusalError
from tests.kms.fake_chain import ALLOWED, APP_CODE, IMAGE_ID, NOW, PINS, QUERY, FakeChain


def code(chain: FakeChain) -> str:
    with pytest.raises(RefusalError) as caught:
        read_view(chain, chain.finalized(), pins=PINS, query=QUERY)
    return caught.value.code


def test_everything_the_decision_needs_is_read() -> None:
    chain = FakeChain()
    view = read_view(chain, chain.finalized(), pins=PINS, query=QUERY)
    for name in ("reference", "image", "platform_root", "app", "app_hash", "app_image", "device"):
        assert getattr(view, name) == ALLOWED, name
    assert view.kms_node.entry == ALLOWED
    assert view.image_id == IMAGE_ID
    assert view.registry == layout.RegistryState(policy_version=3, paused=False)
    assert (view.app_state.epoch, view.app_state.policy_version) == (1, 2)
    assert view.tcb_rule is None
    position = view.position(PINS.pin)
    assert (position.block_number, position.policy_version, position.app_policy_version) == (100, 3, 2)
    assert position.state_root == chain.finalized().state_root


def test_absent_entries_are_read_as_absent() -> None:
    chain = FakeChain()
    del chain.app[layout.device_slots(QUERY.platform_id)[0]]
    assert read_view(chain, chain.finalized(), pins=PINS, query=QUERY).device == Entry.ABSENT


def test_a_registry_with_other_code() -> None:
    chain = FakeChain()
    chain.registry_code = APP_CODE
    assert code(chain) == "registry-code"


def test_an_app_with_other_code() -> None:
    chain = FakeChain()
    chain.app_code = bytes(32)
    assert code(chain) == "app-code"


def test_an_app_of_another_registry() -> None:
    chain = FakeChain()
    chain.app[layout.app_registry_slots()[0]] = (b"\x01" * 20).rjust(32, b"\0")
    assert code(chain) == "app-registry"


def test_reference_values_that_are_not_on_chain() -> None:
    chain = FakeChain()
    for slot in layout.reference_slots(QUERY.reference_digest):
        del chain.registry[slot]
    assert code(chain) == "reference-not-allowed"


@pytest.mark.parametrize(
    "slot", [layout.registry_state_slots()[0], layout.reference_slots(QUERY.reference_digest)[0]]
)
def test_a_word_that_no_contract_writes(slot: bytes) -> None:
    chain = FakeChain()
    chain.registry[slot] = b"\xff" * 32
    assert code(chain) == "state-proof"


def test_a_proof_from_another_block_than_the_header() -> None:
    chain = FakeChain()
    head = chain.finalized()
    chain.app[layout.app_state_slots()[0]] = bytes(32)
    with pytest.raises(RefusalError) as caught:
        read_view(chain, head, pins=PINS, query=QUERY)
    assert caught.value.code == "state-proof"


def head_code(
    *, chain_id: int = PINS.pin.chain_id, now: int = NOW, highest: Block | None = None
) -> str | None:
    try:
        check_head(FakeChain().finalized(), pins=PINS, chain_id=chain_id, now=now, highest=highest)
    except RefusalError as error:
        return error.code
    return None


def test_a_young_head_of_the_right_chain_passes() -> None:
    assert head_code() is None


def test_wrong_chain_id() -> None:
    assert head_code(chain_id=1) == "wrong-chain"


def test_stale_head() -> None:
    limit = NOW - 30 + PINS.head_age_seconds
    assert head_code(now=limit) is None
    assert head_code(now=limit + 1) == "stale-head"


def test_older_head_than_seen() -> None:
    seen = Block(number=100, hash=FakeChain().finalized().hash, time=NOW)
    assert head_code(highest=seen) is None
    assert head_code(highest=dataclasses.replace(seen, number=99)) is None
    assert head_code(highest=dataclasses.replace(seen, number=101)) == "older-head"


def test_a_fork_of_the_block_seen() -> None:
    assert head_code(highest=Block(number=100, hash=bytes(32), time=NOW)) == "older-head"
