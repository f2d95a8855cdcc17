"""Virtual machines: control, clear errors, and nothing left running."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from measurements.errors import MissingToolError
from measurements.qemu import Console, Machine, MachineError, MachineSpec, QemuProgram
from measurements.qemu_args import DiskFile, FirmwareFiles
from measurements.qmp import Monitor, MonitorError
from measurements.shape import MachineShape
from measurements.swtpm import manufacture, require_program
from tests.support.firmware import installed_firmware
from tests.support.tools import require_tool

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 1}}, "capabilities": []}}


def _monitor(*answers: object) -> tuple[Monitor, socket.socket]:
    ours, theirs = socket.socketpair()
    for answer in answers:
        theirs.sendall(json.dumps(answer).encode() + b"\n")
    return Monitor(ours, timeout=1), theirs


def test_monitor_talks() -> None:
    monitor, other = _monitor(
        GREETING, {"return": {}}, {"event": "RESUME"}, {"return": {"status": "running"}}
    )
    assert monitor.greet() == "7.2.1"
    assert monitor.execute("query-status", {"a": 1}) == {"status": "running"}
    assert monitor.events == ["RESUME"]
    sent = [json.loads(line) for line in other.recv(4096).splitlines()]
    assert sent == [{"execute": "qmp_capabilities"}, {"execute": "query-status", "arguments": {"a": 1}}]


def test_monitor_refusal_and_end() -> None:
    monitor, other = _monitor({"error": {"class": "GenericError", "desc": "no such device"}})
    with pytest.raises(MonitorError, match="no such device"):
        monitor.execute("device_del")
    other.close()
    with pytest.raises(MonitorError, match="ended"):
        monitor.execute("quit")


def test_console_keeps_what_it_should() -> None:
    heard: list[bytes] = []
    console = Console(heard.append)
    timer = threading.Timer(0.05, console.feed, [b"login: ready"])
    timer.start()
    match = console.wait_for(re.compile(b"ready"), deadline=time.monotonic() + 5)
    assert match is not None
    assert heard == [b"login: ready"]
    console.close()
    assert console.wait_for(re.compile(b"never"), deadline=time.monotonic() + 60) is None


def test_missing_program_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingToolError) as caught:
        QemuProgram.installed()
    assert "qemu-system-x86" in caught.value.advice
    with pytest.raises(MissingToolError) as missing:
        require_program("swtpm_that_is_not", package="swtpm-tools")
    assert "swtpm-tools" in missing.value.advice


def test_files_that_are_not_there(tmp_path: Path) -> None:
    spec = MachineSpec(
        shape=MachineShape(),
        firmware=FirmwareFiles(code=tmp_path / "none", variables=tmp_path / "none"),
        disks=[DiskFile(path=tmp_path / "disk")],
        program=QemuProgram(command=("/bin/false",)),
    )
    with pytest.raises(MachineError, match="no such file"):
        Machine.start(spec)


def test_new_tpm_has_an_endorsement_certificate_and_is_kept(tmp_path: Path) -> None:
    require_tool("swtpm_setup", package="swtpm-tools")
    require_tool("swtpm", package="swtpm")
    state = tmp_path / "tpm"
    manufacture(state)
    assert (state / "ca" / "issuercert.pem").exists()
    before = (state / "tpm2-00.permall").read_bytes()
    manufacture(state)
    assert (state / "tpm2-00.permall").read_bytes() == before


def _spec(tmp_path: Path, *, program: QemuProgram | None = None) -> MachineSpec:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    require_tool("swtpm", package="swtpm")
    disk = tmp_path / "disk,with comma.raw"
    disk.write_bytes(bytes(1 << 20))
    return MachineSpec(
        shape=MachineShape(memory_mib=512),
        firmware=FirmwareFiles(code=installed_firmware(), variables=installed_firmware("OVMF_VARS_4M.fd")),
        disks=[DiskFile(path=disk)],
        program=program,
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_qemu_that_does_not_start_says_why(tmp_path: Path) -> None:
    program = QemuProgram(command=("/bin/sh", "-c", "echo no such machine >&2; exit 1"))
    with pytest.raises(MachineError, match="no such machine"):
        Machine.start(_spec(tmp_path, program=program))


@pytest.mark.boot
def test_machine_leaves_nothing_running(tmp_path: Path) -> None:
    with Machine.start(_spec(tmp_path)) as machine:
        assert machine.tpm is not None
        pids = [machine.pid, machine.tpm.pid]
        assert all(_alive(pid) for pid in pids)
        assert machine.wait_for("BdsDxe|UEFI", seconds=90)
        with pytest.raises(MachineError, match="did not show it within"):
            machine.wait_for("never shown", seconds=0.1)
        with pytest.raises(MachineError, match="still runs"):
            machine.wait_exit(seconds=0.1)
    assert not any(_alive(pid) for pid in pids)


@pytest.mark.boot
def test_machine_that_is_switched_off(tmp_path: Path) -> None:
    with Machine.start(_spec(tmp_path)) as machine:
        machine.quit()
        assert machine.wait_exit(seconds=20) == 0
        assert not machine.running
