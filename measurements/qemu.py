"""One virtual machine from start to end: swtpm, QEMU, console, monitor, and nothing left running afterwards.

Usage::

    with Machine.start(spec) as machine:
        machine.wait_for("ready", seconds=60)
        machine.power_button()
        machine.wait_exit(seconds=30)
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from measurements.errors import KeyturnError, MissingToolError
from measurements.qemu_args import (
    Accelerator,
    Backends,
    DirectBoot,
    DiskFile,
    FirmwareFiles,
    PortForward,
    run_arguments,
)
from measurements.qemu_refusal import refused_subject
from measurements.qmp import Monitor, MonitorError
from measurements.shape import CpuVendor, MachineShape, TpmInterface
from measurements.swtpm import SoftwareTpm, TpmError, manufacture, require_program, socket_folder_fits

CONSOLE_LIMIT = 8 << 20
STOP_SECONDS = 5
_QEMU = "qemu-system-x86_64"


class MachineError(KeyturnError):
    """A machine that did not start, or did not do in time what it should."""

    code = "machine"


@dataclass(frozen=True, kw_only=True, slots=True)
class QemuProgram:
    """How QEMU is called: usually one program, but a loader with options may come before it."""

    command: tuple[str, ...]

    @property
    def binary(self) -> Path:
        """The file with QEMU itself."""
        named = (Path(word) for word in self.command if Path(word).name.startswith("qemu-"))
        return next(named, Path(self.command[0]))

    @property
    def name(self) -> str:
        """QEMU's path, for messages."""
        return str(self.binary)

    @classmethod
    def installed(cls) -> QemuProgram:
        """The QEMU on the search path, or an error that names the package to install."""
        return cls(command=(require_program(_QEMU, package="qemu-system-x86"),))

    @classmethod
    def at(cls, path: Path | None) -> QemuProgram:
        """The QEMU at ``path``, or the installed one; an error if it is no program."""
        if path is None:
            return cls.installed()
        if not os.access(path, os.X_OK) or not path.is_file():
            raise MissingToolError("is not a program", subject=str(path), advice="give the path of QEMU")
        return cls(command=(str(path),))


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """A shape and what stands behind it.

    The firmware's variables are copied unless ``keep_variables``; ``tpm_state`` None means a fresh TPM.
    """

    shape: MachineShape
    firmware: FirmwareFiles
    disks: Sequence[DiskFile]
    tpm_state: Path | None = None
    direct: DirectBoot | None = None
    keep_variables: bool = False
    forwards: Sequence[PortForward] = ()
    program: QemuProgram | None = None
    accelerator: Accelerator | None = None
    extra: Sequence[str] = ()


