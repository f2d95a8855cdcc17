"""KeyturnRegistry on a real node: who may do what, and when."""

from __future__ import annotations

import hashlib

import pytest
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import PrivateKey

from contracts import binding, layout, policy
from contracts.artefacts import ContractName, artefact
from contracts.binding import AppSettings, Call, ContractRefusedError, ProposalState
from contracts.policy import Anchor, Period, RegistryList
from tests.contracts.conftest import DELAY, World

IMAGE = b"\x11" * 32
DIGEST = b"\x22" * 32
ROOT = b"\x33" * 32
APP_HASH = b"\x44" * 32
EVIDENCE = b"\x55" * 32
ED25519 = b"\x66" * 32
NODE_KEY = PrivateKey(b"\x07" * 32)
OTHER_KEY = PrivateKey(b"\x08" * 32)
COMPRESSED = NODE_KEY.public_key.to_compressed_bytes()
KMS_ID = hashlib.sha256(b"keyturn-kms-root/1\0" + ED25519 + COMPRESSED).digest()
LISTS = [RegistryList.IMAGE, RegistryList.PLATFORM_ROOT]


def entry(world: World, slots: tuple[bytes, ...]) -> layout.Entry:
    return layout.decode_entry(binding.read_words(world.web3, world.registry, slots[:1], block="latest"))


def version(world: World) -> int:
    words = binding.read_words(world.web3, world.registry, layout.registry_state_slots(), block="latest")
    return layout.decode_registry_state(words).policy_version


def node_call(world: World, period: Period = policy.ALWAYS) -> Call:
    return policy.allow_kms_node(
        world.registry,
        ed25519=ED25519,
        secp256k1=COMPRESSED,
        app_hash=APP_HASH,
        evidence_hash=EVIDENCE,
        period=period,
    )


def signed(
    world: World, from_seq: int, to_seq: int, key: PrivateKey = NODE_KEY, root: bytes = ROOT
) -> Anchor:
    digest = binding.read(
        world.web3,
        Call(
            contract=ContractName.REGISTRY,
            target=world.registry,
            function="anchorDigest",
            arguments=(KMS_ID, from_seq, to_seq, root),
        ),
    )
    signature = key.sign_msg_hash(digest).to_bytes()
    signature = signature[:64] + bytes([signature[64] + 27])
    return Anchor(kms_id=KMS_ID, from_seq=from_seq, to_seq=to_seq, root=root, signature=signature)


def raw(world: World, function: str, *arguments: object) -> Call:
    """A call past the checks of the binding."""
    return Call(contract=ContractName.REGISTRY, target=world.registry, function=function, arguments=arguments)


@pytest.mark.parametrize("which", LISTS)
def test_additions_pass_the_timelock_only(world: World, which: RegistryList) -> None:
    call = policy.allow(world.registry, which, IMAGE)
    for signer in (world.stranger, world.guardian, world.proposer):
        assert world.refused(call, by=signer) == "AccessControlUnauthorizedAccount"
    before = version(world)
    world.govern(call)
    slots = {RegistryList.IMAGE: layout.image_slots, RegistryList.PLATFORM_ROOT: layout.platform_root_slots}
    assert entry(world, slots[which](IMAGE)).holds_at(world.now())
    assert version(world) == before + 1


def test_only_the_proposer_proposes(world: World) -> None:
    call = policy.allow(world.registry, RegistryList.IMAGE, IMAGE)
    for signer in (world.stranger, world.guardian):
        with pytest.raises(ContractRefusedError, match="AccessControlUnauthorizedAccount"):
            binding.propose(world.web3, signer, timelock=world.timelock, call=call)


