"""Anchors: the digest is what eth-account computes for the same typed data, and names its signer only as
signed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from kms.anchors import Anchor, SignedAnchor, anchor_digest, anchor_signer, sign_batch
from kms.merkle import merkle_root
from kms.root_key import ChainPin
from tests.kms.receipts import PIN, ROOT

SIGNED = sign_batch(ROOT, from_seq=5, payloads=[b"a", b"b", b"c"])


def typed_data(anchor: Anchor, pin: ChainPin) -> dict[str, Any]:
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "Anchor": [
                {"name": "kmsId", "type": "bytes32"},
                {"name": "fromSeq", "type": "uint64"},
                {"name": "toSeq", "type": "uint64"},
                {"name": "root", "type": "bytes32"},
            ],
        },
        "primaryType": "Anchor",
        "domain": {
            "name": "keyturn",
            "version": "1",
            "chainId": pin.chain_id,
            "verifyingContract": f"0x{pin.contract.hex()}",
        },
        "message": {
            "kmsId": anchor.kms_id,
            "fromSeq": anchor.from_seq,
            "toSeq": anchor.to_seq,
            "root": anchor.root,
        },
    }


@given(
    chain_id=st.integers(1, (1 << 64) - 1),
    contract=st.binary(min_size=20, max_size=20),
    kms_id=st.binary(min_size=32, max_size=32),
    seq=st.integers(1, (1 << 63) - 1),
    root=st.binary(min_size=32, max_size=32),
)
def test_the_digest_is_that_of_eip_712(
    chain_id: int, contract: bytes, kms_id: bytes, seq: int, root: bytes
) -> None:
    pin = ChainPin(chain_id=chain_id, contract=contract)
    anchor = Anchor(kms_id=kms_id, from_seq=seq, to_seq=seq + 3, root=root)
    message = encode_typed_data(full_message=typed_data(anchor, pin))
    by_library = keccak(b"\x19" + message.version + message.header + message.body)
    assert anchor_digest(anchor, pin) == by_library


def test_a_batch_names_its_receipts_and_its_signer() -> None:
    assert SIGNED.anchor.from_seq == 5
    assert SIGNED.anchor.to_seq == 7
    assert SIGNED.anchor.root == merkle_root([b"a", b"b", b"c"])
    assert SIGNED.signature[-1] in (27, 28)
    assert anchor_signer(SIGNED, PIN) == ROOT.identity.address


@pytest.mark.parametrize(
    "change",
    [
        {"kms_id": bytes(32)},
        {"from_seq": 4},
        {"to_seq": 8},
        {"root": merkle_root([b"a"])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_anchor_is_not_the_signers(change: dict[str, Any]) -> None:
    changed = dataclasses.replace(SIGNED, anchor=dataclasses.replace(SIGNED.anchor, **change))
    assert anchor_signer(changed, PIN) != ROOT.identity.address


@pytest.mark.parametrize(
    "pin",
    [ChainPin(chain_id=1, contract=PIN.contract), ChainPin(chain_id=PIN.chain_id, contract=b"\x01" * 20)],
    ids=["other-chain", "other-registry"],
)
def test_an_anchor_replayed_on_another_chain_or_registry_is_not_the_signers(pin: ChainPin) -> None:
    assert anchor_signer(SIGNED, pin) != ROOT.identity.address


@given(bit=st.integers(0, 65 * 8 - 1))
def test_a_flipped_bit_of_the_signature_is_not_the_signers(bit: int) -> None:
    changed = bytearray(SIGNED.signature)
    changed[bit // 8] ^= 1 << bit % 8
    signed = SignedAnchor(anchor=SIGNED.anchor, signature=bytes(changed))
    assert anchor_signer(signed, PIN) != ROOT.identity.address


@pytest.mark.parametrize("size", [0, 64, 66])
def test_a_signature_of_another_size_has_no_signer(size: int) -> None:
    assert anchor_signer(SignedAnchor(anchor=SIGNED.anchor, signature=bytes(size)), PIN) is None
