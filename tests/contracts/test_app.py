"""KeyturnApp on a real node: roles, upgrade modes, devices, epoch."""

from __future__ import annotations

import pytest

from contracts import binding, layout, policy
from contracts.artefacts import ContractName
from contracts.binding import AppSettings, Call, ContractRefusedError
from contracts.layout import UpgradeMode
from contracts.policy import AppList, Period
from contracts.signers import KeySigner
from tests.contracts.conftest import DELAY, World

HASH = b"\x44" * 32
OTHER = b"\x45" * 32
SLOTS = {
    AppList.APP_HASH: layout.app_hash_slots,
    AppList.IMAGE: layout.app_image_slots,
    AppList.DEVICE: layout.device_slots,
}
DELAYED = AppSettings(mode=UpgradeMode.DELAYED, notice_seconds=1000)


def entry(world: World, app: str, which: AppList, identifier: bytes = HASH) -> layout.Entry:
    words = binding.read_words(world.web3, app, SLOTS[which](identifier), block="latest")
    return layout.decode_entry(words)


def state(world: World, app: str) -> layout.AppState:
    words = binding.read_words(world.web3, app, layout.app_state_slots(), block="latest")
    return layout.decode_app_state(words)


def app_call(app: str, function: str, *arguments: object) -> Call:
    return Call(contract=ContractName.APP, target=app, function=function, arguments=arguments)


def outsiders(world: World) -> tuple[KeySigner, ...]:
    return (world.stranger, world.guardian, world.proposer)


@pytest.mark.parametrize("which", list(AppList))
def test_additions_pass_the_timelock_only(world: World, which: AppList) -> None:
    app = world.app()
    call = policy.allow_in_app(app, which, HASH)
    for signer in outsiders(world):
        assert world.refused(call, by=signer) == "AccessControlUnauthorizedAccount"
    before = state(world, app).policy_version
    world.govern(call)
    assert entry(world, app, which).holds_at(world.now())
    assert state(world, app).policy_version == before + 1
    others = set(AppList) - {which}
    assert all(entry(world, app, other) == layout.Entry.ABSENT for other in others)


@pytest.mark.parametrize("which", list(AppList))
def test_revoke_is_immediate(world: World, which: AppList) -> None:
    app = world.app()
    world.govern(policy.allow_in_app(app, which, HASH))
    call = policy.revoke_in_app(app, which, HASH)
    for signer in (world.stranger, world.proposer):
        assert world.refused(call, by=signer) == "AccessControlUnauthorizedAccount"
    before = state(world, app).policy_version
    world.guard(call)
    assert entry(world, app, which).revoked
    assert state(world, app).policy_version == before + 1
    assert world.refused(call, by=world.guardian) == "AlreadyRevoked"


@pytest.mark.parametrize("which", list(AppList))
def test_zero_unknown_and_empty_are_refused(world: World, which: AppList) -> None:
    app = world.app()
    end = layout.NEVER
    assert world.refused_by_governor(app_call(app, "allow", int(which), bytes(32), 0, end)) == "ZeroValue"
    assert world.refused(policy.revoke_in_app(app, which, HASH), by=world.guardian) == "UnknownEntry"
    ended = policy.allow_in_app(app, which, HASH, Period(not_before=0, not_after=world.now()))
    assert world.refused_by_governor(ended) == "EmptyPeriod"


def test_pause_is_immediate_and_resuming_passes_the_timelock(world: World) -> None:
    app = world.app()
    pause, resume = policy.pause(ContractName.APP, app), policy.resume(ContractName.APP, app)
    for signer in (world.stranger, world.proposer):
        assert world.refused(pause, by=signer) == "AccessControlUnauthorizedAccount"
    world.guard(pause)
    assert state(world, app).paused
    for signer in outsiders(world):
        assert world.refused(resume, by=signer) == "AccessControlUnauthorizedAccount"
    world.govern(resume)
    assert not state(world, app).paused


def test_epoch_is_bumped_at_once_and_by_the_guardian_only(world: World) -> None:
    app = world.app()
    assert state(world, app).epoch == 1
    for signer in (world.stranger, world.proposer):
        assert world.refused(policy.bump_epoch(app), by=signer) == "AccessControlUnauthorizedAccount"
    before = state(world, app).policy_version
    world.guard(policy.bump_epoch(app))
    assert (state(world, app).epoch, state(world, app).policy_version) == (2, before + 1)


def test_expiry_moves_through_the_timelock_only(world: World) -> None:
    app = world.app()
    call = app_call(app, "setExpiry", world.now() + 10**6)
    for signer in outsiders(world):
        assert world.refused(call, by=signer) == "AccessControlUnauthorizedAccount"
    world.govern(call)
    assert state(world, app).expiry == call.arguments[0]
    assert world.refused_by_governor(app_call(app, "setExpiry", world.now())) == "EmptyPeriod"


