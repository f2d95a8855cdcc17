"""ACPI tables as OVMF measures them: the raw files that QEMU offers, before firmware links them.

QEMU builds them when firmware asks for them, from what firmware has programmed until then. So a halted
machine is programmed as OVMF does: power management block at 0x600, PCI configuration window at 0xE0000000,
and the first 64-bit PCI window where OVMF places it; with SMM the SMI features are agreed on. Nothing else
that OVMF programs shows in the tables, as ``idle_limits`` says and dry boots of several shapes prove.

OVMF measures the loader script (``acpi_blob``), then every file that it allocates in that order, as
EV_PLATFORM_CONFIG_FLAGS into PCR 1; releases before 2023.02 measure none of it.
"""

from __future__ import annotations

import re
import struct

from measurements.acpi_blob import LOADER, AcpiFiles, allocated_files
from measurements.events import EventType, MeasuredEvent, Provenance, digests_of
from measurements.firmware_volume import FirmwareVolume
from measurements.fw_cfg import FirmwareConfig
from measurements.idle_machine import IdleMachine
from measurements.ovmf import Firmware
from measurements.platform_info import MAX_USED_BITS, USUAL_BITS, address_space
from measurements.qtest import Qtest
from measurements.shape import MachineShape
from measurements.shape_devices import FIRST_SLOT, LAST_SLOT

RESERVATIONS = "etc/e820"
SMI_OFFERED, SMI_REQUESTED, SMI_AGREED = (
    "etc/smi/supported-features",
    "etc/smi/requested-features",
    "etc/smi/features-ok",
)

_SMI_FEATURES = 0b111
"""Broadcast SMI, SMI on hot plug and on hot unplug of processors: what OVMF asks for."""

_EVENT_DATA = b"ACPI DATA"
_SMM_MODULE = "SmmControl2Dxe".encode("utf-16-le")
_SMALL_DEVICES = ("virtio-", "vhost-", "e1000", "igb", "rtl8139", "vmxnet3", "nvme", "qemu-xhci")
_LARGE_DEVICES = ("virtio-gpu", "virtio-vga", "virtio-mem", "virtio-pmem")
_PROVEN_PHYS_BITS = range(40, 53)
_RELEASE = re.compile(rb"(2\x000\x00[0-9]\x00[0-9]\x00)\.\x00([0-9]\x00[0-9]\x00)")
_LIMITS_WIDTH_FROM = (2023, 8)
"""The release from which OVMF uses no more than ``platform_info.MAX_USED_BITS``."""
_E820 = struct.Struct("<QQI")
_RAM = 1
_LPC_SLOT, _POWER_BASE, _POWER_CONTROL = 0x1F, 0x40, 0x44
_HOST_SLOT, _CONFIG_WINDOW = 0x00, 0x60
_COMMAND, _MEMORY_DECODE = 0x04, 0x2
_HEADER_TYPE, _BAR0, _BAR4 = 0x0C, 0x10, 0x20
_ABSENT, _WIDE = 0xFFFFFFFF, 0x4


def measures_acpi(firmware: Firmware) -> bool:
    """Whether this build measures ACPI tables."""
    return _EVENT_DATA in firmware.dxe.data


def idle_limits(shape: MachineShape, dxe: FirmwareVolume | None) -> str | None:
    """Why an idle machine does not show what firmware with the drivers ``dxe`` (None: unknown ones) would get
    on a machine of ``shape``; None where it does.
    """
    if dxe is None:
        return "the firmware is not OVMF"
    if _EVENT_DATA not in dxe.data:
        return "the firmware is older than edk2 2023.02 and places PCI Express registers elsewhere"
    if shape.smm != (_SMM_MODULE in dxe.data):
        return f"the firmware is {'not ' if shape.smm else ''}built for SMM"
    if shape.phys_bits > MAX_USED_BITS and not _limits_width(dxe):
        return f"what this firmware makes of {shape.phys_bits}-bit addresses is not known"
    return shape_limits(shape)


