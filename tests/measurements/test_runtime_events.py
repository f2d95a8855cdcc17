"""Runtime events: digests, replay, and the one order in which they are accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import KeyturnError
from measurements.runtime_events import (
    DEV_IMAGE,
    KmsProvider,
    ReleaseFacts,
    RuntimeEvent,
    RuntimeEventError,
    RuntimeLogError,
    Storage,
    TpmSealProvider,
    app_hash_event,
    app_id_event,
    boot_complete_event,
    boot_event,
    config_hash_event,
    event_digest,
    instance_id_event,
    key_provider_event,
    parse_full_log,
    parse_release_log,
    replay_runtime_events,
    storage_event,
)

PROVIDER = KmsProvider(kms_root=b"\x05" * 32, chain_id=31337, contract=b"\x06" * 20)
FACTS = ReleaseFacts(
    dev=False,
    app_id=b"\x01" * 20,
    app_hash=b"\x02" * 32,
    config_hash=b"\x03" * 32,
    instance_id=b"\x04" * 16,
    key_provider=PROVIDER,
)
RELEASE = [
    boot_event(),
    app_id_event(FACTS.app_id),
    app_hash_event(FACTS.app_hash),
    config_hash_event(FACTS.config_hash),
    instance_id_event(FACTS.instance_id),
    key_provider_event(PROVIDER),
]
FULL = [*RELEASE, storage_event(Storage.OPENED), boot_complete_event()]


def test_the_digest_is_the_hash_of_type_name_and_payload() -> None:
    event = RuntimeEvent("app-id", b"\x01\x02")
    assert event_digest(event, algorithm="sha384") == hashlib.sha384(b"\x01\0\0\x08:app-id:\x01\x02").digest()


def test_payloads_are_those_of_the_format_document() -> None:
    assert RELEASE[0] == RuntimeEvent("keyturn-boot", b"1")
    assert RELEASE[5] == RuntimeEvent(
        "key-provider", b"\x01" + b"\x05" * 32 + bytes(6) + b"\x7a\x69" + b"\x06" * 20
    )
    sealed = key_provider_event(TpmSealProvider(chain_id=1, contract=b"\x06" * 20))
    assert sealed.payload == b"\x02" + bytes(7) + b"\x01" + b"\x06" * 20
    assert FULL[6:] == [RuntimeEvent("storage", b"aead-hmac:opened"), RuntimeEvent("boot-complete", b"")]


def test_the_register_is_the_running_hash_in_both_banks() -> None:
    first = hashlib.sha256(bytes(32) + event_digest(RELEASE[0], algorithm="sha256")).digest()
    second = hashlib.sha256(first + event_digest(RELEASE[1], algorithm="sha256")).digest()
    assert replay_runtime_events(RELEASE[:2])["sha256"] == second
    assert replay_runtime_events([]) == {"sha256": bytes(32), "sha384": bytes(48)}


def test_a_release_log_gives_its_facts() -> None:
    assert parse_release_log(RELEASE) == FACTS
    assert parse_release_log([DEV_IMAGE, *RELEASE]) == FACTS._replace(dev=True)


def test_a_full_log_gives_storage_and_the_events_of_the_app() -> None:
    own = RuntimeEvent("model-loaded", b"x")
    facts = parse_full_log([*FULL, own, own])
    assert (facts.release, facts.storage, facts.app_events) == (FACTS, Storage.OPENED, (own, own))


def test_a_sealed_key_provider_is_read_back() -> None:
    provider = TpmSealProvider(chain_id=7, contract=b"\x08" * 20)
    assert parse_release_log([*RELEASE[:5], key_provider_event(provider)]).key_provider == provider


@pytest.mark.parametrize("position", range(len(RELEASE)))
def test_a_missing_a_repeated_or_a_swapped_event_is_refused(position: int) -> None:
    missing = RELEASE[:position] + RELEASE[position + 1 :]
    repeated = [*RELEASE[: position + 1], *RELEASE[position:]]
    other = (position + 1) % len(RELEASE)
    swapped = list(RELEASE)
    swapped[position], swapped[other] = swapped[other], swapped[position]
    for events in (missing, repeated, swapped):
        with pytest.raises(RuntimeLogError):
            parse_release_log(events)


@pytest.mark.parametrize(
    "events",
    [
        [],
        FULL,
        [*RELEASE, RuntimeEvent("anything", b"")],
        [DEV_IMAGE, DEV_IMAGE, *RELEASE],
        [*RELEASE, DEV_IMAGE],
        [RuntimeEvent("dev-image", b"1"), *RELEASE],
        [RuntimeEvent("keyturn-boot", b"2"), *RELEASE[1:]],
        [RuntimeEvent("keyturn-start", b"1"), *RELEASE[1:]],
    ],
)
def test_release_logs_of_another_form_are_refused(events: list[RuntimeEvent]) -> None:
    with pytest.raises(RuntimeLogError):
        parse_release_log(events)


@pytest.mark.parametrize(
    "later",
    [
        [],
        [storage_event(Storage.NONE)],
        [boot_complete_event(), storage_event(Storage.NONE)],
        [RuntimeEvent("storage", b"plain"), boot_complete_event()],
        [storage_event(Storage.NONE), RuntimeEvent("boot-complete", b"1")],
        [storage_event(Storage.NONE), storage_event(Storage.NONE), boot_complete_event()],
        [storage_event(Storage.NONE), boot_complete_event(), boot_complete_event()],
        [storage_event(Storage.NONE), boot_complete_event(), app_id_event(b"\x09" * 20)],
        [storage_event(Storage.NONE), boot_complete_event(), RuntimeEvent("Not A Name", b"")],
    ],
)
def test_full_logs_of_another_form_are_refused(later: list[RuntimeEvent]) -> None:
    with pytest.raises(RuntimeLogError):
        parse_full_log([*RELEASE, *later])


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        (event.name, bad)
        for event in RELEASE[1:]
        for bad in (b"", bytes(len(event.payload)), event.payload + b"x")
    ]
    + [
        ("key-provider", b"\x03" + RELEASE[5].payload[1:]),
        ("key-provider", b"\x02" + RELEASE[5].payload[1:]),
        ("key-provider", b"\x01" + bytes(32) + RELEASE[5].payload[33:]),
        ("key-provider", RELEASE[5].payload[:33] + bytes(8) + b"\x06" * 20),
        ("key-provider", RELEASE[5].payload[:41] + bytes(20)),
    ],
)
def test_zero_ids_and_wrong_lengths_are_refused(name: str, payload: bytes) -> None:
    events = [RuntimeEvent(name, payload) if event.name == name else event for event in RELEASE]
    with pytest.raises(RuntimeLogError):
        parse_release_log(events)


@pytest.mark.parametrize(
    "make",
    [
        lambda: app_id_event(bytes(20)),
        lambda: app_hash_event(b"\x01" * 31),
        lambda: config_hash_event(b""),
        lambda: instance_id_event(bytes(16)),
        lambda: key_provider_event(PROVIDER._replace(chain_id=0)),
        lambda: key_provider_event(PROVIDER._replace(chain_id=1 << 64)),
        lambda: key_provider_event(PROVIDER._replace(contract=bytes(20))),
        lambda: key_provider_event(PROVIDER._replace(kms_root=bytes(32))),
        lambda: event_digest(RuntimeEvent("a:b", b""), algorithm="sha256"),
    ],
)
def test_events_that_name_nobody_are_never_made(make: Callable[[], object]) -> None:
    with pytest.raises(RuntimeEventError):
        make()


NAMES = [event.name for event in FULL] + ["dev-image", "x"]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=40)), max_size=10))
def test_arbitrary_events_raise_our_errors_only(pairs: list[tuple[str, bytes]]) -> None:
    events = [RuntimeEvent(name, payload) for name, payload in pairs]
    for parse in (parse_release_log, parse_full_log):
        with pytest.raises(KeyturnError):
            parse(events)


@given(st.integers(min_value=0, max_value=len(RELEASE) - 1), st.data())
def test_any_flipped_byte_changes_the_register(position: int, data: st.DataObject) -> None:
    payload = bytearray(RELEASE[position].payload)
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    changed = [*RELEASE]
    changed[position] = RuntimeEvent(RELEASE[position].name, bytes(payload))
    before, after = replay_runtime_events(RELEASE), replay_runtime_events(changed)
    assert all(before[bank] != after[bank] for bank in before)
