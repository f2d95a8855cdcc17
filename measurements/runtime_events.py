"""Runtime events: what the guest itself extends after the firmware and the kernel are done (PCR 14 on TPM
systems), and the only order in which they may come.

The digest of an event, with ``H`` the hash of the bank (design 5; replays with existing dstack tools)::

    H(u32le(0x08000001) ‖ ":" ‖ name ‖ ":" ‖ payload)      name: [a-z0-9-]+, payload: any bytes

Names hold no colon, so the concatenation is unambiguous. Payloads (docs/formats.md, "Runtime events"), in
their order; integers are big-endian::

    dev-image      empty; development images only
    keyturn-boot   "1"
    app-id         20 bytes
    app-hash       32 bytes
    config-hash    32 bytes
    instance-id    16 bytes
    key-provider   0x01 ‖ KMS root key hash (32) ‖ u64 chain id ‖ contract (20), or
                   0x02 ‖ u64 chain id ‖ contract (20)
    ------------   the quote for key release is taken here
    storage        "none", "aead-hmac:formatted" or "aead-hmac:opened"
    boot-complete  empty; the app's own events follow

The module ships in the guest: standard library only, and named tuples instead of data classes because
importing ``dataclasses`` costs the guest more time than everything else the agent does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from measurements.errors import FormatError, RefusedError

EVENT_TYPE = 0x08000001
"""Type of a runtime event, hashed as four bytes, little-endian."""

RUNTIME_PCR = 14
"""The register of runtime events on TPM systems."""

RUNTIME_BANKS = ("sha256", "sha384")
"""The banks that the guest extends."""

FORMAT_VERSION = b"1"
APP_ID_SIZE = 20
CONTRACT_SIZE = 20
HASH_SIZE = 32
INSTANCE_ID_SIZE = 16

_NAME = re.compile(r"[a-z0-9-]+")
_KMS_TAG = b"\x01"
_TPM_SEAL_TAG = b"\x02"


class RuntimeEventError(FormatError):
    """A runtime event that is not well formed."""

    code = "runtime-event"


class RuntimeLogError(RefusedError):
    """Runtime events that are not exactly those of a boot, in their order."""

    code = "runtime-log"


class RuntimeEvent(NamedTuple):
    """One event: its name and the raw payload."""

    name: str
    payload: bytes


class EventName(StrEnum):
    """The names that the agent extends; an app may not use them for its own events."""

    DEV_IMAGE = "dev-image"
    BOOT = "keyturn-boot"
    APP_ID = "app-id"
    APP_HASH = "app-hash"
    CONFIG_HASH = "config-hash"
    INSTANCE_ID = "instance-id"
    KEY_PROVIDER = "key-provider"
    STORAGE = "storage"
    BOOT_COMPLETE = "boot-complete"


class Storage(StrEnum):
    """What became of the encrypted disk in this boot; the values are the payloads."""

    NONE = "none"
    FORMATTED = "aead-hmac:formatted"
    OPENED = "aead-hmac:opened"


class KmsProvider(NamedTuple):
    """Keys come from the KMS with this root key (32-byte hash), under the contract (20 bytes) on a chain."""

    kms_root: bytes
    chain_id: int
    contract: bytes


class TpmSealProvider(NamedTuple):
    """Keys are made in the guest and sealed to its TPM: a KMS, with the contract (20 bytes) it serves."""

    chain_id: int
    contract: bytes


KeyProvider = KmsProvider | TpmSealProvider


class ReleaseFacts(NamedTuple):
    """What the log says when keys are asked for; ``dev`` marks a development image."""

    dev: bool
    app_id: bytes
    app_hash: bytes
    config_hash: bytes
    instance_id: bytes
    key_provider: KeyProvider


class FullFacts(NamedTuple):
    """What the log says once the workload runs: the first part, the disk, and the app's own events."""

    release: ReleaseFacts
    storage: Storage
    app_events: tuple[RuntimeEvent, ...]


DEV_IMAGE = RuntimeEvent(EventName.DEV_IMAGE.value, b"")
"""Extended first, and only, by images with ``[image] dev = true``."""

_RELEASE_ORDER = (
    EventName.BOOT,
    EventName.APP_ID,
    EventName.APP_HASH,
    EventName.CONFIG_HASH,
    EventName.INSTANCE_ID,
    EventName.KEY_PROVIDER,
)
_LATER_ORDER = (EventName.STORAGE, EventName.BOOT_COMPLETE)
_RESERVED = frozenset(name.value for name in EventName)


