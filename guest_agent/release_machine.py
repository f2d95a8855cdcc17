"""The boot of an app as a pure state machine: what happened goes in, what to do next comes out.

A step is ``(state, input) -> (state, effects)``. The caller carries out the effects in their order and hands
back what came of them. Every stage takes exactly one kind of input, or ``Failed``; nothing is tried twice,
because a register that was extended cannot be taken back.

    stage     input             effects                                                              next
    IMAGE     ImageIdentified   extend dev-image (development only), read the config disk            CONFIG
    CONFIG    Configured        extend keyturn-boot, app-id, app-hash; then, for a KMS,
                                extend config-hash, instance-id, key-provider, request keys          KEYS
                                or, for tpm-seal, open the sealed root                               ROOT
    ROOT      RootOpened        extend config-hash, instance-id, key-provider, then as after keys    STORAGE
    KEYS      KeysReceived      prepare the disk; without one extend storage, boot-complete, start   STORAGE
    STORAGE   StorageReady      extend storage; if the KMS waits for it, confirm                     CONFIRM
                                otherwise as after the confirmation
    CONFIRM   Confirmed         open the owner's envelope if there is one                            ENVELOPE
                                otherwise extend boot-complete, start the workload                   RUNNING
    ENVELOPE  EnvelopeOpened    extend boot-complete, start the workload                             RUNNING
    RUNNING   WorkloadEnded     stop                                                                 ENDED
    any       Failed            give up                                                              ENDED

Order of events: docs/formats.md, "Runtime events". The keys are asked for between ``key-provider`` and
``storage``, so that the quote covers all that was decided before and nothing that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias

from measurements.errors import RefusedError
from measurements.runtime_events import (
    DEV_IMAGE,
    KeyProvider,
    KmsProvider,
    RuntimeEvent,
    Storage,
    app_hash_event,
    app_id_event,
    boot_complete_event,
    boot_event,
    config_hash_event,
    instance_id_event,
    key_provider_event,
    storage_event,
)


class MachineError(RefusedError):
    """An input that the stage does not take: a step left out, done twice or out of order."""

    code = "boot-order"


class Stage(Enum):
    """What the boot waits for."""

    IMAGE = "image"
    CONFIG = "config"
    ROOT = "root"
    KEYS = "keys"
    STORAGE = "storage"
    CONFIRM = "confirm"
    ENVELOPE = "envelope"
    RUNNING = "running"
    ENDED = "ended"


class ImageIdentified(NamedTuple):
    """The image's own facts are read."""

    dev: bool


class Configured(NamedTuple):
    """The config disk is read, parsed and fits the app manifest; ``storage`` says that the app has a disk,
    ``envelope`` that its owner sends secrets.
    """

    app_id: bytes
    app_hash: bytes
    config_hash: bytes
    instance_id: bytes
    key_provider: KeyProvider
    storage: bool
    envelope: bool


class RootOpened(NamedTuple):
    """The sealed root is there; ``made`` in this boot, or in an earlier one."""

    made: bool


class KeysReceived(NamedTuple):
    """The KMS's answer holds, the receipt is checked."""

    format_permitted: bool


class StorageReady(NamedTuple):
    """The encrypted disk is open."""

    storage: Storage


class Confirmed(NamedTuple):
    """The KMS signed that the instance's disk is formatted."""


class EnvelopeOpened(NamedTuple):
    """The owner's envelope holds, is not an old one, and is remembered."""


class WorkloadEnded(NamedTuple):
    """The containers ended, or the machine was told to stop."""

    reason: str


class Failed(NamedTuple):
    """An effect failed."""

    reason: str


Input: TypeAlias = (
    ImageIdentified
    | Configured
    | RootOpened
    | KeysReceived
    | StorageReady
    | Confirmed
    | EnvelopeOpened
    | WorkloadEnded
    | Failed
)


class Action(Enum):
    """Effects that need no more than their name."""

    READ_CONFIG = "read the config disk, once"
    OPEN_ROOT = "unseal the root, or make and seal it if this TPM has none"
    REQUEST_KEYS = "quote, and ask the KMS"
    CONFIRM_FORMAT = "tell the KMS that the disk is formatted"
    OPEN_ENVELOPE = "check and open the owner's envelope, remember its counter"
    START_WORKLOAD = "start the containers"


class Extend(NamedTuple):
    """Log and extend one event."""

    event: RuntimeEvent


class PrepareStorage(NamedTuple):
    """Open the encrypted disk; format it only if that is permitted and it is blank."""

    may_format: bool


class Stop(NamedTuple):
    """Power off as wanted."""

    reason: str


class GiveUp(NamedTuple):
    """Say why, and power off."""

    reason: str


Effect: TypeAlias = Action | Extend | PrepareStorage | Stop | GiveUp
Effects: TypeAlias = tuple[Effect, ...]


class State(NamedTuple):
    """How far the boot is; ``may_format`` is what the key provider granted."""

    stage: Stage = Stage.IMAGE
    configured: Configured | None = None
    may_format: bool = False


