"""The machine around an app's boot: stop requests, ends, and when there is an app at all."""

from __future__ import annotations

import os
import select
import signal
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest_agent import agent, app_machine
from guest_agent.app_machine import (
    CONFIG_SERIAL,
    WorkloadError,
    end_of,
    read_record,
    stop_requests,
    write_record,
)
from guest_agent.supervision import Verdict
from measurements.image_facts import ImageFacts

IMAGE = ImageFacts("apps", "1", dev=False)
PRESS = struct.pack("<qqHHi", 1, 2, 1, 116, 1)


def attach(root: Path, **serials: str) -> Path:
    for name, serial in serials.items():
        folder = root / "sys/block" / name
        folder.mkdir(parents=True)
        (folder / "serial").write_text(serial)
    return root


class TestWhetherThereIsAnApp:
    def test_both_modules_mean_the_same_disk(self) -> None:
        assert agent.CONFIG_SERIAL == CONFIG_SERIAL

    def test_a_config_disk(self, tmp_path: Path) -> None:
        assert agent.has_config_disk(attach(tmp_path, vda="root", vdb="keyturn-config\n"))

    @pytest.mark.parametrize("serial", ["", "keyturn-config2", "keyturn-app", "KEYTURN-CONFIG"])
    def test_none(self, tmp_path: Path, serial: str) -> None:
        assert not agent.has_config_disk(attach(tmp_path, vda=serial))
        assert not agent.has_config_disk(tmp_path / "nothing")

    def test_without_one_the_agent_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent, "has_config_disk", lambda: False)
        monkeypatch.setattr(agent, "wait_for_stop", lambda power: f"button {power}")
        assert agent.wait(IMAGE, (), (3,)) == "button (3,)"

    def test_with_one_the_app_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent, "has_config_disk", lambda: True)
        monkeypatch.setattr(app_machine, "run_app", lambda image, events, power: f"{image.name} {power}")
        assert agent.wait(IMAGE, (), (3,)) == "apps (3,)"


class TestRecords:
    def test_what_was_written_last_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / ".keyturn-envelope"
        assert read_record(path) is None
        for record in (b"first", b"second"):
            write_record(path, record)
            assert read_record(path) == record
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_a_write_that_was_cut_off_leaves_the_old_one(self, tmp_path: Path) -> None:
        path = tmp_path / ".keyturn-envelope"
        write_record(path, b"first")
        path.with_name(path.name + ".new").write_bytes(b"sec")
        assert read_record(path) == b"first"
        write_record(path, b"second")
        assert read_record(path) == b"second"

    def test_a_disk_that_is_gone_has_not_seen_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / ".keyturn-envelope"
        path.mkdir()
        with pytest.raises(OSError, match="directory"):
            read_record(path)


class TestEnds:
    def test_names(self) -> None:
        assert end_of(Verdict.DONE) == "the app is done"
        assert end_of(Verdict.RUNNING) == "told to stop"

    def test_a_failed_app_is_a_failure_of_the_machine(self) -> None:
        with pytest.raises(WorkloadError, match="failed for good"):
            end_of(Verdict.FAILED)


def readable(descriptor: int, *, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(int(seconds * 1000)))


class TestStopRequests:
    @pytest.fixture
    def button(self) -> Iterator[tuple[int, int]]:
        source, press = os.pipe()
        yield source, press
        os.close(press)

    def test_the_button(self, button: tuple[int, int]) -> None:
        source, press = button
        with stop_requests([source]) as stop:
            assert not readable(stop, seconds=0.1)
            os.write(press, PRESS)
            assert readable(stop, seconds=5)

    def test_the_button_pressed_before(self, button: tuple[int, int]) -> None:
        source, press = button
        os.write(press, PRESS)
        with stop_requests([source]) as stop:
            assert readable(stop, seconds=5)

    def test_sigterm(self, button: tuple[int, int]) -> None:
        source, press = button
        with stop_requests([source]) as stop:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            assert readable(stop, seconds=5)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.write(press, PRESS)

    def test_sigterm_while_it_was_blocked(self, button: tuple[int, int]) -> None:
        source, press = button
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        with stop_requests([source]) as stop:
            assert readable(stop, seconds=5)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.write(press, PRESS)

    @pytest.fixture(autouse=True)
    def unblocked(self) -> Iterator[None]:
        yield
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