def boot_event() -> RuntimeEvent:
    """``keyturn-boot``: the version of this format."""
    return RuntimeEvent(EventName.BOOT.value, FORMAT_VERSION)


def app_id_event(app_id: bytes) -> RuntimeEvent:
    """``app-id``: 20 bytes. Like all of these, raises ``RuntimeEventError`` for a wrong length or zeros."""
    return RuntimeEvent(EventName.APP_ID.value, _identity(app_id, APP_ID_SIZE, EventName.APP_ID))


def app_hash_event(app_hash: bytes) -> RuntimeEvent:
    """``app-hash``: 32 bytes."""
    return RuntimeEvent(EventName.APP_HASH.value, _identity(app_hash, HASH_SIZE, EventName.APP_HASH))


def config_hash_event(config_hash: bytes) -> RuntimeEvent:
    """``config-hash``: 32 bytes, SHA-256 of the whole configuration of the host."""
    return RuntimeEvent(EventName.CONFIG_HASH.value, _identity(config_hash, HASH_SIZE, EventName.CONFIG_HASH))


def instance_id_event(instance_id: bytes) -> RuntimeEvent:
    """``instance-id``: 16 bytes."""
    payload = _identity(instance_id, INSTANCE_ID_SIZE, EventName.INSTANCE_ID)
    return RuntimeEvent(EventName.INSTANCE_ID.value, payload)


def key_provider_event(provider: KeyProvider) -> RuntimeEvent:
    """``key-provider``: who gives the app its keys."""
    governed = _chain_id(provider.chain_id) + _identity(
        provider.contract, CONTRACT_SIZE, EventName.KEY_PROVIDER
    )
    if isinstance(provider, KmsProvider):
        payload = _KMS_TAG + _identity(provider.kms_root, HASH_SIZE, EventName.KEY_PROVIDER) + governed
    else:
        payload = _TPM_SEAL_TAG + governed
    return RuntimeEvent(EventName.KEY_PROVIDER.value, payload)


def storage_event(storage: Storage) -> RuntimeEvent:
    """``storage``: what became of the encrypted disk."""
    return RuntimeEvent(EventName.STORAGE.value, storage.value.encode("ascii"))


def boot_complete_event() -> RuntimeEvent:
    """``boot-complete``: the agent is done; events after it are the app's."""
    return RuntimeEvent(EventName.BOOT_COMPLETE.value, b"")


def event_digest(event: RuntimeEvent, *, algorithm: str) -> bytes:
    """Digest of ``event`` in the bank ``algorithm`` (``sha256`` or ``sha384``)."""
    if not _NAME.fullmatch(event.name):
        raise _event_error(
            f"name {event.name!r} is not of the form [a-z0-9-]+", "use lower-case letters, digits and hyphens"
        )
    data = EVENT_TYPE.to_bytes(4, "little") + b":" + event.name.encode("ascii") + b":" + event.payload
    return hashlib.new(algorithm, data).digest()


def replay_runtime_events(events: Iterable[RuntimeEvent]) -> dict[str, bytes]:
    """Value of the register after ``events``, by bank; without events it is zero."""
    registers = {bank: bytes(hashlib.new(bank).digest_size) for bank in RUNTIME_BANKS}
    for event in events:
        for bank, value in registers.items():
            digest = event_digest(event, algorithm=bank)
            registers[bank] = hashlib.new(bank, value + digest).digest()
    return registers


def parse_release_log(events: Sequence[RuntimeEvent]) -> ReleaseFacts:
    """Facts of a log that must end where the quote for key release is taken.

    Raises ``RuntimeLogError`` for anything but the first part, each event once, in its order.
    """
    facts, later = _release_part(events)
    if later:
        raise _log_error(f"goes on with {later[0].name!r} after {EventName.KEY_PROVIDER.value}")
    return facts