def _limits_width(dxe: FirmwareVolume) -> bool:
    releases = [(int(match[1][::2]), int(match[2][::2])) for match in _RELEASE.finditer(dxe.data)]
    return bool(releases) and min(releases) >= _LIMITS_WIDTH_FROM


def shape_limits(shape: MachineShape, *, port_room: bool = True) -> str | None:
    """The same for the shape alone, with firmware that suits it; ``port_room``: which keeps room behind root
    ports.
    """
    if shape.pxbs:
        return "there is more than one root bus"
    if shape.passed:
        return "the windows of passed-through devices decide about PCI windows"
    if shape.phys_bits not in _PROVEN_PHYS_BITS:
        return f"the PCI window of {shape.phys_bits}-bit addresses is not known"
    if port_room and shape.phys_bits > USUAL_BITS and any(device.root_port for device in shape.devices):
        return f"firmware keeps room behind root ports by the width of addresses ({shape.phys_bits} bits)"
    for device in shape.devices:
        if not device.model.startswith(_SMALL_DEVICES) or device.model.startswith(_LARGE_DEVICES):
            return f"the windows of {device.model} are not known"
    return None


def offered_files(machine: IdleMachine) -> AcpiFiles:
    """The files as the machine offers them now."""
    loader = machine.config.read(LOADER)
    return AcpiFiles(
        loader=loader,
        files=tuple((name, machine.config.read(name)) for name in allocated_files(loader)),
    )


def read_acpi(machine: IdleMachine, shape: MachineShape) -> AcpiFiles:
    """The files that QEMU would offer to OVMF on this machine."""
    if shape.smm:
        _agree_on_smi(machine.config)
    _program_like_firmware(machine.bus, window=pci_window(machine.config, shape))
    return offered_files(machine)


def acpi_events(
    files: AcpiFiles,
    *,
    qemu_version: str,
    origin: str = "",
    provenance: Provenance = Provenance.COMPUTED,
) -> list[MeasuredEvent]:
    """PCR 1: the loader script and its files; ``origin`` stands in place of the usual words."""
    origin = origin or f"ACPI generator of QEMU {qemu_version} for this machine shape"
    return [
        MeasuredEvent(
            pcr=1,
            event_type=EventType.EV_PLATFORM_CONFIG_FLAGS,
            digests=digests_of(data),
            description=f"ACPI data: {name}",
            origin=origin,
            provenance=provenance,
        )
        for name, data in [(LOADER, files.loader), *files.files]
    ]


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


def _program_like_firmware(bus: Qtest, *, window: int) -> None:
    bus.pci_write(_LPC_SLOT, 0, _POWER_BASE, 0x601)
    bus.pci_write(_LPC_SLOT, 0, _POWER_CONTROL, 0x80)
    bus.pci_write(_HOST_SLOT, 0, _CONFIG_WINDOW + 4, 0)
    bus.pci_write(_HOST_SLOT, 0, _CONFIG_WINDOW, 0xE0000001)
    place = _first_wide_window(bus)
    if place is not None:
        slot, register = place
        bus.pci_write(slot, 0, register + 4, window >> 32)
        bus.pci_write(slot, 0, register, window & 0xFFFFFFFF)
        bus.pci_write(slot, 0, _COMMAND, _MEMORY_DECODE)


def _first_wide_window(bus: Qtest) -> tuple[int, int] | None:
    """Slot and register of the first 64-bit memory window of a device on the root bus, if there is one. Which
    device has the lowest window does not show in the tables.
    """
    for slot in range(FIRST_SLOT, LAST_SLOT + 1):
        if bus.pci_read(slot, 0, 0) == _ABSENT or bus.pci_read(slot, 0, _HEADER_TYPE) >> 16 & 0x7F:
            continue
        for register in range(_BAR0, _BAR4 + 4, 4):
            if bus.pci_read(slot, 0, register) & 0x7 == _WIDE:
                return slot, register
    return None