def test_an_app_that_has_already_ended_is_refused(world: World) -> None:
    with pytest.raises(ContractRefusedError, match="EmptyPeriod"):
        world.app(AppSettings(expiry=world.now()))


def test_tcb_rule_passes_the_timelock_only(world: World) -> None:
    app = world.app()
    call = app_call(app, "setTcbRule", HASH)
    for signer in outsiders(world):
        assert world.refused(call, by=signer) == "AccessControlUnauthorizedAccount"
    world.govern(call)
    words = binding.read_words(world.web3, app, layout.tcb_rule_slots(), block="latest")
    assert layout.decode_tcb_rule(words) == HASH
    assert world.refused_by_governor(app_call(app, "setTcbRule", bytes(32))) == "ZeroValue"


def test_any_device_is_explicit_slow_to_allow_and_instant_to_end(world: World) -> None:
    app = world.app()
    assert not state(world, app).any_device
    allow, end = app_call(app, "allowAnyDevice"), app_call(app, "requireListedDevice")
    for signer in outsiders(world):
        assert world.refused(allow, by=signer) == "AccessControlUnauthorizedAccount"
    assert world.refused(end, by=world.guardian) == "AlreadySet"
    world.govern(allow)
    assert state(world, app).any_device
    for signer in (world.stranger, world.proposer):
        assert world.refused(end, by=signer) == "AccessControlUnauthorizedAccount"
    world.guard(end)
    assert not state(world, app).any_device


def test_a_delayed_app_accepts_code_only_after_its_notice(world: World) -> None:
    app = world.app(DELAYED)
    for which in (AppList.APP_HASH, AppList.IMAGE):
        early = Period(not_before=world.now() + DELAY + 500)
        assert world.refused_by_governor(policy.allow_in_app(app, which, HASH, early)) == "NoticeTooShort"
        assert world.refused_by_governor(policy.allow_in_app(app, which, HASH)) == "NoticeTooShort"
        late = Period(not_before=world.now() + 10 * DELAY + 1000)
        world.govern(policy.allow_in_app(app, which, HASH, late))
        assert not entry(world, app, which).holds_at(world.now())
        assert entry(world, app, which).holds_at(late.not_before)
    world.govern(policy.allow_in_app(app, AppList.DEVICE, HASH))


def test_a_delayed_app_renews_accepted_code_without_a_gap(world: World) -> None:
    app = world.app(DELAYED)
    first = Period(not_before=world.now() + DELAY + 2000, not_after=world.now() + 5000)
    world.govern(policy.allow_in_app(app, AppList.APP_HASH, HASH, first))
    renewed = Period(not_before=first.not_before, not_after=first.not_after + 1000)
    world.chain.skip_time(3000)
    world.govern(policy.allow_in_app(app, AppList.APP_HASH, HASH, renewed))
    assert entry(world, app, AppList.APP_HASH).not_after == renewed.not_after
    sooner = Period(not_before=first.not_before - 1, not_after=renewed.not_after)
    assert (
        world.refused_by_governor(policy.allow_in_app(app, AppList.APP_HASH, HASH, sooner))
        == "NoticeTooShort"
    )
    later = Period(not_before=first.not_before, not_after=renewed.not_after + 10_000)
    world.guard(policy.revoke_in_app(app, AppList.APP_HASH, HASH))
    call = policy.allow_in_app(app, AppList.APP_HASH, HASH, later)
    assert world.refused_by_governor(call) == "NoticeTooShort"


def test_a_delayed_app_takes_ended_code_as_new(world: World) -> None:
    app = world.app(DELAYED)
    first = Period(not_before=world.now() + DELAY + 2000, not_after=world.now() + 5000)
    world.govern(policy.allow_in_app(app, AppList.APP_HASH, HASH, first))
    world.chain.skip_time(6000)
    again = policy.allow_in_app(app, AppList.APP_HASH, HASH, Period(not_before=first.not_before))
    assert world.refused_by_governor(again) == "NoticeTooShort"


def test_a_delayed_app_without_notice_is_refused(world: World) -> None:
    with pytest.raises(ContractRefusedError, match="NoticeTooShort"):
        world.app(AppSettings(mode=UpgradeMode.DELAYED))


def test_frozen_stays_frozen(world: World) -> None:
    app = world.app()
    world.govern(policy.allow_in_app(app, AppList.APP_HASH, HASH))
    freeze = policy.tighten(app, UpgradeMode.FROZEN, 0)
    for signer in outsiders(world):
        assert world.refused(freeze, by=signer) == "AccessControlUnauthorizedAccount"
    world.govern(freeze)
    for which in (AppList.APP_HASH, AppList.IMAGE):
        for identifier in (HASH, OTHER):
            assert world.refused_by_governor(policy.allow_in_app(app, which, identifier)) == "Frozen"
    for mode in (UpgradeMode.MUTABLE, UpgradeMode.DELAYED):
        assert world.refused_by_governor(policy.tighten(app, mode, 1000)) == "Loosened"
    assert entry(world, app, AppList.APP_HASH).holds_at(world.now())
    world.guard(policy.revoke_in_app(app, AppList.APP_HASH, HASH))
    assert world.refused_by_governor(policy.allow_in_app(app, AppList.APP_HASH, HASH)) == "Frozen"
    assert state(world, app).upgrade_mode is UpgradeMode.FROZEN


