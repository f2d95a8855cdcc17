"""What QEMU offers to the firmware of a trust domain, read from an unmodified QEMU on any machine.

A trust domain needs its hardware, but ACPI tables, SMBIOS tables and the configuration device are made by
QEMU alone, from its arguments. Besides the items that a halted machine shows, a direct boot brings QEMU's
loader ROM into ``bootorder`` (QEMU ``hw/i386/x86-common.c``), before the devices. ``BootMenu`` is zero
without ``-boot menu=on``, which no shape has.
"""

from __future__ import annotations

import re

from measurements.acpi_dump import AcpiDump
from measurements.errors import FormatError
from measurements.firmware_catalogue import Hypervisor
from measurements.fw_cfg import FirmwareConfig
from measurements.idle_machine import idle_machine
from measurements.qemu import QemuProgram
from measurements.shape import BootSource, MachineShape
from measurements.smbios import TABLES
from measurements.tdx.predict import TdxMachine
from measurements.tdx.rtmr0 import BOOT_MENU, FW_CFG_ITEMS

BOOT_ORDER = "bootorder"

_LOADER_ROM = b"/rom@genroms/linuxboot_dma.bin"
_VERSION = re.compile(r"(\d+)\.(\d+)\b.*")


def read_tdx_machine(
    shape: MachineShape,
    hypervisor: Hypervisor,
    acpi: AcpiDump,
    *,
    program: QemuProgram,
) -> TdxMachine:
    """The machine of ``shape``; ``acpi`` are its tables, which the same ``program`` made.

    QEMU is started, halted, for a moment. Raises ``IdleMachineError`` where it refuses the shape.
    """
    with idle_machine(shape, program) as machine:
        fw_cfg = offered_items(machine.config, direct=shape.boot is BootSource.DIRECT)
        smbios = machine.config.read(TABLES)
    return TdxMachine(
        shape=shape,
        hypervisor=hypervisor,
        acpi=acpi.files,
        acpi_origin=acpi.origin,
        acpi_provenance=acpi.provenance,
        fw_cfg=fw_cfg,
        smbios=smbios,
        qemu_version=parse_qemu_version(acpi.qemu_version),
    )


def offered_items(config: FirmwareConfig, *, direct: bool) -> dict[str, bytes]:
    """The items that firmware may measure, by name; ``direct`` for a machine that will get a kernel."""
    items = {name: config.read(name) for name in FW_CFG_ITEMS if name in config.files}
    items[BOOT_MENU] = bytes(2)
    if direct:
        devices = items.get(BOOT_ORDER, b"").rstrip(b"\0")
        entries = [entry for entry in devices.split(b"\n") if entry and entry != _LOADER_ROM]
        items[BOOT_ORDER] = b"\n".join([_LOADER_ROM, *entries]) + b"\0"
    return items


def parse_qemu_version(text: str) -> tuple[int, int]:
    """Major and minor of a QEMU that says that it is ``10.0.13``."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise FormatError(
            f"is {text[:40]!r}, which does not start with a number",
            subject="version of QEMU",
            advice="check the QEMU",
        )
    return int(match[1]), int(match[2])
