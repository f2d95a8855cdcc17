"""A machine that never runs an instruction: what firmware would read from QEMU can be read from it.

The unmodified QEMU is started halted and driven through its qtest protocol, which takes about a tenth of a
second.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measurements.errors import KeyturnError
from measurements.fw_cfg import FirmwareConfig
from measurements.qemu import QemuProgram, die_with_parent
from measurements.qemu_args import idle_arguments
from measurements.qmp import Monitor, MonitorError
from measurements.qtest import Qtest, QtestError
from measurements.shape import MachineShape, TpmInterface
from measurements.swtpm import SoftwareTpm

STOP_SECONDS = 5


class IdleMachineError(KeyturnError):
    """QEMU did not start with the shape's devices."""

    code = "machine"


@dataclass(frozen=True, kw_only=True, slots=True)
class IdleMachine:
    """A halted machine: its buses, its firmware configuration device and the version of its QEMU."""

    bus: Qtest
    config: FirmwareConfig
    qemu_version: str


@contextlib.contextmanager
def idle_machine(shape: MachineShape, program: QemuProgram) -> Iterator[IdleMachine]:
    """Starts the halted machine and ends it with the ``with`` block."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyturn-")))
        launcher = tuple(die_with_parent())
        tpm_socket = _start_tpm(stack, folder, launcher) if shape.tpm is not TpmInterface.NONE else None
        bus, bus_theirs = socket.socketpair()
        talk, talk_theirs = socket.socketpair()
        errors = stack.enter_context((folder / "qemu.err").open("w+b"))
        with bus_theirs, talk_theirs:
            arguments = idle_arguments(
                shape, tpm_socket=tpm_socket, monitor_fd=talk_theirs.fileno(), qtest_fd=bus_theirs.fileno()
            )
            process = subprocess.Popen(
                [*launcher, *program.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(bus_theirs.fileno(), talk_theirs.fileno()),
                start_new_session=True,
            )
        stack.callback(_end, process)
        machine = Qtest(bus)
        stack.callback(machine.close)
        monitor = Monitor(talk)
        stack.callback(monitor.close)
        try:
            version = monitor.greet()
            config = FirmwareConfig(machine)
        except (MonitorError, QtestError) as problem:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-500:]
            raise IdleMachineError(
                f"QEMU did not start: {said or problem.reason}",
                subject=program.command[-1],
                advice="see QEMU's own message",
            ) from problem
        yield IdleMachine(bus=machine, config=config, qemu_version=version)


def _start_tpm(stack: contextlib.ExitStack, folder: Path, launcher: tuple[str, ...]) -> Path:
    (folder / "tpm").mkdir()
    tpm = SoftwareTpm.start(
        folder / "tpm", socket=folder / "swtpm.sock", log=folder / "swtpm.log", launcher=launcher
    )
    stack.callback(tpm.stop)
    return tpm.socket


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(STOP_SECONDS)
