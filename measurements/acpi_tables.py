"""ACPI tables as OVMF measures them: the raw files that QEMU offers, before firmware links them.

QEMU builds them when firmware asks for them, from what firmware has programmed until then. So a halted
machine is programmed as OVMF does: power management block at 0x600, PCI configuration window at 0xE0000000,
and the first 64-bit PCI window where OVMF places it; with SMM the SMI features are agreed on. Nothing else
that OVMF programs shows in the tables.

The loader script (QEMU's hw/acpi/bios-linker-loader.c, little endian) is a list of commands of 128 bytes;
command 1 (u32) allocates: 56 bytes file name, u32 alignment, u8 zone. OVMF measures the script, then every
allocated file in that order, as EV_PLATFORM_CONFIG_FLAGS into PCR 1; releases before 2023.02 measure none
of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from measurements.errors import FormatError
from measurements.events import EventType, MeasuredEvent, event_over
from measurements.fw_cfg import FirmwareConfig
from measurements.idle_machine import IdleMachine
from measurements.ovmf import Firmware
from measurements.platform_info import address_space
from measurements.qtest import Qtest
from measurements.shape import MachineShape

LOADER = "etc/table-loader"
RESERVATIONS = "etc/e820"
SMI_OFFERED, SMI_REQUESTED, SMI_AGREED = (
    "etc/smi/supported-features",
    "etc/smi/requested-features",
    "etc/smi/features-ok",
)

_SMI_FEATURES = 0b111
"""Broadcast SMI, SMI on hot plug and on hot unplug of processors: what OVMF asks for."""

_EVENT_DATA = b"ACPI DATA"
_COMMAND_SIZE = 128
_ALLOCATE = 1
_E820 = struct.Struct("<QQI")
_RAM = 1
_LPC_SLOT, _POWER_BASE, _POWER_CONTROL = 0x1F, 0x40, 0x44
_HOST_SLOT, _CONFIG_WINDOW = 0x00, 0x60
_BAR4, _COMMAND, _MEMORY_DECODE = 0x20, 0x04, 0x2


@dataclass(frozen=True, kw_only=True, slots=True)
class AcpiFiles:
    """The loader script and the files that it allocates, in the order in which firmware measures them."""

    loader: bytes
    files: tuple[tuple[str, bytes], ...]


def measures_acpi(firmware: Firmware) -> bool:
    """Whether this build measures ACPI tables."""
    return _EVENT_DATA in firmware.dxe.data


def read_acpi(machine: IdleMachine, shape: MachineShape) -> AcpiFiles:
    """The files that QEMU would offer to OVMF on this machine."""
    if shape.smm:
        _agree_on_smi(machine.config)
    _program_like_firmware(machine.bus, shape, window=pci_window(machine.config, shape))
    loader = machine.config.read(LOADER)
    return AcpiFiles(
        loader=loader,
        files=tuple((name, machine.config.read(name)) for name in allocated_files(loader)),
    )


def acpi_events(files: AcpiFiles, *, qemu_version: str) -> list[MeasuredEvent]:
    """PCR 1: the loader script and its files."""
    origin = f"ACPI generator of QEMU {qemu_version} for this machine shape"
    return [
        event_over(
            data,
            pcr=1,
            event_type=EventType.EV_PLATFORM_CONFIG_FLAGS,
            description=f"ACPI data: {name}",
            origin=origin,
        )
        for name, data in [(LOADER, files.loader), *files.files]
    ]


def allocated_files(loader: bytes) -> Iterator[str]:
    """Names of the files that a loader script allocates, in order."""
    if len(loader) % _COMMAND_SIZE:
        raise FormatError(
            "is not a whole number of commands", subject=LOADER, advice="check the QEMU program"
        )
    for position in range(0, len(loader), _COMMAND_SIZE):
        (command,) = struct.unpack_from("<I", loader, position)
        if command == _ALLOCATE:
            yield loader[position + 4 : position + 60].rstrip(b"\0").decode("ascii")


def pci_window(config: FirmwareConfig, shape: MachineShape) -> int:
    """Where OVMF starts the 64-bit PCI window: moved down until it meets no reserved range."""
    start, size, _, _ = address_space(shape)
    reserved = [
        (base, base + length)
        for base, length, kind in _E820.iter_unpack(config.read(RESERVATIONS))
        if kind != _RAM
    ]
    while any(base < start + size and start < end for base, end in reserved):
        start -= size
    return start


def _agree_on_smi(config: FirmwareConfig) -> None:
    # What is agreed changes the hot plug code in the tables.
    offered = int.from_bytes(config.read(SMI_OFFERED), "little")
    config.write(SMI_REQUESTED, (offered & _SMI_FEATURES).to_bytes(8, "little"))
    config.read(SMI_AGREED)


def _program_like_firmware(bus: Qtest, shape: MachineShape, *, window: int) -> None:
    bus.pci_write(_LPC_SLOT, 0, _POWER_BASE, 0x601)
    bus.pci_write(_LPC_SLOT, 0, _POWER_CONTROL, 0x80)
    bus.pci_write(_HOST_SLOT, 0, _CONFIG_WINDOW + 4, 0)
    bus.pci_write(_HOST_SLOT, 0, _CONFIG_WINDOW, 0xE0000001)
    # The boot disk is always a virtio device, whose fourth base address is a 64-bit window.
    slot = shape.disks[0].slot
    bus.pci_write(slot, 0, _BAR4 + 4, window >> 32)
    bus.pci_write(slot, 0, _BAR4, window & 0xFFFFFFFF)
    bus.pci_write(slot, 0, _COMMAND, _MEMORY_DECODE)
