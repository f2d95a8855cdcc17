"""The recorder of the boot's moments, and that the machine tells them once the first container is started."""

from __future__ import annotations

import time

import pytest

from guest_agent import app_machine, timeline
from guest_agent.app_machine import Machine
from measurements.boot_timeline import Moment, find_timeline


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def test_a_moment_is_now_and_its_first_time_counts() -> None:
    recorder = timeline.Recorder()
    before = now_us()
    recorder.mark(Moment.QUOTE)
    first = recorder.times[Moment.QUOTE]
    assert before <= first <= now_us()
    recorder.mark(Moment.QUOTE, at_us=first + 1)
    recorder.mark(Moment.AGENT, at_us=5)
    assert recorder.times == {Moment.QUOTE: first, Moment.AGENT: 5}


def test_the_line_comes_when_the_first_container_is_started(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timeline, "BOOT", timeline.Recorder())
    timeline.BOOT.mark(Moment.KEYS, at_us=8)
    app_machine.Machine._started(Machine(()))
    found = find_timeline(capfd.readouterr().out.encode())
    assert list(found) == [Moment.KEYS, Moment.CONTAINER]
    assert found[Moment.KEYS] == 8
    assert found[Moment.CONTAINER] <= now_us()
