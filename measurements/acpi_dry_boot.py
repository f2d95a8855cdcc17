"""ACPI tables after firmware has run: an unmodified QEMU runs the firmware by emulation with nothing to boot,
is stopped, and its firmware configuration device is read over the qtest port.

QEMU writes the tables when firmware first asks for them, after firmware has programmed PCI; what is read
later is what firmware got. Firmware is done when its boot manager speaks on the console (``BdsDxe``), or, for
one that is silent, when every PCI device has its windows and nothing has changed for a while.

This holds for any firmware and any shape; where the idle machine gives the same, that is the quick way
(``acpi_tables.idle_suffices``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measurements.errors import KeyturnError
from measurements.fw_cfg import FirmwareConfig
from measurements.idle_machine import IdleMachine, StartedMachine, started_machine
from measurements.qemu import QemuProgram
from measurements.qemu_args import Channels, DryBootFirmware, dry_boot_arguments
from measurements.shape import MachineShape

BOOT_SECONDS = 240
_SETTLE_SECONDS = 3
_POLL_SECONDS = 0.2
_BOOT_MANAGER = b"BdsDxe"
_CONSOLE_LIMIT = 1 << 20
_UNPROGRAMMED = -1


class DryBootError(KeyturnError):
    """Firmware that did not come to its boot manager."""

    code = "dry-boot"


@contextlib.contextmanager
def dry_boot(shape: MachineShape, program: QemuProgram, firmware: DryBootFirmware) -> Iterator[IdleMachine]:
    """Runs ``firmware`` on a machine of ``shape`` up to its boot manager and stops the machine, which can
    then be read; ends it with the ``with`` block.

    Takes 5 to 20 s of processor time. Raises ``DryBootError``, and ``IdleMachineError`` when QEMU refuses.
    """
    for path in filter(None, (firmware.code, firmware.variables)):
        if not path.is_file():
            raise DryBootError("no such file", subject=str(path), advice="check the path")

    def arguments(channels: Channels, folder: Path) -> Sequence[str]:
        variables = firmware.variables
        if variables is not None:
            copy = folder / "variables.fd"
            copy.write_bytes(variables.read_bytes())
            variables = copy
        return dry_boot_arguments(shape, DryBootFirmware(code=firmware.code, variables=variables), channels)

    with started_machine(shape, program, arguments) as machine:
        _await_firmware(machine, firmware.code)
        machine.monitor.execute("stop")
        yield IdleMachine(
            bus=machine.bus, config=FirmwareConfig(machine.bus), qemu_version=machine.qemu_version
        )


def _await_firmware(machine: StartedMachine, code: Path) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    console = b""
    settled: tuple[float, object] = (time.monotonic(), None)
    machine.console.settimeout(_POLL_SECONDS)
    while time.monotonic() < deadline:
        console += _heard(machine)
        if _BOOT_MANAGER in console:
            return
        windows = _windows(machine)
        if windows is None or windows != settled[1]:
            settled = (time.monotonic(), windows)
        elif time.monotonic() - settled[0] > _SETTLE_SECONDS:
            return
        if machine.process.poll() is not None or len(console) > _CONSOLE_LIMIT:
            break
    raise DryBootError(
        f"it did not come to its boot manager; the console ends with {console[-200:]!r}",
        subject=str(code),
        advice="check that this firmware is for QEMU's q35 machine and runs outside of a confidential guest",
    )


def _heard(machine: StartedMachine) -> bytes:
    try:
        heard = machine.console.recv(1 << 16)
    except TimeoutError:
        return b""
    if not heard:
        time.sleep(_POLL_SECONDS)
    return heard


def _windows(machine: StartedMachine) -> list[tuple[int, int]] | None:
    """Number and address of all windows of all PCI devices; None while one has no address."""
    found: list[tuple[int, int]] = []
    todo: list[Any] = [bus["devices"] for bus in machine.monitor.execute("query-pci")]
    while todo:
        for device in todo.pop():
            found += [(region["bar"], region["address"]) for region in device["regions"]]
            todo.append(device.get("pci_bridge", {}).get("devices", []))
    return found if found and all(address != _UNPROGRAMMED for _, address in found) else None
