"""dstack's event logs: replay of real ones, and logs that say what they do not measure."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.dstack.errors import DstackFormatError
from measurements.dstack.event_log import (
    digests,
    parse_event_log,
    replay_digests,
    runtime_events,
    wrong_digests,
)
from measurements.dstack.runtime_events import replay
from measurements.tdx.quote import parse_quote
from tests.support.dstack_reports import PAIRS, report


def changed(change: Callable[[list[dict[str, Any]]], object], name: str = "quote-report") -> bytes:
    """A real log with a change."""
    entries = json.loads(report(name).event_log)
    change(entries)
    return json.dumps(entries).encode()


@pytest.mark.parametrize("name", PAIRS)
def test_logs_replay_to_the_registers_of_their_quotes(name: str) -> None:
    pair = report(name)
    events = parse_event_log(pair.event_log)
    body = parse_quote(pair.quote).body
    for register, value in enumerate(body.rtmrs):
        assert replay_digests(digests(events, register)) == value
    assert replay(runtime_events(events)) == body.rtmrs[3]
    assert wrong_digests(events) == ()


def test_a_renamed_runtime_event_has_another_digest() -> None:
    events = parse_event_log(changed(lambda entries: entries[-1].update(event="other")))
    assert [event.name for event in wrong_digests(events)] == ["other"]
    assert replay_digests(digests(events, 3)) != parse_quote(report("quote-report").quote).body.rtmrs[3]


def test_a_changed_payload_has_another_digest() -> None:
    events = parse_event_log(changed(lambda entries: entries[-1].update(event_payload="00")))
    assert len(wrong_digests(events)) == 1


def test_a_stated_digest_that_is_none_of_the_event_is_found() -> None:
    events = parse_event_log(changed(lambda entries: entries[-2].update(digest="00" * 48)))
    assert [event.name for event in wrong_digests(events)] == ["system-ready"]
    assert replay_digests(digests(events, 3)) == parse_quote(report("quote-report").quote).body.rtmrs[3]


def test_names_of_firmware_events_are_not_measured() -> None:
    """They can say anything, and nothing goes by them."""
    events = parse_event_log(changed(lambda entries: entries[0].update(event="app-id", event_payload="00")))
    assert runtime_events(events) == runtime_events(parse_event_log(report("quote-report").event_log))
    assert wrong_digests(events) == ()


def test_stripped_runtime_events_are_computed() -> None:
    events = parse_event_log(changed(lambda entries: entries[-1].update(digest="")))
    assert events[-1].stated is None
    assert replay_digests(digests(events, 3)) == parse_quote(report("quote-report").quote).body.rtmrs[3]


V2 = {
    "imr": 3,
    "event_type": 134217729,
    "digest": "",
    "event": "compose-hash",
    "event_payload": "abcd",
    "version": 2,
    "preimage": b'{"name":"compose-hash","payload":"abcd","type":134217729}'.hex(),
}


def test_v2_events_carry_their_preimage() -> None:
    (event,) = parse_event_log(json.dumps([V2]).encode())
    assert event.runtime is not None
    assert event.runtime.version == 2
    assert event.runtime.preimage().hex() == V2["preimage"]
    with pytest.raises(DstackFormatError, match="not that of its name"):
        parse_event_log(json.dumps([{**V2, "version": 1}]).encode())
    with pytest.raises(DstackFormatError, match="not that of its name"):
        parse_event_log(json.dumps([{**V2, "event_payload": "abce"}]).encode())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entries: entries.clear(), "not a list of 1 to 2048"),
        (lambda entries: entries.extend(entries * 80), "not a list of 1 to 2048"),
        (lambda entries: entries[3].pop("imr"), "event 3: key imr is missing"),
        (lambda entries: entries[3].update(extra=1), "event 3: key 'extra' is unknown"),
        (lambda entries: entries[3].update(imr=4), "event 3, imr: is not an integer from 0 to 3"),
        (lambda entries: entries[3].update(imr=True), "event 3, imr: is not an integer"),
        (lambda entries: entries[3].update(imr=0.0), "event 3, imr: is not an integer"),
        (lambda entries: entries[3].update(event_type=1 << 32), "event_type: is not an integer"),
        (lambda entries: entries[3].update(digest="00"), "event 3, digest: has 1 bytes, not 0 or 48"),
        (lambda entries: entries[3].update(digest=""), "event 3: has a digest of 0 bytes"),
        (lambda entries: entries[3].update(digest="AA" * 48), "is not lower-case hex"),
        (lambda entries: entries[3].update(event=None), "event: is not a text"),
        (lambda entries: entries[3].update(event_payload="a"), "is not lower-case hex"),
        (lambda entries: entries[3].update(version=1), "fields of a runtime event"),
        (lambda entries: entries[3].update(imr=3), "runtime events alone are in RTMR3"),
        (lambda entries: entries[-1].update(imr=2), "runtime events alone are in RTMR3"),
        (lambda entries: entries[-1].update(version=3), "version: is not an integer from 1 to 2"),
        (lambda entries: entries[-1].update(event="a:b"), "is not of the form"),
    ],
)
def test_other_logs_are_refused(change: Callable[[list[dict[str, Any]]], object], reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_event_log(changed(change))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[", b"\xff", b"[" * 70 + b"]" * 70, b"[NaN]", b"[1]", b"null"]
)
def test_other_documents_are_refused(data: bytes) -> None:
    with pytest.raises(DstackFormatError):
        parse_event_log(data)


def test_a_key_twice_is_refused() -> None:
    text = json.dumps([V2])[:-2] + ', "event_payload": "00"}]'
    with pytest.raises(DstackFormatError, match="same key twice"):
        parse_event_log(text.encode())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 6000), st.binary(min_size=1, max_size=3))
def test_changed_bytes_never_replay_to_the_quote_unseen(at: int, value: bytes) -> None:
    """Whatever changes in the log, either it is refused, or a digest is wrong, or it changed only what no
    register covers: the decoration of firmware events.
    """
    pair = report("quote-report")
    data = bytearray(pair.event_log)
    data[at : at + len(value)] = value
    with suppress(DstackFormatError):
        events = parse_event_log(bytes(data))
        registers = tuple(replay_digests(digests(events, register)) for register in range(4))
        if registers == parse_quote(pair.quote).body.rtmrs and not wrong_digests(events):
            assert runtime_events(events) == runtime_events(parse_event_log(pair.event_log))
