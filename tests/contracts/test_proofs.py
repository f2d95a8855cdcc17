"""What ``eth_getProof`` proves at the documented slots is what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import rlp
from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey
from trie import HexaryTrie  # type: ignore[attr-defined]
from trie.exceptions import BadTrieProof

from contracts import layout, policy
from contracts.artefacts import ContractName, artefact
from contracts.binding import AppSettings
from contracts.layout import Entry, UpgradeMode
from contracts.policy import AppList, Period, RegistryList
from tests.contracts.conftest import World

IMAGE, DIGEST, ROOT, APP_HASH, EVIDENCE, DEVICE = (bytes([number]) * 32 for number in range(1, 7))
ED25519 = b"\x66" * 32
NODE_KEY = PrivateKey(b"\x07" * 32)
PERIOD = Period(not_before=7, not_after=2**63)
ENTRY = Entry(not_before=7, not_after=2**63, revoked=False, exists=True)


def proven(root: bytes, key: bytes, nodes: list[str]) -> bytes:
    decoded = [rlp.decode(bytes.fromhex(node[2:])) for node in nodes]
    return bytes(HexaryTrie.get_from_proof(root, keccak(key), decoded))  # type: ignore[no-untyped-call]


def proven_words(world: World, contract: ContractName, address: str, slots: tuple[bytes, ...]) -> list[bytes]:
    """Words of ``address`` at the finalized block, verified from its state root."""
    world.chain.mine(2)
    block = world.chain.call("eth_getBlockByNumber", "finalized", False)
    keys = ["0x" + slot.hex() for slot in slots]
    proof: dict[str, Any] = world.chain.call("eth_getProof", address, keys, block["number"])
    root = bytes.fromhex(block["stateRoot"][2:])
    account = rlp.decode(proven(root, bytes.fromhex(address[2:]), proof["accountProof"]))
    assert account[3] == artefact(contract).runtime_code_hash
    words = []
    for slot, item in zip(slots, proof["storageProof"], strict=True):
        value = proven(account[2], slot, item["proof"])
        words.append((rlp.decode(value) if value else b"").rjust(32, b"\0"))
    return words


def test_registry_policy_is_proven(world: World) -> None:
    world.govern(policy.allow(world.registry, RegistryList.IMAGE, IMAGE, PERIOD))
    world.govern(policy.allow(world.registry, RegistryList.PLATFORM_ROOT, ROOT, PERIOD))
    world.govern(policy.allow_reference(world.registry, DIGEST, IMAGE, PERIOD))
    world.guard(policy.revoke(world.registry, RegistryList.PLATFORM_ROOT, ROOT))
    world.guard(policy.pause(ContractName.REGISTRY, world.registry))

    def words(slots: tuple[bytes, ...]) -> list[bytes]:
        return proven_words(world, ContractName.REGISTRY, world.registry, slots)

    assert layout.decode_entry(words(layout.image_slots(IMAGE))) == ENTRY
    reference = layout.decode_reference(words(layout.reference_slots(DIGEST)))
    assert reference == layout.Reference(entry=ENTRY, image_id=IMAGE)
    assert layout.decode_entry(words(layout.platform_root_slots(ROOT))).revoked
    state = layout.decode_registry_state(words(layout.registry_state_slots()))
    assert state == layout.RegistryState(policy_version=6, paused=True)
    app = bytes.fromhex(world.app()[2:])
    assert layout.decode_entry(words(layout.app_slots(app))).holds_at(world.now())


def test_kms_node_is_proven(world: World) -> None:
    compressed = NODE_KEY.public_key.to_compressed_bytes()
    world.govern(
        policy.allow_kms_node(
            world.registry,
            ed25519=ED25519,
            secp256k1=compressed,
            app_hash=APP_HASH,
            evidence_hash=EVIDENCE,
            period=PERIOD,
        )
    )
    events = policy.history(world.web3, ContractName.REGISTRY, world.registry)
    kms_id = bytes.fromhex(str(events[-1].arguments["kmsId"]))
    words = proven_words(world, ContractName.REGISTRY, world.registry, layout.kms_node_slots(kms_id))
    assert layout.decode_kms_node(words) == layout.KmsNode(
        entry=ENTRY,
        signer=NODE_KEY.public_key.to_canonical_address(),
        last_seq=0,
        app_hash=APP_HASH,
        evidence_hash=EVIDENCE,
    )


def test_app_policy_is_proven(world: World) -> None:
    settings = AppSettings(mode=UpgradeMode.DELAYED, notice_seconds=77, expiry=2**40 + 5, any_device=True)
    app = world.app(settings)
    later = Period(not_before=2**40, not_after=2**41)
    world.govern(policy.allow_in_app(app, AppList.APP_HASH, APP_HASH, later))
    world.govern(policy.allow_in_app(app, AppList.IMAGE, IMAGE, later))
    world.govern(policy.allow_in_app(app, AppList.DEVICE, DEVICE, PERIOD))
    world.guard(policy.bump_epoch(app))

    def words(slots: tuple[bytes, ...]) -> list[bytes]:
        return proven_words(world, ContractName.APP, app, slots)

    assert layout.decode_app_state(words(layout.app_state_slots())) == layout.AppState(
        policy_version=5,
        paused=False,
        epoch=2,
        expiry=2**40 + 5,
        upgrade_mode=UpgradeMode.DELAYED,
        any_device=True,
        notice_seconds=77,
    )
    expected = Entry(not_before=2**40, not_after=2**41, revoked=False, exists=True)
    assert layout.decode_entry(words(layout.app_hash_slots(APP_HASH))) == expected
    assert layout.decode_entry(words(layout.app_image_slots(IMAGE))) == expected
    assert layout.decode_entry(words(layout.device_slots(DEVICE))) == ENTRY
    assert layout.decode_tcb_rule(words(layout.tcb_rule_slots())) is None
    registry = layout.decode_address(words(layout.app_registry_slots()))
    assert registry == bytes.fromhex(world.registry[2:])


@pytest.mark.parametrize("slots", [layout.image_slots, layout.platform_root_slots, layout.kms_node_slots])
def test_absence_is_proven(world: World, slots: Callable[[bytes], tuple[bytes, ...]]) -> None:
    words = proven_words(world, ContractName.REGISTRY, world.registry, slots(EVIDENCE))
    assert layout.decode_entry(words[:1]) == Entry.ABSENT


def test_a_proof_with_a_flipped_byte_is_refused(world: World) -> None:
    world.chain.mine(2)
    block = world.chain.call("eth_getBlockByNumber", "finalized", False)
    proof = world.chain.call("eth_getProof", world.registry, [], block["number"])
    root = bytes.fromhex(block["stateRoot"][2:])
    address = bytes.fromhex(world.registry[2:])
    nodes = [bytes.fromhex(node[2:]) for node in proof["accountProof"]]
    assert proven(root, address, ["0x" + node.hex() for node in nodes])
    last = bytearray(nodes[-1])
    last[-1] ^= 1
    with pytest.raises(BadTrieProof):
        proven(root, address, ["0x" + node.hex() for node in (*nodes[:-1], bytes(last))])