def test_an_addition_proposed_before_freezing_is_refused_after(world: World) -> None:
    app = world.app()
    addition = policy.allow_in_app(app, AppList.APP_HASH, HASH)
    binding.propose(world.web3, world.proposer, timelock=world.timelock, call=addition)
    world.govern(policy.tighten(app, UpgradeMode.FROZEN, 0))
    with pytest.raises(ContractRefusedError, match="Frozen"):
        binding.execute(world.web3, world.stranger, timelock=world.timelock, call=addition)


def test_a_frozen_app_still_loses_rights_and_takes_devices(world: World) -> None:
    app = world.app(AppSettings(mode=UpgradeMode.FROZEN))
    world.govern(policy.allow_in_app(app, AppList.DEVICE, HASH))
    world.guard(policy.revoke_in_app(app, AppList.DEVICE, HASH))
    world.guard(policy.pause(ContractName.APP, app))
    world.guard(policy.bump_epoch(app))


def test_upgrade_rules_never_get_looser(world: World) -> None:
    app = world.app(DELAYED)
    assert world.refused_by_governor(policy.tighten(app, UpgradeMode.MUTABLE, 1000)) == "Loosened"
    assert world.refused_by_governor(policy.tighten(app, UpgradeMode.DELAYED, 999)) == "Loosened"
    assert world.refused_by_governor(policy.tighten(app, UpgradeMode.DELAYED, 1000)) == "AlreadySet"
    world.govern(policy.tighten(app, UpgradeMode.DELAYED, 2000))
    assert state(world, app).notice_seconds == 2000
    mutable = world.app()
    assert world.refused_by_governor(policy.tighten(mutable, UpgradeMode.DELAYED, 0)) == "NoticeTooShort"


def test_every_change_leaves_an_event(world: World) -> None:
    app = world.app()
    world.govern(policy.allow_in_app(app, AppList.APP_HASH, HASH))
    world.guard(policy.revoke_in_app(app, AppList.APP_HASH, HASH))
    world.guard(policy.bump_epoch(app))
    world.guard(policy.pause(ContractName.APP, app))
    world.govern(policy.resume(ContractName.APP, app))
    world.govern(app_call(app, "setExpiry", layout.NEVER - 1))
    world.govern(app_call(app, "setTcbRule", HASH))
    world.govern(app_call(app, "allowAnyDevice"))
    world.govern(policy.tighten(app, UpgradeMode.DELAYED, 60))
    events = [
        event
        for event in policy.history(world.web3, ContractName.APP, app)
        if not event.name.startswith("Role")
    ]
    assert [event.name for event in events] == [
        "UpgradeModeSet",
        "ExpirySet",
        "AnyDeviceSet",
        "Allowed",
        "Revoked",
        "EpochBumped",
        "Paused",
        "Unpaused",
        "ExpirySet",
        "TcbRuleSet",
        "AnyDeviceSet",
        "UpgradeModeSet",
    ]
    versions = [event.arguments["policyVersion"] for event in events]
    assert versions == [1, 1, *range(1, 11)]
    assert events[4].arguments == {"list": 0, "id": HASH.hex(), "policyVersion": 3}


def test_roles_change_through_the_timelock_only(world: World) -> None:
    app = world.app()
    call = app_call(app, "grantRole", binding.role("GUARDIAN_ROLE"), world.stranger.address)
    for signer in outsiders(world):
        assert world.refused(call, by=signer) == "AccessControlUnauthorizedAccount"
    world.govern(call)
    binding.send(world.web3, world.stranger, policy.bump_epoch(app))


@pytest.mark.parametrize("role", [binding.role("GOVERNOR_ROLE"), binding.DEFAULT_ADMIN_ROLE])
def test_the_right_to_add_goes_to_timelocks_only(world: World, role: bytes) -> None:
    app = world.app()
    for who, error in (
        (world.stranger.address, "GovernorIsNoTimelock"),
        (world.web3.to_checksum_address(app), "FailedCall"),
    ):
        call = app_call(app, "grantRole", role, who)
        assert world.refused_by_governor(call) == error
        has = app_call(app, "hasRole", role, who)
        assert binding.read(world.web3, has) is False
    zero = app_call(app, "grantRole", binding.role("GUARDIAN_ROLE"), "0x" + "00" * 20)
    assert world.refused_by_governor(zero) == "ZeroValue"
    other = binding.deploy_timelock(
        world.web3,
        world.stranger,
        proposer=world.proposer.address,
        guardian=world.guardian.address,
        delay_seconds=DELAY,
    )
    world.govern(app_call(app, "grantRole", role, other))
    assert binding.read(world.web3, app_call(app, "hasRole", role, other)) is True
