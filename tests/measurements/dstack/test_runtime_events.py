"""dstack's runtime events: digests of real logs, the order of a boot, and logs that are no boot."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.dstack.errors import DstackInputError, RuntimeOrderError
from measurements.dstack.event_log import parse_event_log, runtime_events
from measurements.dstack.runtime_events import (
    EventName,
    LogVersion,
    RuntimeEvent,
    read_boot,
    replay,
)
from tests.support.dstack_reports import PAIRS, report

BOOT = (
    RuntimeEvent(name="system-preparing", payload=b""),
    RuntimeEvent(name="app-id", payload=b"\1" * 20),
    RuntimeEvent(name="compose-hash", payload=b"\2" * 32),
    RuntimeEvent(name="init-script-hash", payload=b"\3" * 32),
    RuntimeEvent(name="init-script-hash", payload=b"\4" * 32),
    RuntimeEvent(name="gpu-policy-hash", payload=b"\5" * 32),
    RuntimeEvent(name="instance-id", payload=b"\6" * 20),
    RuntimeEvent(name="boot-mr-done", payload=b""),
    RuntimeEvent(name="os-image-hash", payload=b"\7" * 32),
    RuntimeEvent(name="key-provider", payload=b'{"name":"kms","id":"ab"}'),
    RuntimeEvent(name="storage-fs", payload=b"zfs"),
    RuntimeEvent(name="system-ready", payload=b""),
)


# Digests of the logs in dstack/verifier/fixtures/quote-report.json and tdx-lite-getquote.json.
@pytest.mark.parametrize(
    ("name", "payload", "digest"),
    [
        ("system-preparing", b"", "f9974020ef507068183313d0ca808e0d1ca9b2d1ad0c61f5784e7157c362c06536f5ddac"),
        ("boot-mr-done", b"", "98bd7e6bd3952720b65027fd494834045d06b4a714bf737a06b874638b3ea00ff402f7f5"),
        ("system-ready", b"", "1a76b2a80a0be71eae59f80945d876351a7a3fb8e9fd1ff1cede5734aa84ea11fd72b4ed"),
        ("storage-fs", b"zfs", "ba51104636900268b0e059fa3d266419d079d1e94aea26fb9fcbb8d764bf4c89a67ac271"),
        (
            "compose-hash",
            bytes.fromhex("86b0e55f2fa8e4fb69d890f14f54d5612707646e2573d54e0d2ddaaade77caa9"),
            "0bdd53f6ce1e789e3dd5c3ee89da1ab0c7b300226c2323f00e56856419787f13dac4465b",
        ),
    ],
)
def test_published_digests(name: str, payload: bytes, digest: str) -> None:
    assert RuntimeEvent(name=name, payload=payload).digest().hex().startswith(digest)


def test_v2_hashes_canonical_json() -> None:
    """The example of ``v2_digest_is_canonical_json_hash`` in dstack/cc-eventlog/src/runtime_events.rs."""
    event = RuntimeEvent(name="compose-hash", payload=b"\xab\xcd", version=LogVersion.V2)
    text = b'{"name":"compose-hash","payload":"abcd","type":134217729}'
    assert event.preimage() == text
    assert event.digest() == hashlib.sha384(text).digest()
    assert event.digest("sha256") == hashlib.sha256(text).digest()
    assert event.digest() != replace(event, version=LogVersion.V1).digest()


@pytest.mark.parametrize("name", PAIRS)
def test_real_boots_are_read(name: str) -> None:
    events = runtime_events(parse_event_log(report(name).event_log))
    facts = read_boot(events)
    assert facts.compose_hash[:20] == facts.app_id
    assert (facts.rootfs_hash is not None) is (name == "dstack-examples")
    assert [event.name for event in facts.app_events] == ["LIUM_MINER_HOTKEY"] * (name == "quote-report")


def test_facts_of_a_whole_boot() -> None:
    facts = read_boot(BOOT)
    assert facts.app_id == b"\1" * 20
    assert facts.init_script_hashes == (b"\3" * 32, b"\4" * 32)
    assert facts.gpu_policy_hash == b"\5" * 32
    assert facts.os_image_hash == b"\7" * 32
    assert facts.storage_fs == b"zfs"
    assert facts.app_events == ()


def test_optional_events_may_be_missing() -> None:
    optional = {"init-script-hash", "gpu-policy-hash", "os-image-hash", "storage-fs"}
    facts = read_boot([event for event in BOOT if event.name not in optional])
    assert facts.init_script_hashes == ()
    assert facts.os_image_hash is facts.gpu_policy_hash is facts.storage_fs is None


REQUIRED = [
    number
    for number, event in enumerate(BOOT)
    if event.name not in {"init-script-hash", "gpu-policy-hash", "os-image-hash", "storage-fs"}
]


@pytest.mark.parametrize("number", REQUIRED)
def test_a_missing_event_is_refused(number: int) -> None:
    with pytest.raises(RuntimeOrderError, match=r"where .* must be|again, or too late"):
        read_boot(BOOT[:number] + BOOT[number + 1 :])


@pytest.mark.parametrize("number", range(len(BOOT) - 1))
def test_swapped_events_are_refused(number: int) -> None:
    if BOOT[number].name == BOOT[number + 1].name:
        return
    swapped = (*BOOT[:number], BOOT[number + 1], BOOT[number], *BOOT[number + 2 :])
    with pytest.raises(RuntimeOrderError):
        read_boot(swapped)


@pytest.mark.parametrize("number", range(len(BOOT)))
def test_an_event_again_after_the_boot_is_refused(number: int) -> None:
    """A container with the device could say later that it is another app."""
    with pytest.raises(RuntimeOrderError, match="again, or too late"):
        read_boot((*BOOT, BOOT[number]))


def test_an_unknown_event_inside_the_boot_is_refused() -> None:
    for number in range(len(BOOT)):
        extra = RuntimeEvent(name="extra", payload=b"")
        with pytest.raises(RuntimeOrderError, match="'extra' where"):
            read_boot((*BOOT[:number], extra, *BOOT[number:]))


def test_events_of_the_app_follow_the_boot() -> None:
    extra = RuntimeEvent(name="my.event_1", payload=b"any")
    assert read_boot((*BOOT, extra, extra)).app_events == (extra, extra)


def test_two_os_images_are_refused() -> None:
    with pytest.raises(RuntimeOrderError, match="'os-image-hash' where key-provider"):
        read_boot((*BOOT[:9], BOOT[8], *BOOT[9:]))


def test_six_init_scripts_are_refused() -> None:
    with pytest.raises(RuntimeOrderError, match="'init-script-hash' where instance-id"):
        read_boot((*BOOT[:3], *[BOOT[3]] * 6, *BOOT[6:]))


@pytest.mark.parametrize(
    ("number", "payload", "reason"),
    [
        (0, b"x", "1 bytes in system-preparing, not 0"),
        (1, b"\1" * 19, "19 bytes in app-id, not 20"),
        (1, bytes(20), "zeros in app-id"),
        (2, b"\1" * 33, "33 bytes in compose-hash"),
        (2, bytes(32), "zeros in compose-hash"),
        (6, b"\1" * 19, "19 bytes in instance-id, not 0 or 20"),
        (7, b"x", "1 bytes in boot-mr-done"),
        (8, b"", "0 bytes in os-image-hash"),
        (10, b"xfs", "unknown file system b'xfs'"),
        (11, b"x", "1 bytes in system-ready"),
    ],
)
def test_impossible_payloads_are_refused(number: int, payload: bytes, reason: str) -> None:
    changed = replace(BOOT[number], payload=payload)
    with pytest.raises(RuntimeOrderError, match=reason):
        read_boot((*BOOT[:number], changed, *BOOT[number + 1 :]))


@pytest.mark.parametrize("name", ["", "app-id:x", "a b", "a\0", "ä", "a" * 129, "app-id\n"])
def test_names_that_could_share_a_digest_are_refused(name: str) -> None:
    """``app-id:x`` with payload ``y`` hashes like ``app-id`` with payload ``x:y``."""
    with pytest.raises(DstackInputError, match="is not of the form"):
        RuntimeEvent(name=name, payload=b"")


def test_replay_stops_at_the_boundary() -> None:
    assert replay([]) == bytes(48)
    assert replay(BOOT, until=EventName.BOOT_MR_DONE) == replay(BOOT[:8])
    assert replay(BOOT, until=EventName.SYSTEM_READY) == replay(BOOT)
    assert len(replay(BOOT, bank="sha256")) == 32
    with pytest.raises(RuntimeOrderError, match="have no boot-mr-done"):
        replay(BOOT[:7], until=EventName.BOOT_MR_DONE)


@given(st.lists(st.sampled_from(BOOT), max_size=16))
def test_any_list_is_a_boot_or_refused(events: list[RuntimeEvent]) -> None:
    with suppress(RuntimeOrderError):
        facts = read_boot(events)
        assert facts.app_events == ()
        assert [event.name for event in events].count("app-id") == 1


@given(
    st.binary(max_size=60), st.binary(max_size=60), st.sampled_from(LogVersion), st.sampled_from(LogVersion)
)
def test_no_two_events_share_a_preimage(
    one: bytes, other: bytes, version: LogVersion, other_version: LogVersion
) -> None:
    first = RuntimeEvent(name="app-id", payload=one, version=version)
    for name in ("app-id", "app-i", "app-id-2"):
        second = RuntimeEvent(name=name, payload=other, version=other_version)
        assert (first.preimage() == second.preimage()) is (first == second)
