"""dstack's runtime events: what its guest extends into RTMR3, and the order of one boot.

An event has type 0x08000001, a name and a payload (``dstack/cc-eventlog/src/runtime_events.rs``). Its digest
is the hash of

- V1: ``u32le(type) ‖ ":" ‖ name ‖ ":" ‖ payload``. Nothing separates a name with a colon from a payload with
  one, so here names have none;
- V2 (``event_log_version`` 2 of the app): RFC 8785 JSON of ``name``, ``payload`` (hex) and ``type``.

Order of a boot (``dstack/dstack-util/src/system_setup.rs``): ``system-preparing``, ``rootfs-hash`` (images
before 0.5), ``app-id`` (20 bytes), ``compose-hash`` (32), ``init-script-hash`` (32, up to 5 of them; from
0.6), ``gpu-policy-hash`` (32; from 0.6), ``gpu-attestation`` (JSON), ``instance-id`` (20, or empty),
``boot-mr-done``, ``os-image-hash`` (32; with a KMS), ``key-provider`` (JSON of ``name`` and ``id``),
``storage-fs`` (``zfs`` or ``ext4``; from 0.6), ``system-ready``. What follows is the app's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NoReturn

from measurements.canonical import encode_canonical
from measurements.dstack.errors import DstackInputError, RuntimeOrderError

EVENT_TYPE = 0x08000001
BANK = "sha384"
ZERO = bytes(48)

APP_ID_SIZE = 20
INSTANCE_ID_SIZE = 20
HASH_SIZE = 32
MAX_INIT_SCRIPTS = 5

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class LogVersion(IntEnum):
    """How an event is hashed."""

    V1 = 1
    V2 = 2


class EventName(StrEnum):
    """The events of a boot; no event of an app may have one of these names."""

    SYSTEM_PREPARING = "system-preparing"
    ROOTFS_HASH = "rootfs-hash"
    APP_ID = "app-id"
    COMPOSE_HASH = "compose-hash"
    INIT_SCRIPT_HASH = "init-script-hash"
    GPU_POLICY_HASH = "gpu-policy-hash"
    GPU_ATTESTATION = "gpu-attestation"
    INSTANCE_ID = "instance-id"
    BOOT_MR_DONE = "boot-mr-done"
    OS_IMAGE_HASH = "os-image-hash"
    KEY_PROVIDER = "key-provider"
    STORAGE_FS = "storage-fs"
    SYSTEM_READY = "system-ready"


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeEvent:
    """One event; raises ``DstackInputError`` for a name that another payload could share a digest with."""

    name: str
    payload: bytes
    version: LogVersion = LogVersion.V1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DstackInputError(
                f"name {self.name[:64]!r} is not of the form {_NAME.pattern}",
                subject="runtime event",
                advice="an event with another name can pass for one with another payload: do not accept it",
            )

    def preimage(self) -> bytes:
        """The hashed bytes."""
        if self.version is LogVersion.V1:
            return b":".join((EVENT_TYPE.to_bytes(4, "little"), self.name.encode("ascii"), self.payload))
        return encode_canonical({"name": self.name, "payload": self.payload.hex(), "type": EVENT_TYPE})

    def digest(self, bank: str = BANK) -> bytes:
        """What extends the register (SHA-384 in RTMR3; SHA-256 also in PCR 14 of Google's vTPM)."""
        return hashlib.new(bank, self.preimage()).digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class BootFacts:
    """What the events of one boot say; ``None`` where the boot had no such event."""

    rootfs_hash: bytes | None
    app_id: bytes
    compose_hash: bytes
    init_script_hashes: tuple[bytes, ...]
    gpu_policy_hash: bytes | None
    gpu_attestation: bytes | None
    instance_id: bytes
    os_image_hash: bytes | None
    key_provider: bytes
    storage_fs: bytes | None
    app_events: tuple[RuntimeEvent, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """One place of the order: how often its event may come, and the sizes its payload may have."""

    name: EventName
    least: int = 1
    most: int = 1
    sizes: tuple[int, ...] = ()


_ORDER = (
    _Place(name=EventName.SYSTEM_PREPARING, sizes=(0,)),
    _Place(name=EventName.ROOTFS_HASH, least=0, sizes=(HASH_SIZE,)),
    _Place(name=EventName.APP_ID, sizes=(APP_ID_SIZE,)),
    _Place(name=EventName.COMPOSE_HASH, sizes=(HASH_SIZE,)),
    _Place(name=EventName.INIT_SCRIPT_HASH, least=0, most=MAX_INIT_SCRIPTS, sizes=(HASH_SIZE,)),
    _Place(name=EventName.GPU_POLICY_HASH, least=0, sizes=(HASH_SIZE,)),
    _Place(name=EventName.GPU_ATTESTATION, least=0),
    _Place(name=EventName.INSTANCE_ID, sizes=(0, INSTANCE_ID_SIZE)),
    _Place(name=EventName.BOOT_MR_DONE, sizes=(0,)),
    _Place(name=EventName.OS_IMAGE_HASH, least=0, sizes=(HASH_SIZE,)),
    _Place(name=EventName.KEY_PROVIDER),
    _Place(name=EventName.STORAGE_FS, least=0),
    _Place(name=EventName.SYSTEM_READY, sizes=(0,)),
)
_RESERVED = frozenset(place.name.value for place in _ORDER)
_FILE_SYSTEMS = (b"zfs", b"ext4")


def replay(events: Iterable[RuntimeEvent], *, until: EventName | None = None, bank: str = BANK) -> bytes:
    """The register after ``events``, or after the first one named ``until``, which must be there."""
    register = bytes(hashlib.new(bank).digest_size)
    for event in events:
        register = hashlib.new(bank, register + event.digest(bank)).digest()
        if event.name == until:
            return register
    if until is not None:
        _refuse(f"have no {until.value}")
    return register


def read_boot(events: Sequence[RuntimeEvent]) -> BootFacts:
    """The facts of one boot; raises ``RuntimeOrderError`` for an event too many, missing, out of order or
    with an impossible payload, and for an app's event with a name of the boot.
    """
    found: dict[EventName, list[bytes]] = {}
    at = 0
    for place in _ORDER:
        payloads = _payloads(events[at : at + place.most], place)
        if len(payloads) < place.least:
            shown = repr(events[at].name) if at < len(events) else "the end of the log"
            _refuse(f"have {shown} where {place.name.value} must be (event {at})")
        found[place.name] = payloads
        at += len(payloads)
    for number, event in enumerate(events[at:], start=at):
        if event.name in _RESERVED:
            _refuse(f"have {event.name} again, or too late (event {number})")
    return _facts(found, tuple(events[at:]))


def _payloads(candidates: Sequence[RuntimeEvent], place: _Place) -> list[bytes]:
    """Payloads of the leading events with the name of ``place``."""
    payloads = []
    for event in candidates:
        if event.name != place.name:
            break
        if place.sizes and len(event.payload) not in place.sizes:
            expected = " or ".join(str(size) for size in place.sizes)
            _refuse(f"have {len(event.payload)} bytes in {place.name.value}, not {expected}")
        payloads.append(event.payload)
    return payloads


def _facts(found: dict[EventName, list[bytes]], app_events: tuple[RuntimeEvent, ...]) -> BootFacts:
    def one(name: EventName) -> bytes | None:
        return next(iter(found[name]), None)

    storage_fs = one(EventName.STORAGE_FS)
    if storage_fs is not None and storage_fs not in _FILE_SYSTEMS:
        _refuse(f"have the unknown file system {storage_fs[:16]!r} in {EventName.STORAGE_FS.value}")
    for name in (EventName.APP_ID, EventName.COMPOSE_HASH):
        if not any(found[name][0]):
            _refuse(f"have zeros in {name.value}, which name nobody")
    return BootFacts(
        rootfs_hash=one(EventName.ROOTFS_HASH),
        app_id=found[EventName.APP_ID][0],
        compose_hash=found[EventName.COMPOSE_HASH][0],
        init_script_hashes=tuple(found[EventName.INIT_SCRIPT_HASH]),
        gpu_policy_hash=one(EventName.GPU_POLICY_HASH),
        gpu_attestation=one(EventName.GPU_ATTESTATION),
        instance_id=found[EventName.INSTANCE_ID][0],
        os_image_hash=one(EventName.OS_IMAGE_HASH),
        key_provider=found[EventName.KEY_PROVIDER][0],
        storage_fs=storage_fs,
        app_events=app_events,
    )


def _refuse(reason: str) -> NoReturn:
    raise RuntimeOrderError(
        reason,
        subject="runtime events",
        advice="take the evidence again from an unchanged dstack guest; another order is no boot of it",
    )