class Console:
    """What the guest wrote on its serial console: the last ``CONSOLE_LIMIT`` bytes."""

    def __init__(self, listener: Callable[[bytes], None] | None = None) -> None:
        self._data = bytearray()
        self._dropped = 0
        self._changed = threading.Condition()
        self._closed = False
        self._listener = listener

    def feed(self, data: bytes) -> None:
        """Takes bytes from the guest."""
        with self._changed:
            self._data += data
            excess = len(self._data) - CONSOLE_LIMIT
            if excess > 0:
                del self._data[:excess]
                self._dropped += excess
            self._changed.notify_all()
        if self._listener is not None:
            self._listener(data)

    def close(self) -> None:
        """No more bytes will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def data(self) -> bytes:
        """Everything that is kept."""
        with self._changed:
            return bytes(self._data)

    def wait_for(self, pattern: re.Pattern[bytes], *, deadline: float) -> re.Match[bytes] | None:
        """The first match; None when ``deadline`` (``time.monotonic``) passes or the guest ends first."""
        with self._changed:
            while True:
                match = pattern.search(bytes(self._data))
                remaining = deadline - time.monotonic()
                if match is not None or self._closed or remaining <= 0:
                    return match
                self._changed.wait(remaining)


class Machine:
    """A running machine; leaving the ``with`` block ends it, whatever happened."""

    def __init__(self) -> None:
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Path | None = None
        self.tpm: SoftwareTpm | None = None
        self.monitor: Monitor | None = None
        self.console = Console()
        self.qemu_version = ""

    @classmethod
    def start(cls, spec: MachineSpec, *, listener: Callable[[bytes], None] | None = None) -> Machine:
        """Starts swtpm and QEMU; ``listener`` gets the console's bytes as they come, from another thread."""
        machine = cls()
        machine.console = Console(listener)
        try:
            machine._start(spec)
        except BaseException:
            machine.close()
            raise
        return machine

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, spec: MachineSpec) -> None:
        program = spec.program or QemuProgram.installed()
        _check_files(spec)
        folder = self._cleanup.enter_context(_work_folder())
        launcher = tuple(die_with_parent())
        if spec.shape.tpm is not TpmInterface.NONE:
            self._start_tpm(spec.tpm_state or folder / "tpm", folder, launcher)
        variables = spec.firmware.variables
        if not spec.keep_variables:
            variables = folder / "variables.fd"
            variables.write_bytes(spec.firmware.variables.read_bytes())
        ours, theirs = socket.socketpair()
        backends = Backends(
            firmware=FirmwareFiles(code=spec.firmware.code, variables=variables),
            disks=spec.disks,
            tpm_socket=None if self.tpm is None else self.tpm.socket,
            direct=spec.direct,
            accelerator=spec.accelerator or best_accelerator(program, spec.shape.cpu_vendor),
            monitor_fd=theirs.fileno(),
            forwards=spec.forwards,
            extra=spec.extra,
        )
        self._errors = folder / "qemu.err"
        with theirs, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*launcher, *program.command, *run_arguments(spec.shape, backends)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._cleanup.callback(self._end_process, self._process)
        self._start_reader(self._process)
        self.monitor = Monitor(ours)
        self._cleanup.callback(self.monitor.close)
        try:
            self.qemu_version = self.monitor.greet()
        except MonitorError as problem:
            words = self._said()
            raise MachineError(
                f"QEMU did not start: {words}",
                subject=refused_subject(words, program=program.name),
                advice="see QEMU's own message",
            ) from problem

    def _start_tpm(self, state: Path, folder: Path, launcher: tuple[str, ...]) -> None:
        manufacture(state)
        self.tpm = SoftwareTpm.start(
            state, socket=folder / "swtpm.sock", log=folder / "swtpm.log", launcher=launcher
        )
        self._cleanup.callback(self.tpm.stop)

    def _start_reader(self, process: subprocess.Popen[bytes]) -> None:
        def pump() -> None:
            assert process.stdout is not None
            with process.stdout as stream:
                while data := os.read(stream.fileno(), 65536):
                    self.console.feed(data)
            self.console.close()

        reader = threading.Thread(target=pump, name="console", daemon=True)
        reader.start()

    def _said(self) -> str:
        text = self._errors.read_text(errors="replace").strip() if self._errors is not None else ""
        return text[-500:] or "it said nothing"

    @staticmethod
    def _end_process(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._running().pid

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise MachineError("the machine was never started", subject="machine", advice="use Machine.start")
        return self._process

    def wait_for(self, pattern: str, *, seconds: float) -> re.Match[bytes]:
        """Waits for a regular expression on the console; a machine that ends or takes longer is an error."""
        deadline = time.monotonic() + seconds
        match = self.console.wait_for(re.compile(pattern.encode(), re.DOTALL), deadline=deadline)
        if match is None:
            state = (
                f"did not show it within {seconds:.0f} s"
                if self.running
                else f"ended before it: {self._said()}"
            )
            last = self.console.data[-300:].decode(errors="replace")
            raise MachineError(
                f"waited for {pattern!r}; the machine {state}",
                subject="console",
                advice=f"last output: {last!r}",
            )
        return match

    @property
    def running(self) -> bool:
        """Whether QEMU still runs."""
        return self._running().poll() is None

    def power_button(self) -> None:
        """Presses the power button; the guest decides what follows."""
        self._monitor().execute("system_powerdown")

    def stop(self) -> None:
        """Halts the machine's processors."""
        self._monitor().execute("stop")

    def read_memory(self, address: int, size: int, scratch: Path) -> bytes:
        """Physical memory of the guest, by way of the file ``scratch``."""
        self._monitor().execute("pmemsave", {"val": address, "size": size, "filename": str(scratch)})
        return scratch.read_bytes()

    def quit(self) -> None:
        """Ends QEMU at once, as if power were cut."""
        with contextlib.suppress(MonitorError):
            self._monitor().execute("quit")

    def _monitor(self) -> Monitor:
        if self.monitor is None:
            raise MachineError("the machine was never started", subject="machine", advice="use Machine.start")
        return self.monitor

    def wait_exit(self, *, seconds: float) -> int:
        """Waits until QEMU ends; its exit status."""
        try:
            return self._running().wait(seconds)
        except subprocess.TimeoutExpired as problem:
            raise MachineError(
                f"still runs after {seconds:.0f} s", subject="machine", advice="look at its console"
            ) from problem

    def close(self) -> None:
        """Ends everything that was started and removes the working folder."""
        self._cleanup.close()


@functools.cache
def best_accelerator(program: QemuProgram, vendor: CpuVendor) -> Accelerator:
    """KVM where the host's processor is of the shape's vendor and a machine starts with it, else TCG."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or host_vendor() != vendor:
        return Accelerator.TCG
    probe = [
        "-M",
        "q35",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-nodefaults",
        "-display",
        "none",
        "-S",
        "-qmp",
        "stdio",
    ]
    talk = b'{"execute": "qmp_capabilities"}{"execute": "quit"}\n'
    try:
        done = subprocess.run(
            [*program.command, *probe], input=talk, capture_output=True, timeout=10, check=False
        )
    except subprocess.TimeoutExpired:
        return Accelerator.TCG
    return Accelerator.KVM if done.returncode == 0 else Accelerator.TCG


def host_vendor() -> str:
    """The vendor of this host's processor, empty where it is not known."""
    try:
        match = re.search(r"^vendor_id\s*:\s*(\w+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match[1] if match else ""


def die_with_parent() -> list[str]:
    """A command prefix: the kernel ends the program when this process dies without cleaning up."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv is not None else []


def _check_files(spec: MachineSpec) -> None:
    if len(spec.disks) != len(spec.shape.disks):
        raise MachineError(
            f"the shape has {len(spec.shape.disks)} disks, but {len(spec.disks)} files are given",
            subject="disk",
            advice="give one file per disk of the shape",
        )
    direct = [] if spec.direct is None else [spec.direct.kernel, spec.direct.initrd]
    disks = [disk.path for disk in spec.disks]
    for path in [spec.firmware.code, spec.firmware.variables, *disks, *filter(None, direct)]:
        if not path.is_file():
            raise MachineError("no such file", subject=str(path), advice="check the path")


@contextlib.contextmanager
def _work_folder() -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyturn-")))
        if not socket_folder_fits(folder):
            raise TpmError(
                "its path is too long for a socket",
                subject=str(folder),
                advice="set TMPDIR to a shorter path",
            )
        yield folder
