"""The boot of an app as a state machine: the only orders, and random ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.release_machine import (
    Action,
    Configured,
    Confirmed,
    Effect,
    EnvelopeOpened,
    Extend,
    Failed,
    GiveUp,
    ImageIdentified,
    Input,
    KeysReceived,
    MachineError,
    PrepareStorage,
    RootOpened,
    Stage,
    State,
    Stop,
    StorageReady,
    WorkloadEnded,
    step,
)
from measurements.errors import KeyturnError
from measurements.runtime_events import (
    EventName,
    KmsProvider,
    RuntimeEvent,
    RuntimeEventError,
    Storage,
    TpmSealProvider,
    parse_full_log,
    parse_release_log,
)

KMS = KmsProvider(b"\x04" * 32, 31337, b"\x05" * 20)
SEAL = TpmSealProvider(31337, b"\x05" * 20)
ORDER = [name.value for name in EventName]


def configured(
    *, provider: KmsProvider | TpmSealProvider = KMS, storage: bool = True, envelope: bool = False
) -> Configured:
    return Configured(
        app_id=b"\x01" * 20,
        app_hash=b"\x02" * 32,
        config_hash=b"\x03" * 32,
        instance_id=b"\x06" * 16,
        key_provider=provider,
        storage=storage,
        envelope=envelope,
    )


def run(*inputs: Input) -> tuple[State, list[Effect]]:
    state, effects = State(), list[Effect]()
    for happened in inputs:
        state, more = step(state, happened)
        effects += more
    return state, effects


def events(effects: list[Effect]) -> list[RuntimeEvent]:
    return [effect.event for effect in effects if isinstance(effect, Extend)]


def other(effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if not isinstance(effect, Extend)]


class TestFromStartToEnd:
    @pytest.mark.parametrize("dev", [False, True])
    def test_first_boot_with_a_kms(self, dev: bool) -> None:
        state, effects = run(
            ImageIdentified(dev),
            configured(),
            KeysReceived(format_permitted=True),
            StorageReady(Storage.FORMATTED),
            Confirmed(),
            WorkloadEnded("button"),
        )
        assert state.stage is Stage.ENDED
        assert other(effects) == [
            Action.READ_CONFIG,
            Action.REQUEST_KEYS,
            PrepareStorage(may_format=True),
            Action.CONFIRM_FORMAT,
            Action.START_WORKLOAD,
            Stop("button"),
        ]
        facts = parse_full_log(events(effects))
        assert (facts.release.dev, facts.storage) == (dev, Storage.FORMATTED)
        assert (
            effects.index(Extend(RuntimeEvent("boot-complete", b"")))
            == effects.index(Action.START_WORKLOAD) - 1
        )

    def test_the_quote_for_key_release_is_taken_at_the_end_of_the_first_part(self) -> None:
        _, effects = run(ImageIdentified(dev=False), configured())
        assert effects[-1] == Action.REQUEST_KEYS
        assert parse_release_log(events(effects)).key_provider == KMS

    def test_later_boot_opens_and_need_not_confirm(self) -> None:
        _, effects = run(
            ImageIdentified(dev=False),
            configured(),
            KeysReceived(format_permitted=False),
            StorageReady(Storage.OPENED),
        )
        assert other(effects)[-2:] == [PrepareStorage(may_format=False), Action.START_WORKLOAD]

    def test_a_lost_confirmation_is_made_up_for(self) -> None:
        _, effects = run(
            ImageIdentified(dev=False),
            configured(),
            KeysReceived(format_permitted=True),
            StorageReady(Storage.OPENED),
        )
        assert effects[-1] == Action.CONFIRM_FORMAT

    @pytest.mark.parametrize("confirmed", [False, True])
    def test_the_owner_s_envelope_is_opened_last_before_the_workload(self, confirmed: bool) -> None:
        inputs: list[Input] = [
            ImageIdentified(dev=False),
            configured(envelope=True),
            KeysReceived(format_permitted=not confirmed),
            StorageReady(Storage.OPENED),
            *([] if confirmed else [Confirmed()]),
        ]
        state, effects = run(*inputs)
        assert state.stage is Stage.ENVELOPE
        assert effects[-1] == Action.OPEN_ENVELOPE
        assert events(effects)[-1].name == "storage"
        state, effects = run(*inputs, EnvelopeOpened())
        assert state.stage is Stage.RUNNING
        assert effects[-2:] == [Extend(RuntimeEvent("boot-complete", b"")), Action.START_WORKLOAD]

    def test_an_app_without_a_disk(self) -> None:
        _, effects = run(
            ImageIdentified(dev=False), configured(storage=False), KeysReceived(format_permitted=True)
        )
        assert other(effects) == [Action.READ_CONFIG, Action.REQUEST_KEYS, Action.START_WORKLOAD]
        assert parse_full_log(events(effects)).storage is Storage.NONE

    def test_a_sealed_root_is_opened_right_after_the_app_hash(self) -> None:
        _, before = run(ImageIdentified(dev=False), configured(provider=SEAL))
        assert [event.name for event in events(before)] == ["keyturn-boot", "app-id", "app-hash"]
        assert before[-1] == Action.OPEN_ROOT

    @pytest.mark.parametrize("made", [False, True])
    def test_a_disk_under_a_sealed_root_is_formatted_with_the_root_only(self, made: bool) -> None:
        happened = StorageReady(Storage.FORMATTED if made else Storage.OPENED)
        _, effects = run(ImageIdentified(dev=False), configured(provider=SEAL), RootOpened(made), happened)
        assert other(effects) == [
            Action.READ_CONFIG,
            Action.OPEN_ROOT,
            PrepareStorage(made),
            Action.START_WORKLOAD,
        ]
        assert parse_full_log(events(effects)).release.key_provider == SEAL


class TestRefusals:
    @pytest.mark.parametrize("provider", [KMS, SEAL])
    def test_formatted_without_permission(self, provider: KmsProvider | TpmSealProvider) -> None:
        keys: Input = KeysReceived(format_permitted=False) if provider is KMS else RootOpened(made=False)
        state, _ = run(ImageIdentified(dev=False), configured(provider=provider), keys)
        with pytest.raises(MachineError, match="without permission"):
            step(state, StorageReady(Storage.FORMATTED))

    def test_an_envelope_without_a_disk_that_remembers_it(self) -> None:
        state, _ = run(ImageIdentified(dev=False), configured(storage=False, envelope=True))
        with pytest.raises(MachineError, match="no disk that remembers"):
            step(state, KeysReceived(format_permitted=True))

    def test_no_disk_where_one_is_wanted(self) -> None:
        state, _ = run(ImageIdentified(dev=False), configured(), KeysReceived(format_permitted=True))
        with pytest.raises(MachineError, match="none was opened"):
            step(state, StorageReady(Storage.NONE))

    @pytest.mark.parametrize(
        "zero",
        [
            facts
            for provider in (KMS, SEAL)
            for whole in (configured(provider=provider),)
            for facts in (
                whole._replace(app_id=bytes(20)),
                whole._replace(app_hash=bytes(32)),
                whole._replace(config_hash=bytes(32)),
                whole._replace(instance_id=bytes(16)),
            )
        ],
    )
    def test_a_zero_identity_extends_nothing(self, zero: Configured) -> None:
        state, _ = run(ImageIdentified(dev=False))
        with pytest.raises(RuntimeEventError):
            step(state, zero)

    def test_a_sealed_root_is_no_answer_of_a_kms(self) -> None:
        state, _ = run(ImageIdentified(dev=False), configured())
        with pytest.raises(MachineError, match="RootOpened while waiting for KeysReceived"):
            step(state, RootOpened(made=True))

    def test_nothing_follows_a_failure(self) -> None:
        state, effects = run(ImageIdentified(dev=True), Failed("no disk"))
        assert effects[-1] == GiveUp("no disk")
        for happened in (Failed("again"), configured(), Confirmed()):
            with pytest.raises(MachineError, match="after the end"):
                step(state, happened)


INPUTS = st.one_of(
    st.builds(ImageIdentified, st.booleans()),
    st.builds(
        configured, provider=st.sampled_from([KMS, SEAL]), storage=st.booleans(), envelope=st.booleans()
    ),
    st.builds(RootOpened, st.booleans()),
    st.builds(KeysReceived, st.booleans()),
    st.builds(StorageReady, st.sampled_from(Storage)),
    st.just(Confirmed()),
    st.just(EnvelopeOpened()),
    st.just(WorkloadEnded("button")),
    st.just(Failed("reason")),
)


def drive(inputs: list[Input]) -> list[Effect]:
    """Feed all inputs, leaving out those that are refused; the effects."""
    state, effects = State(), list[Effect]()
    for happened in inputs:
        try:
            state, more = step(state, happened)
        except KeyturnError:
            continue
        effects += more
    return effects


class TestAnyOrder:
    @given(st.lists(INPUTS, max_size=40))
    def test_events_come_in_their_order_each_once(self, inputs: list[Input]) -> None:
        names = [event.name for event in events(drive(inputs))]
        start = 0 if names[:1] == ["dev-image"] else 1
        assert names == ORDER[start : start + len(names)]

    @given(st.lists(INPUTS, max_size=40))
    def test_no_effect_comes_twice(self, inputs: list[Input]) -> None:
        kinds = [effect if isinstance(effect, Action) else type(effect) for effect in other(drive(inputs))]
        assert len(set(kinds)) == len(kinds)

    @given(st.lists(INPUTS, max_size=40))
    def test_a_workload_starts_only_with_a_whole_log(self, inputs: list[Input]) -> None:
        effects = drive(inputs)
        if Action.START_WORKLOAD in effects:
            parse_full_log(events(effects[: effects.index(Action.START_WORKLOAD)]))

    @given(st.lists(INPUTS, max_size=40))
    def test_the_workload_of_a_permitted_format_waits_for_the_confirmation(self, inputs: list[Input]) -> None:
        effects = drive(inputs)
        if Action.REQUEST_KEYS in effects and PrepareStorage(may_format=True) in effects:
            assert Action.START_WORKLOAD not in effects or Action.CONFIRM_FORMAT in effects

    @given(st.lists(INPUTS, max_size=40))
    def test_the_workload_of_an_app_with_an_envelope_waits_until_it_is_open(
        self, inputs: list[Input]
    ) -> None:
        effects = drive([ImageIdentified(dev=False), configured(envelope=True), *inputs])
        assert Action.START_WORKLOAD not in effects or Action.OPEN_ENVELOPE in effects

    @given(st.lists(INPUTS, max_size=40))
    def test_nothing_follows_the_end(self, inputs: list[Input]) -> None:
        effects = drive(inputs)
        ends = [index for index, effect in enumerate(effects) if isinstance(effect, Stop | GiveUp)]
        assert ends in ([], [len(effects) - 1])
