"""What QEMU offers to the firmware of a trust domain, read from an unmodified QEMU on any machine.

A trust domain needs its hardware, but ACPI tables, SMBIOS tables and the configuration device are made by
QEMU alone, from its arguments. Besides the items that a halted machine shows, a direct boot brings QEMU's
loader ROM into ``bootorder`` (QEMU ``hw/i386/x86-common.c``), before the devices. ``BootMenu`` is zero
without ``-boot menu=on``, which no shape has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from measurements.errors import FormatError
from measurements.firmware_catalogue import Hypervisor
from measurements.shape import BootSource, MachineShape
from measurements.smbios import TABLES
from measurements.tdx.predict import TdxMachine
from measurements.tdx.rtmr0 import BOOT_MENU, FW_CFG_ITEMS

if TYPE_CHECKING:
    from measurements.acpi_dump import AcpiDump

BOOT_ORDER = "bootorder"

_LOADER_ROM = b"/rom@genroms/linuxboot_dma.bin"
_VERSION = re.compile(r"(\d+)\.(\d+)\b.*")


def tdx_machine(shape: MachineShape, hypervisor: Hypervisor, dump: AcpiDump) -> TdxMachine:
    """The machine of ``shape`` for a prediction; ``dump`` is what its QEMU offers."""
    return TdxMachine(
        shape=shape,
        hypervisor=hypervisor,
        acpi=dump.files,
        acpi_origin=dump.origin,
        acpi_provenance=dump.provenance,
        fw_cfg=offered_items(dump.items, direct=shape.boot is BootSource.DIRECT),
        smbios=dump.items.get(TABLES),
        qemu_version=parse_qemu_version(dump.qemu_version),
    )


def offered_items(items: Mapping[str, bytes], *, direct: bool) -> dict[str, bytes]:
    """Those of ``items`` that firmware may measure, and what a halted machine does not show; ``direct`` for a
    machine that will get a kernel.
    """
    found = {name: items[name] for name in FW_CFG_ITEMS if name in items}
    found[BOOT_MENU] = bytes(2)
    if direct:
        devices = found.get(BOOT_ORDER, b"").rstrip(b"\0")
        entries = [entry for entry in devices.split(b"\n") if entry and entry != _LOADER_ROM]
        found[BOOT_ORDER] = b"\n".join([_LOADER_ROM, *entries]) + b"\0"
    return found


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
