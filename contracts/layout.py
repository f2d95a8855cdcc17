"""Storage slots of KeyturnRegistry and KeyturnApp, and their words: policy as ``eth_getProof`` reads it.

A word is 32 bytes, big-endian; packed fields fill it from the low-order end, as solc does. ``mapping[key]``
of the mapping at slot ``p`` lies at ``keccak256(key (32 bytes) ‖ p (32 bytes))``; structs continue at the
next slot.

====  ======================================  ==========================================================
Slot  KeyturnRegistry                         KeyturnApp
====  ======================================  ==========================================================
0     roles (AccessControl)                   roles (AccessControl)
1     u64 policy version, bool paused         u64 policy version, bool paused, u64 epoch, u64 expiry,
                                              u8 upgrade mode, bool any device, u32 notice seconds
2     images: id → Entry                      app hashes: hash → Entry
3     references: digest → Entry, image id    images: id → Entry
4     platform roots: digest → Entry          devices: platform id → Entry
5     KMS nodes: id → Entry, (signer 20,      TCB rule: digest, zero for the verifier's default
      u64 last seq), app hash, evidence hash
6     apps: address → Entry                   address of the registry
====  ======================================  ==========================================================

Entry: u64 not before, u64 not after, bool revoked, bool exists. Times are seconds since 1970; an entry holds
from not before (inclusive) to not after (exclusive), and ``2^64 - 1`` is never reached.

A word that no contract could have written (stray bits, a boolean of 2, an unknown mode) is a FormatError, and
an all-zero key is refused before a slot is computed: absence must never be looked up by accident. A test
compares this module with the layout that solc reports. Sources: "Layout of State Variables in Storage" of the
Solidity documentation; EIP-1186 for proofs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from eth_hash.auto import keccak

from measurements.errors import FormatError, RefusedError

WORD_BYTES = 32
ADDRESS_BYTES = 20
NEVER = 2**64 - 1
"""The "not after" and expiry that is never reached."""


class RegistrySlot(IntEnum):
    """Slots of KeyturnRegistry's state variables."""

    STATE = 1
    IMAGES = 2
    REFERENCES = 3
    PLATFORM_ROOTS = 4
    KMS_NODES = 5
    APPS = 6


class AppSlot(IntEnum):
    """Slots of KeyturnApp's state variables."""

    STATE = 1
    APP_HASHES = 2
    IMAGES = 3
    DEVICES = 4
    TCB_RULE = 5
    REGISTRY = 6


class UpgradeMode(IntEnum):
    """How an app takes new code; the order is also the only direction of change."""

    MUTABLE = 0
    DELAYED = 1
    FROZEN = 2


class StorageWordError(FormatError):
    """A storage word that the contracts cannot have written."""

    code = "storage-word"


class ZeroKeyError(RefusedError):
    """A hash or an address that is zero or has the wrong length."""

    code = "zero-key"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of a list of the policy."""

    ABSENT: ClassVar[Entry]
    not_before: int
    not_after: int
    revoked: bool
    exists: bool

    def holds_at(self, time: int) -> bool:
        """Whether the entry permits something at ``time`` (seconds since 1970)."""
        return self.exists and not self.revoked and self.not_before <= time < self.not_after


Entry.ABSENT = Entry(not_before=0, not_after=0, revoked=False, exists=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryState:
    """Slot 1 of the registry."""

    policy_version: int
    paused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Reference values of one image on one machine shape."""

    entry: Entry
    image_id: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class KmsNode:
    """A key service; ``signer`` signs anchors, ``last_seq`` is the last receipt on chain."""

    entry: Entry
    signer: bytes
    last_seq: int
    app_hash: bytes
    evidence_hash: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class AppState:
    """Slot 1 of an app."""

    policy_version: int
    paused: bool
    epoch: int
    expiry: int
    upgrade_mode: UpgradeMode
    any_device: bool
    notice_seconds: int


def registry_state_slots() -> tuple[bytes, ...]:
    """One slot, for ``decode_registry_state``."""
    return _consecutive(RegistrySlot.STATE, 1)


def image_slots(image_id: bytes) -> tuple[bytes, ...]:
    """One slot of the registry, for ``decode_entry``."""
    return _mapping_slots(RegistrySlot.IMAGES, _hash_key(image_id, "image id"), 1)


def reference_slots(digest: bytes) -> tuple[bytes, ...]:
    """Two slots of the registry, for ``decode_reference``."""
    return _mapping_slots(RegistrySlot.REFERENCES, _hash_key(digest, "reference digest"), 2)


def platform_root_slots(digest: bytes) -> tuple[bytes, ...]:
    """One slot of the registry, for ``decode_entry``."""
    return _mapping_slots(RegistrySlot.PLATFORM_ROOTS, _hash_key(digest, "platform root"), 1)


def kms_node_slots(kms_id: bytes) -> tuple[bytes, ...]:
    """Four slots of the registry, for ``decode_kms_node``."""
    return _mapping_slots(RegistrySlot.KMS_NODES, _hash_key(kms_id, "KMS id"), 4)


def app_slots(address: bytes) -> tuple[bytes, ...]:
    """One slot of the registry, for ``decode_entry``: whether its factory made this app."""
    return _mapping_slots(RegistrySlot.APPS, _address_key(address), 1)


def app_state_slots() -> tuple[bytes, ...]:
    """One slot of an app, for ``decode_app_state``."""
    return _consecutive(AppSlot.STATE, 1)


def app_hash_slots(app_hash: bytes) -> tuple[bytes, ...]:
    """One slot of an app, for ``decode_entry``."""
    return _mapping_slots(AppSlot.APP_HASHES, _hash_key(app_hash, "app hash"), 1)


