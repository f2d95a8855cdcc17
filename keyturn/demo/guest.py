"""A guest of the demo: ``keyturn run`` in the background, its console in a file."""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from keyturn.demo.runner import DemoError, Runner

GATEWAY = "10.0.2.2"
"""The host, as a guest behind QEMU's user network sees it."""

SHAPE = (
    *("--disk", "virtio-blk-pci") * 4,
    *("--nic", "virtio-net-pci"),
    *("--memory", "1GiB"),
)
"""The machine of every guest: boot disk, app disk, config disk, data disk, a network card."""

NETWORK = ("--address", "10.0.2.15/24", "--gateway", GATEWAY)
DATA_BYTES = 16 << 20
BOOT_SECONDS = 300.0
"""Patience with a boot on a slow, emulated, shared processor."""

_GIVES_UP = re.compile(r"^keyturn: gives up \(([a-z0-9-]+)\): (.*)$", re.MULTILINE)
_BY_KMS = re.compile(r"KMS refuses: ([a-z0-9-]+): (.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a guest is started with; paths are relative to the demo's folder.

    ``name`` names its TPM, its data disk and its log.
    """

    name: str
    image: str
    app: str
    config: str
    reference: str | None = None
    port: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenUp:
    """Why a guest gave up: who refused, the stable code, the reason."""

    by: str
    code: str
    reason: str


class Guest:
    """One running guest; ``close`` powers it off."""

    def __init__(self, runner: Runner, machine: Machine, *, boot: int = 1) -> None:
        self.machine = machine
        self.log = runner.folder / f"{machine.name}-{boot}.log"
        self.report = runner.folder / f"{machine.name}-{boot}.report.json"
        self.report.unlink(missing_ok=True)
        _make_data_disk(runner.folder / f"{machine.name}.data")
        self._stack = ExitStack()
        self.process: subprocess.Popen[bytes] = self._stack.enter_context(
            runner.background(*_words(machine, self.report.name), output=self.log)
        )

    def console(self) -> str:
        """What the guest has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def await_report(self) -> Path:
        """The file with the boot report, once it is there."""
        deadline = time.monotonic() + BOOT_SECONDS
        while not self.report.exists():
            self._check(deadline, "its boot report")
        return self.report

    def await_answer(self, path: str) -> dict[str, Any]:
        """The JSON answer of the guest's forwarded port to a GET, once there is one."""
        assert self.machine.port is not None
        url = f"http://127.0.0.1:{self.machine.port[0]}{path}"
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                answer = requests.get(url, timeout=60, allow_redirects=False)
                if answer.status_code == 200:
                    document: dict[str, Any] = answer.json()
                    return document
            except requests.RequestException:
                pass
            self._check(deadline, f"an answer to {path}")

    def await_end(self) -> GivenUp:
        """Why the guest gave up, once it has powered off. Raises ``DemoError`` if it did not give up."""
        deadline = time.monotonic() + BOOT_SECONDS
        while self.process.poll() is None and "keyturn: app: started" not in self.console():
            if time.monotonic() > deadline:
                raise self._error("does not end")
            time.sleep(0.2)
        found = find_given_up(self.console())
        if found is None:
            raise self._error("was not refused")
        return found

    def close(self) -> None:
        """Power the guest off; returns when it is gone."""
        self._stack.close()

    def _check(self, deadline: float, wanted: str) -> None:
        if self.process.poll() is not None:
            raise self._error(f"ended before {wanted}")
        found = find_given_up(self.console())
        if found is not None:
            raise self._error(f"gave up: {found.code}: {found.reason}")
        if time.monotonic() > deadline:
            raise self._error(f"has not shown {wanted} after {BOOT_SECONDS:.0f} s")
        time.sleep(0.2)

    def _error(self, reason: str) -> DemoError:
        last = next((line for line in reversed(self.console().splitlines()) if line.strip()), "nothing")
        return DemoError(
            f"{reason}; its last line: {last}",
            subject=f"guest {self.machine.name}",
            advice=f"read {self.log}",
        )


def find_given_up(console: str) -> GivenUp | None:
    """The line with which an agent gives up, if there is one: the KMS refused, or the agent itself did."""
    said = _GIVES_UP.search(console)
    if said is None:
        return None
    code, reason = said.groups()
    by_kms = _BY_KMS.fullmatch(reason)
    if by_kms is not None:
        return GivenUp(by="KMS", code=by_kms.group(1), reason=by_kms.group(2))
    return GivenUp(by="agent", code=code, reason=reason)


def _words(machine: Machine, report: str) -> list[str]:
    words = ["run", machine.image, *SHAPE, "--app", machine.app, "--config", machine.config]
    words += ["--data", f"{machine.name}.data", "--state", f"tpm/{machine.name}"]
    words += ["--report", report, "--timeout", f"{BOOT_SECONDS:.0f}"]
    if machine.reference is not None:
        words += ["--expect", machine.reference]
    if machine.port is not None:
        words += ["--port", f"{machine.port[0]}:{machine.port[1]}"]
    return words


def _make_data_disk(path: Path) -> None:
    """An empty disk, unless the guest has one already."""
    if not path.exists():
        with path.open("wb") as stream:
            stream.truncate(DATA_BYTES)
