"""Log and register stay together, or the log is refused."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.register_log import (
    MAX_EVENTS,
    MAX_PAYLOAD,
    RegisterLog,
    RegisterLogError,
    encode_log,
    parse_log,
)
from guest_agent.tpm_backend import open_tpm
from guest_agent.tpm_commands import TpmError
from measurements.runtime_events import RuntimeEvent, RuntimeEventError, boot_event, replay_runtime_events
from measurements.swtpm import manufacture
from tests.guest_agent.fakes import MemoryBackend
from tests.guest_agent.tpm_process import powered_on
from tests.support.tools import require_tool

EVENTS = st.lists(
    st.builds(RuntimeEvent, st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True), st.binary(max_size=64)),
    max_size=8,
)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events"


def test_events_are_logged_and_extended(backend: MemoryBackend, path: Path) -> None:
    log = RegisterLog(backend, path)
    first, second = boot_event(), RuntimeEvent("app", b"\x00\xff")
    log.append(first)
    log.append(second)
    assert path.read_bytes() == b"keyturn-boot 31\napp 00ff\n"
    assert log.events == (first, second)
    assert backend.register == replay_runtime_events((first, second))
    assert RegisterLog(backend, path).events == (first, second)


class TestQuote:
    def test_it_comes_with_the_events_that_it_covers(self, backend: MemoryBackend, path: Path) -> None:
        log = RegisterLog(backend, path)
        log.append(boot_event())
        quoted, events = log.quote(bytes(64))
        assert events == (boot_event(),)
        assert quoted.registers["sha384"][14] == replay_runtime_events(events)["sha384"]

    def test_none_of_a_register_that_somebody_else_extended(self, backend: MemoryBackend, path: Path) -> None:
        log = RegisterLog(backend, path)
        backend.extend({"sha256": bytes(32), "sha384": bytes(48)})
        with pytest.raises(RegisterLogError, match="not what the log says"):
            log.quote(bytes(64))


class TestCrash:
    def test_between_entry_and_extend(self, backend: MemoryBackend, path: Path) -> None:
        log = RegisterLog(backend, path)
        log.append(boot_event())
        backend.fails = True
        with pytest.raises(TpmError):
            log.append(RuntimeEvent("app", b""))
        backend.fails = False
        assert parse_log(path.read_bytes())[-1].name == "app"
        with pytest.raises(RegisterLogError, match="not what the log says"):
            RegisterLog(backend, path)

    def test_the_same_process_goes_no_further_either(self, backend: MemoryBackend, path: Path) -> None:
        log = RegisterLog(backend, path)
        backend.fails = True
        with pytest.raises(TpmError):
            log.append(boot_event())
        backend.fails = False
        with pytest.raises(RegisterLogError, match="not completed"):
            log.append(boot_event())
        with pytest.raises(RegisterLogError, match="not completed"):
            _ = log.events

    def test_inside_an_entry(self, backend: MemoryBackend, path: Path) -> None:
        RegisterLog(backend, path).append(boot_event())
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(RegisterLogError, match="cut off"):
            RegisterLog(backend, path)


class TestAttacks:
    def test_a_register_that_somebody_else_extended(self, backend: MemoryBackend, path: Path) -> None:
        log = RegisterLog(backend, path)
        backend.extend({"sha256": bytes(32), "sha384": bytes(48)})
        with pytest.raises(RegisterLogError, match="not what the log says"):
            log.append(boot_event())
        assert not path.exists()

    def test_a_register_in_use_without_its_log(self, backend: MemoryBackend, path: Path) -> None:
        RegisterLog(backend, path).append(boot_event())
        path.unlink()
        with pytest.raises(RegisterLogError):
            RegisterLog(backend, path)

    def test_a_rewritten_entry(self, backend: MemoryBackend, path: Path) -> None:
        RegisterLog(backend, path).append(boot_event())
        path.write_bytes(b"keyturn-boot 32\n")
        with pytest.raises(RegisterLogError):
            RegisterLog(backend, path)

    def test_a_link_in_the_log_s_place_is_not_followed(
        self, backend: MemoryBackend, path: Path, tmp_path: Path
    ) -> None:
        path.symlink_to(tmp_path / "target")
        with pytest.raises(OSError, match="symbolic links"):
            RegisterLog(backend, path).append(boot_event())
        assert backend.register["sha256"] == bytes(32)


def test_a_name_that_cannot_be_measured_leaves_no_trace(backend: MemoryBackend, path: Path) -> None:
    log = RegisterLog(backend, path)
    with pytest.raises(RuntimeEventError):
        log.append(RuntimeEvent("Not a name", b""))
    assert not path.exists()
    log.append(boot_event())


def test_bounds(backend: MemoryBackend, path: Path) -> None:
    log = RegisterLog(backend, path)
    with pytest.raises(RegisterLogError, match="larger"):
        log.append(RuntimeEvent("app", bytes(MAX_PAYLOAD + 1)))
    log.append(RuntimeEvent("app", bytes(MAX_PAYLOAD)))
    with pytest.raises(RegisterLogError, match="larger"):
        parse_log(encode_log([RuntimeEvent("app", b"")] * (MAX_EVENTS + 1)))


def test_threads_take_turns(backend: MemoryBackend, path: Path) -> None:
    log = RegisterLog(backend, path)
    threads = [
        threading.Thread(target=log.append, args=(RuntimeEvent("app", bytes([number])),))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(RegisterLog(backend, path).events) == 16


@given(EVENTS)
def test_the_file_round_trips(events: list[RuntimeEvent]) -> None:
    assert parse_log(encode_log(events)) == tuple(events)


@pytest.mark.parametrize(
    "data",
    [
        b"app 0\n", b"app 0G\n", b"app FF\n", b"App \n", b"app\n", b" 00\n", b"\n", b"app 00",
        b"app 00\r\n", b"app  00\n", b"\xff 00\n",
    ],
)  # fmt: skip
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(RegisterLogError):
        parse_log(data)


def test_with_a_real_tpm(tmp_path: Path) -> None:
    require_tool("swtpm_setup", package="swtpm-tools")
    require_tool("swtpm_localca", package="swtpm-tools")
    manufacture(tmp_path / "state")
    with powered_on(tmp_path / "state") as tcti, closing(open_tpm(tcti)) as tpm:
        RegisterLog(tpm, tmp_path / "events").append(boot_event())
        assert RegisterLog(tpm, tmp_path / "events").events == (boot_event(),)
    with (
        powered_on(tmp_path / "state") as tcti,
        closing(open_tpm(tcti)) as tpm,
        pytest.raises(RegisterLogError),
    ):
        RegisterLog(tpm, tmp_path / "events")
