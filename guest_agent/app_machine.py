"""The machine around the boot of an app: disks, network, containers, socket and power button.

The data disk is mounted at ``/run/keyturn/data``, the log of runtime events is ``/run/keyturn/events``; both
are gone with the machine. Packages for Python (TPM bindings, ``cryptography``) lie outside the agent's own
folder and become importable only here.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from guest_agent import console, container_roots, network, registers, storage, timeline
from guest_agent.app_boot import App, AppBoot, AppServices
from guest_agent.containers import Workload
from guest_agent.deferred_modules import TLS, defer
from guest_agent.oci_config import SOCKET_PATH
from guest_agent.power import wait_for_press
from guest_agent.register_log import RegisterLog, encode_log
from guest_agent.socket_server import SocketServer
from guest_agent.supervision import Verdict
from guest_agent.tpm_backend import open_tpm
from measurements.boot_timeline import Moment, timeline_line
from measurements.config_disk import Config
from measurements.errors import RefusedError
from measurements.image_facts import ImageFacts
from measurements.runtime_events import RuntimeEvent, Storage

CONFIG_SERIAL = "keyturn-config"
APP_SERIAL = "keyturn-app"
FOLDER = Path("/run/keyturn")
EVENTS = FOLDER / "events"
DATA = str(FOLDER / "data")
ENVELOPE_RECORD = Path(DATA, ".keyturn-envelope")
"""No volume has this name, so no container sees it."""

MAX_RECORD = 4096
"""Bytes of the record; it has far fewer."""

PACKAGES = "/usr/lib/python3/dist-packages"


class WorkloadError(RefusedError):
    """The app's containers failed."""

    code = "workload"


def run_app(image: ImageFacts, extended: tuple[RuntimeEvent, ...], buttons: Sequence[int]) -> str:
    """Boot the app and run it to its end; why it ended. ``extended`` are the events that the register holds
    already, ``buttons`` the descriptors of the power button. Raises ``KeyturnError`` or ``OSError``.
    """
    sys.path.append(PACKAGES)
    defer(TLS)
    warnings.simplefilter("ignore")  # the console is for the report and the app, not for deprecations
    FOLDER.mkdir(mode=0o700)
    if extended:
        EVENTS.write_bytes(encode_log(extended))
    backend = open_tpm()
    try:
        return AppBoot(image, backend, RegisterLog(backend, EVENTS), Machine(buttons)).run()
    finally:
        backend.close()


class Machine:
    """``app_boot.Surroundings`` on the real machine."""

    def __init__(self, buttons: Sequence[int]) -> None:
        self._buttons = buttons
        self._data_mounted = False

    def config_disk(self) -> BinaryIO:
        """The config disk."""
        return open(storage.find_disk(CONFIG_SERIAL), "rb")

    def event_log(self) -> bytes:
        """The firmware's event log."""
        return registers.read_event_log()

    def configure_network(self, config: Config) -> None:
        """The static network of the configuration."""
        network.configure(config.network)

    def prepare_storage(self, storage_secret: bytes, *, may_format: bool) -> Storage:
        """Open the data disk, or format it if that is permitted."""
        disk = storage.describe_disk(storage.find_disk(storage.DISK_SERIAL), storage_secret)
        opened = storage.provide(disk, target=DATA, format_permitted=may_format)
        self._data_mounted = True
        timeline.BOOT.mark(Moment.DISK)
        self.say(f"data disk: {opened.name.lower()}")
        return Storage(opened.value)

    def seen_envelope(self) -> bytes | None:
        """The record of the newest envelope."""
        return read_record(ENVELOPE_RECORD)

    def remember_envelope(self, record: bytes) -> None:
        """Keep the record of the newest envelope."""
        write_record(ENVELOPE_RECORD, record)

    def run_workload(self, app: App, services: AppServices) -> str:
        """Serve the socket and run the containers until they end or the machine is told to stop."""
        containers = app.manifest.containers
        container_roots.mount_cgroups()
        roots = container_roots.open_roots(containers, disk=storage.find_disk(APP_SERIAL))
        container_roots.make_volumes(containers, folder=DATA)
        server = SocketServer(Path(SOCKET_PATH), services)
        try:
            with stop_requests(self._buttons) as stop:
                workload = Workload(containers, roots=roots, volumes=DATA, host_env=app.env, say=self.say)
                self.say("app: started")
                outcome = workload.run(stop=stop, when_started=self._started)
        finally:
            server.close()
            if self._data_mounted:
                storage.release(DATA)
        return end_of(outcome.verdict)

    def _started(self) -> None:
        """The first container is started, so the boot is over."""
        timeline.BOOT.mark(Moment.CONTAINER)
        gc.enable()
        self.say(timeline_line(timeline.BOOT.times))

    def say(self, line: str) -> None:
        """One line on the console."""
        console.say(line)


def read_record(path: Path) -> bytes | None:
    """A small file of the encrypted disk, if it is there."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_RECORD)
    except FileNotFoundError:
        return None


def write_record(path: Path, record: bytes) -> None:
    """Replace the file as a whole; it has reached the disk when this returns."""
    partial = path.with_name(path.name + ".new")
    with partial.open("wb") as file:
        file.write(record)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def end_of(verdict: Verdict) -> str:
    """Why the workload ended. Raises ``WorkloadError`` when it failed."""
    if verdict is Verdict.FAILED:
        raise WorkloadError(
            "a container failed for good",
            subject="app",
            advice="see the exit codes and logs of the containers",
        )
    return "the app is done" if verdict is Verdict.DONE else "told to stop"


@contextmanager
def stop_requests(buttons: Sequence[int]) -> Iterator[int]:
    """A descriptor that becomes readable when the button is pressed or SIGTERM arrives; either may have
    happened before.
    """
    source, sink = os.pipe()

    def stop(*_: object) -> None:
        os.write(sink, b"x")

    previous = signal.signal(signal.SIGTERM, stop)
    thread = threading.Thread(target=_watch, args=(tuple(buttons), stop), name="button", daemon=True)
    thread.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        yield source
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, previous)


def _watch(buttons: tuple[int, ...], stop: Callable[[], None]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    wait_for_press(buttons)
    stop()
