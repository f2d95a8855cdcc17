"""The boot report survives a console, and nothing else passes for one."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.boot_report import (
    BEGIN,
    BootReport,
    BootReportError,
    decode_report,
    encode_report,
    find_report,
    frame_report,
    has_report,
)
from measurements.runtime_events import DEV_IMAGE, RuntimeEvent, RuntimeEventError, event_digest

REPORT = BootReport(
    image_name="default",
    image_version="1",
    dev=True,
    banks={"sha256": {0: bytes(32), 14: b"\x01" * 32}, "sha384": {0: b"\x02" * 48}},
    event_log=bytes(range(256)) * 8,
    runtime_events=(DEV_IMAGE, RuntimeEvent("x", b"\0")),
    command_line="console=ttyS0 ro",
    kernel_release="7.3.4",
    os_release={"ID": "debian", "NAME": "Debian ∞"},
    agent_start_us=1,
    report_us=2,
)
FRAMED = frame_report(REPORT)


def console(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def test_what_was_sent_is_found() -> None:
    data = console("BdsDxe: starting\n" + FRAMED + "keyturn: stops\n")
    assert has_report(data)
    assert find_report(data) == REPORT


def test_lines_fit_a_terminal() -> None:
    assert max(map(len, FRAMED.splitlines())) <= 120


@given(st.integers(min_value=1), st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_kernel_messages_between_lines_are_skipped(where: int, message: str) -> None:
    lines = FRAMED.splitlines()
    place = 1 + where % (len(lines) - 1)
    text = "\n".join([*lines[:place], f"[    1.2] {message}", *lines[place:]]) + "\n"
    assert find_report(console(text)) == REPORT


def test_terminal_sequences_before_the_first_line_are_skipped() -> None:
    assert find_report(b"\x1b[2J\x1b[01;01H" + console(FRAMED)) == REPORT


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=127))
def test_any_damaged_character_is_noticed(where: int, change: int) -> None:
    start = FRAMED.index("KT ")
    at = start + where % (len(FRAMED) - start - 1)
    damaged = FRAMED[:at] + chr(ord(FRAMED[at]) ^ change) + FRAMED[at + 1 :]
    with pytest.raises(BootReportError):
        find_report(damaged.encode())


@pytest.mark.parametrize("text", ["", FRAMED[:-20], FRAMED[len(BEGIN) + 1 :], FRAMED + FRAMED])
def test_none_or_two_reports_are_refused(text: str) -> None:
    with pytest.raises(BootReportError):
        find_report(console(text))


def test_a_report_in_progress_is_not_one() -> None:
    assert not has_report(console(FRAMED[:-30]))


def changed(**changes: Any) -> bytes:
    document = json.loads(encode_report(REPORT)) | changes
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "keyturn-boot-report/2"},
        {"surprise": 1},
        {"banks": {"sha256": {"24": "00" * 32}}},
        {"banks": {"sha256": {"0": "00" * 31}}},
        {"banks": {"md5": {"0": "00" * 16}}},
        {"banks": []},
        {"event_log": "*"},
        {"command_line": 1},
        {"image": {"name": "a", "version": "1", "dev": 1}},
        {"image": {"name": "a", "version": "1"}},
        {"time_us": {"agent_start": -1, "report": 2}},
        {"time_us": {"agent_start": True, "report": 2}},
        {"runtime_events": {}},
        {"runtime_events": [{"name": "a", "payload": "0"}]},
    ],
)
def test_another_schema_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BootReportError):
        decode_report(changed(**changes))


def test_another_encoding_is_refused() -> None:
    with pytest.raises(BootReportError):
        decode_report(json.dumps(json.loads(encode_report(REPORT))).encode())


def test_a_report_of_a_hostile_guest_must_still_be_a_report() -> None:
    data = b"not json"
    body = base64.b64encode(data).decode()
    text = f"{BEGIN}\nKT {body}\n-----END KEYTURN BOOT REPORT {hashlib.sha256(data).hexdigest()}-----\n"
    with pytest.raises(BootReportError):
        find_report(text.encode())


def test_event_digest_is_as_dstack_computes_it() -> None:
    """H(u32le type ‖ ":" ‖ name ‖ ":" ‖ payload)."""
    expected = hashlib.sha384(b"\x01\x00\x00\x08:app-id:\xab").digest()
    assert event_digest(RuntimeEvent("app-id", b"\xab"), algorithm="sha384") == expected


@pytest.mark.parametrize("name", ["", "App", "a:b", "a b", "ä", "a\n"])
def test_event_names_are_unambiguous(name: str) -> None:
    with pytest.raises(RuntimeEventError):
        event_digest(RuntimeEvent(name, b""), algorithm="sha256")