def parse_full_log(events: Sequence[RuntimeEvent]) -> FullFacts:
    """Facts of the log of a running workload: both parts, then the app's own events.

    Raises ``RuntimeLogError`` for anything else.
    """
    facts, later = _release_part(events)
    payloads = _in_order(later, _LATER_ORDER)
    storage = next((known for known in Storage if known.value.encode("ascii") == payloads[0]), None)
    if storage is None:
        raise _log_error(f"has the unknown storage {payloads[0]!r}")
    if payloads[1]:
        raise _log_error(f"has a payload in {EventName.BOOT_COMPLETE.value}")
    app_events = tuple(later[len(_LATER_ORDER) :])
    for event in app_events:
        if event.name in _RESERVED or not _NAME.fullmatch(event.name):
            raise _log_error(f"has the event {event.name!r} after {EventName.BOOT_COMPLETE.value}")
    return FullFacts(release=facts, storage=storage, app_events=app_events)


def _release_part(events: Sequence[RuntimeEvent]) -> tuple[ReleaseFacts, Sequence[RuntimeEvent]]:
    """Facts of the first part, and the events after it."""
    dev = bool(events) and events[0].name == DEV_IMAGE.name
    if dev and events[0] != DEV_IMAGE:
        raise _log_error(f"has a payload in {DEV_IMAGE.name}")
    rest = events[1:] if dev else events
    version, app_id, app_hash, config_hash, instance_id, provider = _in_order(rest, _RELEASE_ORDER)
    if version != FORMAT_VERSION:
        raise _log_error(f"has the format version {version!r}, not {FORMAT_VERSION!r}")
    try:
        facts = ReleaseFacts(
            dev=dev,
            app_id=_identity(app_id, APP_ID_SIZE, EventName.APP_ID),
            app_hash=_identity(app_hash, HASH_SIZE, EventName.APP_HASH),
            config_hash=_identity(config_hash, HASH_SIZE, EventName.CONFIG_HASH),
            instance_id=_identity(instance_id, INSTANCE_ID_SIZE, EventName.INSTANCE_ID),
            key_provider=parse_key_provider(provider),
        )
    except RuntimeEventError as error:
        raise _log_error(error.reason) from error
    return facts, rest[len(_RELEASE_ORDER) :]


def _in_order(events: Sequence[RuntimeEvent], names: Sequence[EventName]) -> list[bytes]:
    """Payloads of the first events, which must have exactly these names."""
    for position, name in enumerate(names):
        if position == len(events):
            raise _log_error(f"ends before {name.value}")
        if events[position].name != name.value:
            raise _log_error(f"has {events[position].name!r} where {name.value} must be")
    return [event.payload for event in events[: len(names)]]


def parse_key_provider(payload: bytes) -> KeyProvider:
    """The provider in a payload of ``key-provider``; raises ``RuntimeEventError``."""
    tag, body = payload[:1], payload[1:]
    root_size = {_KMS_TAG: HASH_SIZE, _TPM_SEAL_TAG: 0}.get(tag)
    if root_size is None or len(body) != root_size + 8 + CONTRACT_SIZE:
        raise _event_error(
            f"{EventName.KEY_PROVIDER.value} is of no known form", "use a guest of this version"
        )
    kms_root, governed = body[:root_size], body[root_size:]
    chain_id = int.from_bytes(governed[:8], "big")
    _chain_id(chain_id)
    contract = _identity(governed[8:], CONTRACT_SIZE, EventName.KEY_PROVIDER)
    if tag == _TPM_SEAL_TAG:
        return TpmSealProvider(chain_id, contract)
    return KmsProvider(_identity(kms_root, HASH_SIZE, EventName.KEY_PROVIDER), chain_id, contract)


def _identity(value: bytes, size: int, name: EventName) -> bytes:
    """The value, if it has its size and is not zero: zeros name nobody."""
    if len(value) != size or not any(value):
        raise _event_error(
            f"{name.value} holds {value.hex() or 'nothing'}, not {size} bytes that are not all zero",
            "give the real value",
        )
    return value


def _chain_id(chain_id: int) -> bytes:
    if not 0 < chain_id < 1 << 64:
        raise _event_error(f"{EventName.KEY_PROVIDER.value} has chain id {chain_id}", "give the chain's id")
    return chain_id.to_bytes(8, "big")


def _event_error(reason: str, advice: str) -> RuntimeEventError:
    return RuntimeEventError(reason, subject="runtime event", advice=advice)


def _log_error(reason: str) -> RuntimeLogError:
    return RuntimeLogError(
        reason,
        subject="runtime events",
        advice="take the evidence again from a guest of this version; another order is no boot of it",
    )