def test_the_delay_cannot_be_cut_short(world: World) -> None:
    call = policy.allow(world.registry, RegistryList.IMAGE, IMAGE)
    binding.propose(world.web3, world.proposer, timelock=world.timelock, call=call)
    world.chain.skip_time(DELAY // 2)
    assert binding.proposal(world.web3, timelock=world.timelock, call=call)[0] is ProposalState.WAITING
    with pytest.raises(ContractRefusedError, match="TimelockUnexpectedOperationState"):
        binding.execute(world.web3, world.proposer, timelock=world.timelock, call=call)
    assert entry(world, layout.image_slots(IMAGE)) == layout.Entry.ABSENT


def test_the_guardian_cancels_a_proposal(world: World) -> None:
    call = policy.allow(world.registry, RegistryList.IMAGE, IMAGE)
    binding.propose(world.web3, world.proposer, timelock=world.timelock, call=call)
    binding.cancel(world.web3, world.guardian, timelock=world.timelock, call=call)
    world.chain.skip_time(DELAY)
    with pytest.raises(ContractRefusedError, match="TimelockUnexpectedOperationState"):
        binding.execute(world.web3, world.proposer, timelock=world.timelock, call=call)


def test_the_deployer_keeps_no_right(world: World) -> None:
    for role in (bytes(32), binding.role("PROPOSER_ROLE"), binding.role("CANCELLER_ROLE")):
        has = Call(
            contract=ContractName.TIMELOCK,
            target=world.timelock,
            function="hasRole",
            arguments=(role, world.stranger.address),
        )
        assert binding.read(world.web3, has) is False


@pytest.mark.parametrize("which", LISTS)
def test_revoke_is_immediate(world: World, which: RegistryList) -> None:
    world.govern(policy.allow(world.registry, which, IMAGE))
    call = policy.revoke(world.registry, which, IMAGE)
    for signer in (world.stranger, world.proposer):
        assert world.refused(call, by=signer) == "AccessControlUnauthorizedAccount"
    before = version(world)
    world.guard(call)
    slots = {RegistryList.IMAGE: layout.image_slots, RegistryList.PLATFORM_ROOT: layout.platform_root_slots}
    assert entry(world, slots[which](IMAGE)).revoked
    assert version(world) == before + 1
    assert world.refused(call, by=world.guardian) == "AlreadyRevoked"


def test_a_revoked_entry_comes_back_through_the_timelock_only(world: World) -> None:
    call = policy.allow(world.registry, RegistryList.IMAGE, IMAGE)
    world.govern(call)
    world.guard(policy.revoke(world.registry, RegistryList.IMAGE, IMAGE))
    assert world.refused(call, by=world.guardian) == "AccessControlUnauthorizedAccount"
    world.govern(call)
    assert entry(world, layout.image_slots(IMAGE)).holds_at(world.now())


@pytest.mark.parametrize("which", list(RegistryList))
def test_revoking_what_is_not_listed_is_refused(world: World, which: RegistryList) -> None:
    assert world.refused(policy.revoke(world.registry, which, IMAGE), by=world.guardian) == "UnknownEntry"


def test_periods_that_permit_nothing_are_refused(world: World) -> None:
    now = world.now()
    for period in (Period(not_before=now + 1000, not_after=now + 1000), Period(not_before=0, not_after=now)):
        call = policy.allow(world.registry, RegistryList.IMAGE, IMAGE, period)
        assert world.refused_by_governor(call) == "EmptyPeriod"


def test_zero_is_refused_by_the_contract(world: World) -> None:
    zero, end = bytes(32), layout.NEVER
    x = NODE_KEY.public_key.to_bytes()[:32]
    y = NODE_KEY.public_key.to_bytes()[32:]
    world.govern(policy.allow(world.registry, RegistryList.IMAGE, IMAGE))
    for call in (
        raw(world, "allow", 0, zero, 0, end),
        raw(world, "allow", 2, zero, 0, end),
        raw(world, "allow", 4, zero, 0, end),
        raw(world, "allowReference", zero, IMAGE, 0, end),
        raw(world, "allowKmsNode", (zero, x, y), APP_HASH, EVIDENCE, 0, end),
        raw(world, "allowKmsNode", (ED25519, zero, y), APP_HASH, EVIDENCE, 0, end),
        raw(world, "allowKmsNode", (ED25519, x, zero), APP_HASH, EVIDENCE, 0, end),
        raw(world, "allowKmsNode", (ED25519, x, y), zero, EVIDENCE, 0, end),
        raw(world, "allowKmsNode", (ED25519, x, y), APP_HASH, zero, 0, end),
    ):
        assert world.refused_by_governor(call) == "ZeroValue"
    assert world.refused_by_governor(raw(world, "allowReference", DIGEST, zero, 0, end)) == "UnknownEntry"


def test_references_and_nodes_have_their_own_functions(world: World) -> None:
    for which in (RegistryList.REFERENCE, RegistryList.KMS_NODE):
        call = policy.allow(world.registry, which, IMAGE)
        assert world.refused_by_governor(call) == "UseTheListsOwnFunction"


def test_a_reference_needs_its_image(world: World) -> None:
    call = policy.allow_reference(world.registry, DIGEST, IMAGE)
    assert world.refused(call, by=world.guardian) == "AccessControlUnauthorizedAccount"
    assert world.refused_by_governor(call) == "UnknownEntry"
    world.govern(policy.allow(world.registry, RegistryList.IMAGE, IMAGE))
    world.govern(policy.allow_reference(world.registry, DIGEST, IMAGE, Period(not_after=layout.NEVER - 1)))
    assert entry(world, layout.reference_slots(DIGEST)).not_after == layout.NEVER - 1
    world.guard(policy.revoke(world.registry, RegistryList.REFERENCE, DIGEST))
    assert entry(world, layout.reference_slots(DIGEST)).revoked


def test_an_app_that_the_registry_did_not_make_is_refused(world: World) -> None:
    foreign = bytes(range(20))
    call = policy.allow(world.registry, RegistryList.APP, foreign)
    assert world.refused_by_governor(call) == "UnknownEntry"
    assert entry(world, layout.app_slots(foreign)) == layout.Entry.ABSENT


def test_an_app_is_listed_and_can_be_revoked(world: World) -> None:
    app = bytes.fromhex(world.app()[2:])
    assert entry(world, layout.app_slots(app)).holds_at(world.now())
    world.guard(policy.revoke(world.registry, RegistryList.APP, app))
    assert entry(world, layout.app_slots(app)).revoked
    world.govern(policy.allow(world.registry, RegistryList.APP, app))
    assert entry(world, layout.app_slots(app)).holds_at(world.now())


def test_pause_is_immediate_and_resuming_passes_the_timelock(world: World) -> None:
    pause = policy.pause(ContractName.REGISTRY, world.registry)
    resume = policy.resume(ContractName.REGISTRY, world.registry)
    for signer in (world.stranger, world.proposer):
        assert world.refused(pause, by=signer) == "AccessControlUnauthorizedAccount"
    assert world.refused_by_governor(resume) == "AlreadySet"
    before = version(world)
    world.guard(pause)
    assert version(world) == before + 1
    assert world.refused(pause, by=world.guardian) == "AlreadySet"
    for signer in (world.guardian, world.proposer):
        assert world.refused(resume, by=signer) == "AccessControlUnauthorizedAccount"
    binding.execute(world.web3, world.stranger, timelock=world.timelock, call=resume)
    words = binding.read_words(world.web3, world.registry, layout.registry_state_slots(), block="latest")
    assert layout.decode_registry_state(words).paused is False


def test_a_governor_without_delay_is_refused(world: World) -> None:
    with pytest.raises(ContractRefusedError, match="GovernorIsNoTimelock"):
        binding.deploy(
            world.web3,
            world.stranger,
            proposer=world.proposer.address,
            guardian=world.guardian.address,
            delay_seconds=0,
        )


def test_a_governor_that_is_a_person_is_refused(world: World) -> None:
    arguments = (world.proposer.address, world.guardian.address, AppSettings().as_tuple())
    assert world.refused(raw(world, "createApp", *arguments), by=world.stranger) == "GovernorIsNoTimelock"


def test_a_kms_node_is_admitted_under_its_own_id(world: World) -> None:
    for signer in (world.guardian, world.proposer):
        assert world.refused(node_call(world), by=signer) == "AccessControlUnauthorizedAccount"
    world.govern(node_call(world))
    words = binding.read_words(world.web3, world.registry, layout.kms_node_slots(KMS_ID), block="latest")
    node = layout.decode_kms_node(words)
    assert node.entry.holds_at(world.now())
    assert node.signer == NODE_KEY.public_key.to_canonical_address()
    assert (node.app_hash, node.evidence_hash, node.last_seq) == (APP_HASH, EVIDENCE, 0)


@pytest.mark.parametrize("seed", range(1, 5))
def test_kms_id_of_the_contract_is_the_documented_one(world: World, seed: int) -> None:
    public = PrivateKey(bytes([seed]) * 32).public_key
    point = public.to_bytes()
    expected = hashlib.sha256(b"keyturn-kms-root/1\0" + ED25519 + public.to_compressed_bytes()).digest()
    assert binding.read(world.web3, raw(world, "kmsIdOf", (ED25519, point[:32], point[32:]))) == expected


def test_anchors_are_contiguous(world: World) -> None:
    world.govern(node_call(world))
    send = binding.send
    for from_seq, to_seq in ((0, 1), (2, 3), (1, 0)):
        call = policy.anchor(world.registry, signed(world, from_seq, to_seq))
        assert world.refused(call, by=world.stranger) == "SequenceGap"
    send(world.web3, world.stranger, policy.anchor(world.registry, signed(world, 1, 5)))
    for from_seq, to_seq in ((1, 5), (5, 6), (7, 8)):
        call = policy.anchor(world.registry, signed(world, from_seq, to_seq))
        assert world.refused(call, by=world.stranger) == "SequenceGap"
    send(world.web3, world.guardian, policy.anchor(world.registry, signed(world, 6, 6)))
    words = binding.read_words(world.web3, world.registry, layout.kms_node_slots(KMS_ID), block="latest")
    assert layout.decode_kms_node(words).last_seq == 6


def test_anchor_signed_by_another_key_is_refused(world: World) -> None:
    world.govern(node_call(world))
    call = policy.anchor(world.registry, signed(world, 1, 5, OTHER_KEY))
    assert world.refused(call, by=world.stranger) == "WrongSigner"


def test_anchor_with_any_other_field_than_signed_is_refused(world: World) -> None:
    world.govern(node_call(world))
    good = signed(world, 1, 5)
    for changed in (
        Anchor(kms_id=KMS_ID, from_seq=1, to_seq=6, root=ROOT, signature=good.signature),
        Anchor(kms_id=KMS_ID, from_seq=1, to_seq=5, root=DIGEST, signature=good.signature),
    ):
        assert world.refused(policy.anchor(world.registry, changed), by=world.stranger) == "WrongSigner"
    for signature in (good.signature[:64], good.signature[:64] + b"\x05", b""):
        call = raw(world, "anchorReceipts", KMS_ID, 1, 5, ROOT, signature)
        assert world.refused(call, by=world.stranger).startswith("ECDSAInvalidSignature")


def test_anchor_signed_for_another_registry_is_refused(world: World) -> None:
    other = binding.deploy(
        world.web3,
        world.stranger,
        proposer=world.proposer.address,
        guardian=world.guardian.address,
        delay_seconds=DELAY,
    )
    world.govern(node_call(world))
    digest = binding.read(
        world.web3,
        Call(
            contract=ContractName.REGISTRY,
            target=other.registry,
            function="anchorDigest",
            arguments=(KMS_ID, 1, 5, ROOT),
        ),
    )
    signature = NODE_KEY.sign_msg_hash(digest).to_bytes()
    signature = signature[:64] + bytes([signature[64] + 27])
    call = raw(world, "anchorReceipts", KMS_ID, 1, 5, ROOT, signature)
    assert world.refused(call, by=world.stranger) == "WrongSigner"


def test_anchor_of_a_zero_root_is_refused(world: World) -> None:
    world.govern(node_call(world))
    call = raw(world, "anchorReceipts", KMS_ID, 1, 5, bytes(32), b"\1" * 65)
    assert world.refused(call, by=world.stranger) == "ZeroValue"


def test_anchor_of_a_node_that_is_unknown_revoked_or_not_yet_admitted_is_refused(world: World) -> None:
    batch = policy.anchor(world.registry, signed(world, 1, 5))
    assert world.refused(batch, by=world.stranger) == "NodeNotAllowed"
    world.govern(node_call(world, Period(not_before=world.now() + 10 * DELAY)))
    assert world.refused(batch, by=world.stranger) == "NodeNotAllowed"
    world.chain.skip_time(10 * DELAY)
    binding.send(world.web3, world.stranger, batch)
    world.guard(policy.revoke(world.registry, RegistryList.KMS_NODE, KMS_ID))
    call = policy.anchor(world.registry, signed(world, 6, 7))
    assert world.refused(call, by=world.stranger) == "NodeNotAllowed"


def test_readmitting_a_node_does_not_reset_its_sequence(world: World) -> None:
    world.govern(node_call(world))
    binding.send(world.web3, world.stranger, policy.anchor(world.registry, signed(world, 1, 5)))
    world.guard(policy.revoke(world.registry, RegistryList.KMS_NODE, KMS_ID))
    world.govern(node_call(world))
    call = policy.anchor(world.registry, signed(world, 1, 5))
    assert world.refused(call, by=world.stranger) == "SequenceGap"


def test_refusals_are_anchored_while_paused(world: World) -> None:
    world.govern(node_call(world))
    world.guard(policy.pause(ContractName.REGISTRY, world.registry))
    binding.send(world.web3, world.stranger, policy.anchor(world.registry, signed(world, 1, 1)))


def test_anchor_digest_is_eip712(world: World) -> None:
    message = encode_typed_data(
        domain_data={
            "name": "keyturn",
            "version": "1",
            "chainId": world.deployment.chain_id,
            "verifyingContract": world.web3.to_checksum_address(world.registry),
        },
        message_types={
            "Anchor": [
                {"name": "kmsId", "type": "bytes32"},
                {"name": "fromSeq", "type": "uint64"},
                {"name": "toSeq", "type": "uint64"},
                {"name": "root", "type": "bytes32"},
            ]
        },
        message_data={"kmsId": KMS_ID, "fromSeq": 1, "toSeq": 5, "root": ROOT},
    )
    digest = binding.read(world.web3, raw(world, "anchorDigest", KMS_ID, 1, 5, ROOT))
    assert digest == bytes(world.web3.keccak(b"\x19" + message.version + message.header + message.body))


def test_every_change_leaves_an_event(world: World) -> None:
    world.govern(policy.allow(world.registry, RegistryList.IMAGE, IMAGE))
    world.govern(policy.allow_reference(world.registry, DIGEST, IMAGE))
    world.govern(node_call(world))
    app = world.app()
    binding.send(world.web3, world.stranger, policy.anchor(world.registry, signed(world, 1, 2)))
    world.guard(policy.revoke(world.registry, RegistryList.IMAGE, IMAGE))
    world.guard(policy.pause(ContractName.REGISTRY, world.registry))
    world.govern(policy.resume(ContractName.REGISTRY, world.registry))
    events = policy.history(world.web3, ContractName.REGISTRY, world.registry)
    assert [event.name for event in events if not event.name.startswith("Role")] == [
        "Allowed",
        "Allowed",
        "ReferenceAllowed",
        "Allowed",
        "KmsNodeJoined",
        "Allowed",
        "AppCreated",
        "ReceiptsAnchored",
        "Revoked",
        "Paused",
        "Unpaused",
    ]
    anchored = next(event for event in events if event.name == "ReceiptsAnchored")
    assert anchored.arguments == {"kmsId": KMS_ID.hex(), "fromSeq": 1, "toSeq": 2, "root": ROOT.hex()}
    created = next(event for event in events if event.name == "AppCreated")
    assert str(created.arguments["app"]).lower() == app


def test_deployed_code_has_the_pinned_hash(world: World) -> None:
    app = world.app()
    for name, address in ((ContractName.REGISTRY, world.registry), (ContractName.APP, app)):
        code = bytes(world.web3.eth.get_code(world.web3.to_checksum_address(address)))
        assert bytes(world.web3.keccak(code)) == artefact(name).runtime_code_hash