def step(state: State, happened: Input) -> tuple[State, Effects]:
    """The next state, and what to do. Raises ``MachineError`` for an input that ``state`` does not take, and
    ``RuntimeEventError`` for facts that are no identities.
    """
    if state.stage is Stage.ENDED:
        raise _error(f"{_name(happened)} after the end")
    if isinstance(happened, Failed):
        return state._replace(stage=Stage.ENDED), (GiveUp(happened.reason),)
    kind, advance = _STEPS[state.stage]
    if type(happened) is not kind:
        raise _error(f"{_name(happened)} while waiting for {kind.__name__}")
    return advance(state, happened)


def _identified(state: State, happened: ImageIdentified) -> tuple[State, Effects]:
    marker: Effects = (Extend(DEV_IMAGE),) if happened.dev else ()
    return state._replace(stage=Stage.CONFIG), (*marker, Action.READ_CONFIG)


def _configured(state: State, happened: Configured) -> tuple[State, Effects]:
    code: Effects = (
        Extend(boot_event()),
        Extend(app_id_event(happened.app_id)),
        Extend(app_hash_event(happened.app_hash)),
    )
    # Facts that cannot be measured are refused before anything is extended.
    rest = _host_events(happened)
    if isinstance(happened.key_provider, KmsProvider):
        return state._replace(stage=Stage.KEYS, configured=happened), (*code, *rest, Action.REQUEST_KEYS)
    return state._replace(stage=Stage.ROOT, configured=happened), (*code, Action.OPEN_ROOT)


def _root_opened(state: State, happened: RootOpened) -> tuple[State, Effects]:
    state, effects = _with_keys(state, may_format=happened.made)
    return state, (*_host_events(_facts(state)), *effects)


def _keys_received(state: State, happened: KeysReceived) -> tuple[State, Effects]:
    return _with_keys(state, may_format=happened.format_permitted)


def _with_keys(state: State, *, may_format: bool) -> tuple[State, Effects]:
    if _facts(state).storage:
        return state._replace(stage=Stage.STORAGE, may_format=may_format), (PrepareStorage(may_format),)
    if _facts(state).envelope:
        raise _error("there is an envelope, and no disk that remembers it")
    return state._replace(stage=Stage.RUNNING), (Extend(storage_event(Storage.NONE)), *_start())


def _storage_ready(state: State, happened: StorageReady) -> tuple[State, Effects]:
    if happened.storage is Storage.NONE:
        raise _error("the app has a disk, and none was opened")
    if happened.storage is Storage.FORMATTED and not state.may_format:
        raise _error("the disk was formatted without permission")
    measured = Extend(storage_event(happened.storage))
    # An opened disk is confirmed, too: an earlier boot may have formatted it and been cut off.
    if state.may_format and isinstance(_facts(state).key_provider, KmsProvider):
        return state._replace(stage=Stage.CONFIRM), (measured, Action.CONFIRM_FORMAT)
    state, effects = _with_disk(state)
    return state, (measured, *effects)


def _confirmed(state: State, happened: Confirmed) -> tuple[State, Effects]:
    return _with_disk(state)


def _with_disk(state: State) -> tuple[State, Effects]:
    if _facts(state).envelope:
        return state._replace(stage=Stage.ENVELOPE), (Action.OPEN_ENVELOPE,)
    return state._replace(stage=Stage.RUNNING), _start()


def _envelope_opened(state: State, happened: EnvelopeOpened) -> tuple[State, Effects]:
    return state._replace(stage=Stage.RUNNING), _start()


def _workload_ended(state: State, happened: WorkloadEnded) -> tuple[State, Effects]:
    return state._replace(stage=Stage.ENDED), (Stop(happened.reason),)


def _start() -> Effects:
    return (Extend(boot_complete_event()), Action.START_WORKLOAD)


def _host_events(facts: Configured) -> Effects:
    return (
        Extend(config_hash_event(facts.config_hash)),
        Extend(instance_id_event(facts.instance_id)),
        Extend(key_provider_event(facts.key_provider)),
    )


def _facts(state: State) -> Configured:
    if state.configured is None:
        raise _error("there is no configuration")
    return state.configured


_STEPS: dict[Stage, tuple[type[tuple[object, ...]], Callable[..., tuple[State, Effects]]]] = {
    Stage.IMAGE: (ImageIdentified, _identified),
    Stage.CONFIG: (Configured, _configured),
    Stage.ROOT: (RootOpened, _root_opened),
    Stage.KEYS: (KeysReceived, _keys_received),
    Stage.STORAGE: (StorageReady, _storage_ready),
    Stage.CONFIRM: (Confirmed, _confirmed),
    Stage.ENVELOPE: (EnvelopeOpened, _envelope_opened),
    Stage.RUNNING: (WorkloadEnded, _workload_ended),
}


def _name(happened: Input) -> str:
    return type(happened).__name__


def _error(reason: str) -> MachineError:
    return MachineError(reason, subject="boot", advice="report this as a bug; the machine must not go on")
