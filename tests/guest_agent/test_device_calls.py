"""How several devices are made by one call of dmsetup."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent import storage
from guest_agent.storage import Device, concise, create_devices


def fields(text: str, end: str) -> list[str]:
    """``text`` cut at every ``end`` that no backslash escapes; backslashes stay."""
    found = [""]
    for token in re.findall(r"\\.|[^\\]", text, re.DOTALL):
        if token == end:
            found.append("")
        else:
            found[-1] += token
    return found


def read(text: str) -> list[tuple[str, str, bool]]:
    """Devices as dmsetup reads them: name, table, read-only."""
    devices = []
    for part in fields(text, ";"):
        name, uuid, minor, flags, *lines = [re.sub(r"\\(.)", r"\1", field) for field in fields(part, ",")]
        assert (uuid, minor) == ("", "")
        devices.append((name, "\n".join(lines), flags == "ro"))
    return devices


def test_the_form_of_the_manual() -> None:
    devices = (Device("a", "0 8 linear /dev/x 0\n8 8 linear /dev/y 0\n"), Device("b", "0 1 c k(a,b)\n", True))
    assert concise(devices) == r"a,,,rw,0 8 linear /dev/x 0,8 8 linear /dev/y 0;b,,,ro,0 1 c k(a\,b)"


@given(st.lists(st.text("ab,;(\\", min_size=1), min_size=1, max_size=3), st.booleans())
def test_no_text_of_a_table_becomes_another_device(lines: list[str], read_only: bool) -> None:
    device = Device("d", "\n".join(lines), read_only)
    assert read(concise((device,))) == [("d", "\n".join(lines), read_only)]


def test_keys_are_not_among_the_words_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[tuple[str, ...], bytes]] = []
    monkeypatch.setattr(storage, "run", lambda words, *, given, environment: ran.append((words, given)))
    create_devices((Device("d", "0 1 crypt c secret 0 /dev/x 0\n"),))
    assert ran == [
        (("/usr/sbin/dmsetup", "create", "--concise"), b"d,,,rw,0 1 crypt c secret 0 /dev/x 0"),
    ]
