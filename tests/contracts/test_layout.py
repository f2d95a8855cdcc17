"""Slots and words of the contracts' policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from contracts import layout
from contracts.layout import (
    AppState,
    Entry,
    KmsNode,
    RegistryState,
    StorageWordError,
    UpgradeMode,
    ZeroKeyError,
)

KEY = bytes(range(1, 33))
ADDRESS = bytes(range(1, 21))
u64 = st.integers(0, 2**64 - 1)


def word(*fields: tuple[int, int]) -> bytes:
    """Fields (value, bytes) packed from the low-order end."""
    return b"".join(value.to_bytes(size, "big") for value, size in reversed(fields)).rjust(32, b"\0")


def test_slots_of_plain_variables() -> None:
    assert layout.registry_state_slots() == (bytes(31) + b"\x01",)
    assert layout.app_state_slots() == (bytes(31) + b"\x01",)
    assert layout.tcb_rule_slots() == (bytes(31) + b"\x05",)
    assert layout.app_registry_slots() == (bytes(31) + b"\x06",)


@pytest.mark.parametrize(
    ("slots", "position", "count"),
    [
        (layout.image_slots, 2, 1),
        (layout.reference_slots, 3, 2),
        (layout.platform_root_slots, 4, 1),
        (layout.kms_node_slots, 5, 4),
        (layout.app_hash_slots, 2, 1),
        (layout.app_image_slots, 3, 1),
        (layout.device_slots, 4, 1),
    ],
)
def test_slots_of_mappings(slots: Callable[[bytes], tuple[bytes, ...]], position: int, count: int) -> None:
    first = int.from_bytes(keccak(KEY + position.to_bytes(32, "big")), "big")
    assert slots(KEY) == tuple((first + index).to_bytes(32, "big") for index in range(count))
    for key in (bytes(32), KEY[:31], KEY + b"\0", b""):
        with pytest.raises(ZeroKeyError):
            slots(key)


def test_slot_of_an_app() -> None:
    assert layout.app_slots(ADDRESS) == (keccak(bytes(12) + ADDRESS + (6).to_bytes(32, "big")),)
    for key in (bytes(20), KEY):
        with pytest.raises(ZeroKeyError):
            layout.app_slots(key)


@given(not_before=u64, not_after=u64, revoked=st.booleans())
def test_entry(not_before: int, not_after: int, revoked: bool) -> None:
    data = word((not_before, 8), (not_after, 8), (revoked, 1), (1, 1))
    entry = layout.decode_entry([data])
    assert entry == Entry(not_before=not_before, not_after=not_after, revoked=revoked, exists=True)


def test_absent_entry_holds_never() -> None:
    assert layout.decode_entry([bytes(32)]) == Entry.ABSENT
    assert not any(Entry.ABSENT.holds_at(time) for time in (0, 1, layout.NEVER))


def test_entry_holds_from_not_before_until_not_after() -> None:
    entry = Entry(not_before=10, not_after=20, revoked=False, exists=True)
    assert [entry.holds_at(time) for time in (9, 10, 19, 20)] == [False, True, True, False]
    revoked = Entry(not_before=10, not_after=20, revoked=True, exists=True)
    assert not revoked.holds_at(15)


@given(
    version=u64, epoch=u64, expiry=u64, notice=st.integers(0, 2**32 - 1), mode=st.sampled_from(UpgradeMode)
)
def test_app_state(version: int, epoch: int, expiry: int, notice: int, mode: UpgradeMode) -> None:
    data = word((version, 8), (1, 1), (epoch, 8), (expiry, 8), (mode, 1), (0, 1), (notice, 4))
    assert layout.decode_app_state([data]) == AppState(
        policy_version=version,
        paused=True,
        epoch=epoch,
        expiry=expiry,
        upgrade_mode=mode,
        any_device=False,
        notice_seconds=notice,
    )


def test_registry_state() -> None:
    assert layout.decode_registry_state([word((7, 8), (1, 1))]) == RegistryState(
        policy_version=7, paused=True
    )


def test_kms_node() -> None:
    entry = word((1, 8), (2, 8), (0, 1), (1, 1))
    words = [entry, word((int.from_bytes(ADDRESS, "big"), 20), (9, 8)), KEY, KEY[::-1]]
    assert layout.decode_kms_node(words) == KmsNode(
        entry=Entry(not_before=1, not_after=2, revoked=False, exists=True),
        signer=ADDRESS,
        last_seq=9,
        app_hash=KEY,
        evidence_hash=KEY[::-1],
    )


def test_reference_tcb_rule_and_address() -> None:
    entry = word((1, 8), (2, 8), (0, 1), (1, 1))
    assert layout.decode_reference([entry, KEY]).image_id == KEY
    assert layout.decode_tcb_rule([KEY]) == KEY
    assert layout.decode_tcb_rule([bytes(32)]) is None
    assert layout.decode_address([bytes(12) + ADDRESS]) == ADDRESS


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (layout.decode_entry, word((1, 8), (2, 8), (2, 1), (1, 1))),
        (layout.decode_entry, word((1, 8), (2, 8), (0, 1), (2, 1))),
        (layout.decode_entry, word((1, 8), (2, 8), (0, 1), (1, 1), (1, 1))),
        (layout.decode_entry, word((1, 8))),
        (layout.decode_registry_state, word((1, 8), (2, 1))),
        (layout.decode_registry_state, word((1, 8), (0, 1), (1, 1))),
        (layout.decode_app_state, word((1, 8), (0, 1), (0, 8), (0, 8), (3, 1))),
        (layout.decode_app_state, word((1, 8), (0, 1), (0, 8), (0, 8), (0, 1), (2, 1))),
        (layout.decode_app_state, b"\1" + bytes(31)),
        (layout.decode_address, b"\1" + bytes(31)),
    ],
)
def test_words_no_contract_writes_are_refused(decode: Callable[[list[bytes]], object], data: bytes) -> None:
    with pytest.raises(StorageWordError):
        decode([data])


@pytest.mark.parametrize("words", [[], [bytes(31)], [bytes(32), bytes(32)]])
def test_wrong_number_or_length_of_words_is_refused(words: list[bytes]) -> None:
    for decode in (layout.decode_entry, layout.decode_app_state, layout.decode_kms_node):
        with pytest.raises(StorageWordError):
            decode(words)
