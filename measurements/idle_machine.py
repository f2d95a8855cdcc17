"""A machine that is only read: what QEMU tells firmware can be read from it without booting anything.

The unmodified QEMU is driven through its qtest protocol. An idle machine is halted and never runs an
instruction, which takes about a tenth of a second; ``acpi_dry_boot`` lets the firmware run first.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from measurements.errors import KeyturnError
from measurements.fw_cfg import FirmwareConfig
from measurements.qemu import QemuProgram, die_with_parent
from measurements.qemu_args import Channels, idle_arguments
from measurements.qemu_refusal import refused_subject
from measurements.qmp import Monitor, MonitorError
from measurements.qtest import Qtest, QtestError
from measurements.shape import MachineShape, TpmInterface
from measurements.swtpm import SoftwareTpm

STOP_SECONDS = 5
_FREE_PORT = 0xCF8


class IdleMachineError(KeyturnError):
    """QEMU did not start with the shape's devices."""

    code = "machine"


@dataclass(frozen=True, kw_only=True, slots=True)
class IdleMachine:
    """A halted machine: its buses, its firmware configuration device and the version of its QEMU."""

    bus: Qtest
    config: FirmwareConfig
    qemu_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedMachine:
    """A machine with its three connections, whether it runs or not."""

    bus: Qtest
    monitor: Monitor
    console: socket.socket
    qemu_version: str
    process: subprocess.Popen[bytes]


Arguments = Callable[[Channels, Path], Sequence[str]]
"""Makes QEMU's arguments from the channels and a folder for files of this machine alone."""


@contextlib.contextmanager
def idle_machine(shape: MachineShape, program: QemuProgram) -> Iterator[IdleMachine]:
    """Starts the halted machine and ends it with the ``with`` block."""

    def arguments(channels: Channels, _folder: Path) -> Sequence[str]:
        return idle_arguments(
            shape,
            tpm_socket=channels.tpm_socket,
            monitor_fd=channels.monitor_fd,
            qtest_fd=channels.qtest_fd,
        )

    with started_machine(shape, program, arguments) as machine:
        yield IdleMachine(
            bus=machine.bus, config=FirmwareConfig(machine.bus), qemu_version=machine.qemu_version
        )


@contextlib.contextmanager
def started_machine(
    shape: MachineShape, program: QemuProgram, arguments: Arguments
) -> Iterator[StartedMachine]:
    """Starts QEMU, and a TPM if the shape has one; ends both with the ``with`` block.

    Raises ``IdleMachineError`` with QEMU's own words when it refuses.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyturn-")))
        launcher = tuple(die_with_parent())
        tpm = _start_tpm(stack, folder, launcher) if shape.tpm is not TpmInterface.NONE else None
        pairs = [socket.socketpair() for _ in range(3)]
        ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        errors = stack.enter_context((folder / "qemu.err").open("w+b"))
        with theirs[0], theirs[1], theirs[2]:
            monitor_fd, qtest_fd, console_fd = (end.fileno() for end in theirs)
            channels = Channels(
                monitor_fd=monitor_fd, qtest_fd=qtest_fd, console_fd=console_fd, tpm_socket=tpm
            )
            process = subprocess.Popen(
                [*launcher, *program.command, *arguments(channels, folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(monitor_fd, qtest_fd, console_fd),
                start_new_session=True,
            )
        stack.callback(_end, process)
        monitor, bus = Monitor(ours[0]), Qtest(ours[1])
        for connection in (monitor, bus, ours[2]):
            stack.callback(connection.close)
        try:
            version = monitor.greet()
            bus.inl(_FREE_PORT)
        except (MonitorError, QtestError) as problem:
            raise _refused(program, _said(errors) or problem.reason) from problem
        yield StartedMachine(bus=bus, monitor=monitor, console=ours[2], qemu_version=version, process=process)


def _refused(program: QemuProgram, words: str) -> IdleMachineError:
    return IdleMachineError(
        f"QEMU did not start: {words}",
        subject=refused_subject(words, program=program.name),
        advice="change what QEMU names, or use another QEMU",
    )


def _said(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if ": warning: " not in line).strip()[-500:]


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
