"""The deployment file, and calls that are checked before they are sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_keys.datatypes import PrivateKey

from contracts import binding, policy
from contracts.artefacts import ContractName
from contracts.binding import Batch, ChainError, ProposalState
from contracts.deployment import TYPE, Deployment, DeploymentFileError, read_deployment
from contracts.layout import Entry, ZeroKeyError
from contracts.policy import AppList, KmsKeyError, RegistryList
from tests.contracts.conftest import World

ADDRESS = "0x" + "ab" * 20
GOOD: dict[str, Any] = {
    "type": TYPE,
    "chain_id": 31337,
    "registry": ADDRESS,
    "timelock": ADDRESS,
    "guardian": ADDRESS,
    "block": 4,
}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deployment.json"
    made = Deployment(chain_id=31337, registry=ADDRESS, timelock=ADDRESS, guardian=ADDRESS, block=4)
    made.write(path)
    assert read_deployment(path) == made
    assert json.loads(path.read_text()) == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"type": "keyturn-deployment/2"},
        {"more": 1},
        {"registry": ADDRESS.upper()},
        {"registry": "0x" + "00" * 20},
        {"guardian": None},
        {"timelock": ADDRESS[:-1]},
        {"chain_id": True},
        {"chain_id": 0},
        {"block": "4"},
    ],
)
def test_a_file_with_anything_else_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "deployment.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(DeploymentFileError):
        read_deployment(path)


def test_a_file_with_less_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deployment.json"
    for key in GOOD:
        path.write_text(json.dumps({name: value for name, value in GOOD.items() if name != key}))
        with pytest.raises(DeploymentFileError):
            read_deployment(path)
    for text in ("", "[]", "7"):
        path.write_text(text)
        with pytest.raises(DeploymentFileError):
            read_deployment(path)


@pytest.mark.parametrize("identifier", [bytes(32), b"\1" * 31, b"\1" * 33, b"\1" * 65, b""])
def test_zero_and_cut_hashes_are_refused_before_sending(identifier: bytes) -> None:
    with pytest.raises(ZeroKeyError):
        policy.allow(ADDRESS, RegistryList.IMAGE, identifier)
    with pytest.raises(ZeroKeyError):
        policy.allow_in_app(ADDRESS, AppList.APP_HASH, identifier)
    with pytest.raises(ZeroKeyError):
        policy.allow_reference(ADDRESS, b"\1" * 32, identifier)


def test_a_kms_key_that_is_no_point_is_refused() -> None:
    good = PrivateKey(b"\7" * 32).public_key.to_compressed_bytes()
    for secp256k1 in (b"\4" + good[1:], good[:-1], b"\2" + b"\xff" * 32, b""):
        with pytest.raises(KmsKeyError):
            policy.allow_kms_node(
                ADDRESS,
                ed25519=b"\1" * 32,
                secp256k1=secp256k1,
                app_hash=b"\1" * 32,
                evidence_hash=b"\1" * 32,
            )


def test_another_chain_is_refused(world: World) -> None:
    with pytest.raises(ChainError, match="is chain 31337, not 1"):
        binding.connect(world.chain.url, chain_id=1)


def test_a_node_that_does_not_answer_is_refused() -> None:
    with pytest.raises(ChainError, match="does not answer"):
        binding.connect("http://127.0.0.1:1")


def test_lists_follow_from_events(world: World) -> None:
    image, root = b"\1" * 32, b"\2" * 32
    world.govern(policy.allow(world.registry, RegistryList.IMAGE, image))
    world.govern(policy.allow(world.registry, RegistryList.PLATFORM_ROOT, root))
    world.guard(policy.revoke(world.registry, RegistryList.IMAGE, image))
    events = policy.history(world.web3, ContractName.REGISTRY, world.registry)
    assert policy.listed(events) == {
        (0, image.hex()): Entry(not_before=0, not_after=2**64 - 1, revoked=True, exists=True),
        (2, root.hex()): Entry(not_before=0, not_after=2**64 - 1, revoked=False, exists=True),
    }


def test_patience_that_ends_before_the_delay_is_said(world: World) -> None:
    call = policy.allow(world.registry, RegistryList.IMAGE, b"\1" * 32)
    with pytest.raises(ChainError, match="delay is not over"):
        binding.govern(world.web3, world.proposer, timelock=world.timelock, call=call, patience_seconds=0)


def test_a_batch_is_carried_out_as_one(world: World) -> None:
    image, digest, root = b"\1" * 32, b"\2" * 32, b"\3" * 32
    batch = Batch(
        (
            policy.allow(world.registry, RegistryList.IMAGE, image),
            policy.allow_reference(world.registry, digest, image),
            policy.allow(world.registry, RegistryList.PLATFORM_ROOT, root),
        )
    )
    world.govern(batch)
    entries = policy.listed(policy.history(world.web3, ContractName.REGISTRY, world.registry))
    assert set(entries) == {(0, image.hex()), (1, digest.hex()), (2, root.hex())}


def test_a_batch_with_one_refused_call_changes_nothing(world: World) -> None:
    good = policy.allow(world.registry, RegistryList.IMAGE, b"\1" * 32)
    bad = policy.allow_reference(world.registry, b"\2" * 32, b"\x09" * 32)
    assert world.refused_by_governor(Batch((good, bad))) == "UnknownEntry"
    assert policy.listed(policy.history(world.web3, ContractName.REGISTRY, world.registry)) == {}


def test_a_batch_is_cancelled_as_one(world: World) -> None:
    batch = Batch((policy.allow(world.registry, RegistryList.IMAGE, b"\1" * 32),))
    binding.propose(world.web3, world.proposer, timelock=world.timelock, call=batch)
    binding.cancel(world.web3, world.guardian, timelock=world.timelock, call=batch)
    state, _ = binding.proposal(world.web3, timelock=world.timelock, call=batch)
    assert state is ProposalState.UNSET


def test_the_same_call_can_be_carried_out_again(world: World) -> None:
    call = policy.allow(world.registry, RegistryList.IMAGE, b"\1" * 32)
    world.govern(call)
    world.govern(call)
    events = policy.history(world.web3, ContractName.REGISTRY, world.registry)
    assert [event.name for event in events].count("Allowed") == 2