def app_image_slots(image_id: bytes) -> tuple[bytes, ...]:
    """One slot of an app, for ``decode_entry``."""
    return _mapping_slots(AppSlot.IMAGES, _hash_key(image_id, "image id"), 1)


def device_slots(platform_id: bytes) -> tuple[bytes, ...]:
    """One slot of an app, for ``decode_entry``; asked only where ``any_device`` is false."""
    return _mapping_slots(AppSlot.DEVICES, _hash_key(platform_id, "platform id"), 1)


def tcb_rule_slots() -> tuple[bytes, ...]:
    """One slot of an app, for ``decode_tcb_rule``."""
    return _consecutive(AppSlot.TCB_RULE, 1)


def app_registry_slots() -> tuple[bytes, ...]:
    """One slot of an app, for ``decode_address``: the registry it belongs to."""
    return _consecutive(AppSlot.REGISTRY, 1)


def decode_entry(words: Sequence[bytes]) -> Entry:
    """An entry from its one word; an absent one is ``Entry.ABSENT``."""
    fields = _Fields(_words(words, 1)[0], "entry")
    entry = Entry(
        not_before=fields.integer(8),
        not_after=fields.integer(8),
        revoked=fields.boolean(),
        exists=fields.boolean(),
    )
    fields.end()
    if not entry.exists and entry != Entry.ABSENT:
        raise _bad("an entry that does not exist has other fields", "entry")
    return entry


def decode_registry_state(words: Sequence[bytes]) -> RegistryState:
    """State of the registry from its one word."""
    fields = _Fields(_words(words, 1)[0], "registry state")
    state = RegistryState(policy_version=fields.integer(8), paused=fields.boolean())
    fields.end()
    return state


def decode_reference(words: Sequence[bytes]) -> Reference:
    """A reference from its two words."""
    entry, image_id = _words(words, 2)
    return Reference(entry=decode_entry([entry]), image_id=image_id)


def decode_kms_node(words: Sequence[bytes]) -> KmsNode:
    """A KMS node from its four words."""
    entry, signer, app_hash, evidence_hash = _words(words, 4)
    fields = _Fields(signer, "KMS node")
    address, last_seq = fields.integer(ADDRESS_BYTES), fields.integer(8)
    fields.end()
    return KmsNode(
        entry=decode_entry([entry]),
        signer=address.to_bytes(ADDRESS_BYTES, "big"),
        last_seq=last_seq,
        app_hash=app_hash,
        evidence_hash=evidence_hash,
    )


def decode_app_state(words: Sequence[bytes]) -> AppState:
    """State of an app from its one word."""
    fields = _Fields(_words(words, 1)[0], "app state")
    policy_version, paused = fields.integer(8), fields.boolean()
    epoch, expiry, mode = fields.integer(8), fields.integer(8), fields.integer(1)
    any_device, notice_seconds = fields.boolean(), fields.integer(4)
    fields.end()
    if mode not in set(UpgradeMode):
        raise _bad(f"upgrade mode {mode} is unknown", "app state")
    return AppState(
        policy_version=policy_version,
        paused=paused,
        epoch=epoch,
        expiry=expiry,
        upgrade_mode=UpgradeMode(mode),
        any_device=any_device,
        notice_seconds=notice_seconds,
    )


def decode_tcb_rule(words: Sequence[bytes]) -> bytes | None:
    """Digest of the app's TCB rule; None where the app leaves the rule to the verifier."""
    (word,) = _words(words, 1)
    return word if any(word) else None


def decode_address(words: Sequence[bytes]) -> bytes:
    """An address (20 bytes) from its one word."""
    fields = _Fields(_words(words, 1)[0], "address")
    address = fields.integer(ADDRESS_BYTES).to_bytes(ADDRESS_BYTES, "big")
    fields.end()
    return address


class _Fields:
    """Packed fields of a word, from the low-order end."""

    def __init__(self, word: bytes, subject: str) -> None:
        self._rest = int.from_bytes(word, "big")
        self._subject = subject

    def integer(self, size: int) -> int:
        value = self._rest & ((1 << 8 * size) - 1)
        self._rest >>= 8 * size
        return value

    def boolean(self) -> bool:
        value = self.integer(1)
        if value > 1:
            raise _bad(f"a boolean is {value}", self._subject)
        return value == 1

    def end(self) -> None:
        if self._rest:
            raise _bad("bits beyond the last field are set", self._subject)


def _words(words: Sequence[bytes], count: int) -> list[bytes]:
    if len(words) != count or any(len(word) != WORD_BYTES for word in words):
        raise _bad(f"expected {count} words of {WORD_BYTES} bytes", "storage")
    return list(words)


def _consecutive(first: int, count: int) -> tuple[bytes, ...]:
    return tuple(((first + index) % 2**256).to_bytes(WORD_BYTES, "big") for index in range(count))


def _mapping_slots(mapping: int, key: bytes, count: int) -> tuple[bytes, ...]:
    digest = keccak(key + mapping.to_bytes(WORD_BYTES, "big"))
    return _consecutive(int.from_bytes(digest, "big"), count)


def _hash_key(value: bytes, subject: str) -> bytes:
    if len(value) != WORD_BYTES or not any(value):
        raise ZeroKeyError(
            "must be 32 bytes and not zero", subject=subject, advice="pass the digest of what is looked up"
        )
    return value


def _address_key(value: bytes) -> bytes:
    if len(value) != ADDRESS_BYTES or not any(value):
        raise ZeroKeyError(
            "must be 20 bytes and not zero",
            subject="address",
            advice="pass the address of the app's contract",
        )
    return value.rjust(WORD_BYTES, b"\0")


def _bad(reason: str, subject: str) -> StorageWordError:
    return StorageWordError(
        reason, subject=subject, advice="pin the code hash of the contracts this version was built with"
    )
