"""Boot entries that OVMF makes on a machine with fresh variables, and their measurement into PCR 1.

``Boot####`` (UEFI 2.10, section 3.1.3; little endian): u32 attributes, u16 length of the device path,
description in UTF-16 with NUL, device path, optional data. Device path nodes (section 10): u8 type, u8
subtype, u16 length.

The boot manager (edk2, OvmfPkg/Library/PlatformBootManagerLib and MdeModulePkg/Library/UefiBootManagerLib)
numbers the entries as it makes them: its own applications, the disks by PCI address, the network cards by
PCI address (each for PXE and HTTP), the shell. When the host gives a boot order, only the devices in it are
connected and get entries, and they move to the front. A kernel that the host gives directly is started before
devices and shell get theirs. ``BootOrder`` and then every entry in it are measured, the data alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from measurements.efi_variable import GLOBAL_VARIABLE
from measurements.events import EventType, MeasuredEvent, event_over
from measurements.firmware_volume import FirmwareError
from measurements.ovmf import DXE_VOLUME
from measurements.shape import BootOrder, BootSource, MachineShape, Nic, NicModel, ShapeError
from measurements.varstore import VariableStore

ACTIVE, HIDDEN, APPLICATION = 0x001, 0x008, 0x100
SETUP_FILE = UUID("462caa21-7614-4503-836e-8ab6f4662331")
MENU_FILE = UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
SHELL_FILE = UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
AUTO_CREATED = UUID("8108ac4e-9f11-4d59-850e-e21a522c59b2")

_PCI_ROOT = bytes.fromhex("02010c00d041030a00000000")
_END = bytes.fromhex("7fff0400")
_URI = bytes.fromhex("03180400")
_BOOT_NAME = re.compile(r"Boot(Order|[0-9A-F]{4})")


class BootManagerFirmware(Protocol):
    """What of a firmware decides about its entries: the files of its DXE volume, by GUID."""

    @property
    def name(self) -> str:
        """The firmware file's name."""

    @property
    def dxe_files(self) -> Mapping[UUID, str]:
        """Names of the files by GUID."""

    @property
    def dxe_names(self) -> frozenset[str]:
        """Names of the files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BootEntry:
    """One boot option; ``device`` says that it belongs to a device and not to the firmware."""

    description: str
    attributes: int
    path: bytes
    optional: bytes = b""
    device: bool = True

    def data(self) -> bytes:
        """The variable's content."""
        header = struct.pack("<IH", self.attributes, len(self.path))
        return header + (self.description + "\0").encode("utf-16-le") + self.path + self.optional


def boot_events(
    firmware: BootManagerFirmware, shape: MachineShape, variables: VariableStore
) -> list[MeasuredEvent]:
    """PCR 1: boot order and boot entries; raises FirmwareError where they are not known."""
    check_fresh(variables)
    entries = boot_entries(firmware, shape)
    order = boot_order(entries, shape)
    values = [("BootOrder", struct.pack(f"<{len(order)}H", *order), "order of the boot entries")]
    values += [(f"Boot{number:04X}", entries[number].data(), entries[number].description) for number in order]
    return [
        event_over(
            data,
            pcr=1,
            event_type=EventType.EV_EFI_VARIABLE_BOOT,
            description=f"{name}: {what}",
            origin=f"boot manager of {firmware.name} for the shape (disks, network cards, boot order)",
        )
        for name, data, what in values
    ]


def boot_entries(firmware: BootManagerFirmware, shape: MachineShape) -> list[BootEntry]:
    """The entries in the order in which they are made: an entry's place is its number.

    Raises ``ShapeError`` for a shape whose entries are not known.
    """
    if any(nic.rom for nic in shape.nics) and shape.boot_order is BootOrder.FIRMWARE:
        raise ShapeError(
            "a card's boot ROM brings its own boot entries, which are not predicted",
            subject="nic.rom",
            advice='use rom = false, or boot-order = "disk"',
        )
    menu = MENU_FILE in firmware.dxe_files
    hidden = APPLICATION if menu else 0
    entries = list(_manager_entries(firmware, menu=menu))
    if shape.boot is BootSource.DIRECT:
        return entries
    entries += _disk_entries(shape)
    if shape.boot_order is BootOrder.FIRMWARE:
        for nic in sorted(shape.nics, key=lambda card: card.slot):
            entries += _nic_entries(firmware, nic)
    if SHELL_FILE in firmware.dxe_files:
        entries.append(_firmware_entry("EFI Internal Shell", SHELL_FILE, ACTIVE | hidden))
    return entries


def boot_order(entries: list[BootEntry], shape: MachineShape) -> list[int]:
    """Numbers of the entries in boot order."""
    numbers = list(range(len(entries)))
    if shape.boot_order is BootOrder.FIRMWARE:
        return numbers
    return sorted(numbers, key=lambda number: not entries[number].device)


def _manager_entries(firmware: BootManagerFirmware, *, menu: bool) -> Iterator[BootEntry]:
    setup_attributes = ACTIVE | APPLICATION
    if menu:
        yield _firmware_entry(firmware.dxe_files[MENU_FILE], MENU_FILE, ACTIVE | HIDDEN | APPLICATION)
        # Builds for trust domains keep UiApp in a volume that those do not load (edk2 pull request 12488).
        if SETUP_FILE in firmware.dxe_files:
            yield _firmware_entry("EFI Firmware Setup", SETUP_FILE, setup_attributes)
    elif SETUP_FILE in firmware.dxe_files:
        yield _firmware_entry(firmware.dxe_files[SETUP_FILE], SETUP_FILE, setup_attributes | HIDDEN)
    else:
        raise FirmwareError(
            "has a boot manager that is not known", subject=firmware.name, advice="report this firmware build"
        )


def _disk_entries(shape: MachineShape) -> Iterator[BootEntry]:
    disks = shape.disks[:1] if shape.boot_order is BootOrder.DISK else shape.disks
    for index, slot in enumerate(sorted(disk.slot for disk in disks)):
        name = "UEFI Misc Device" + (f" {index + 1}" if index else "")
        yield _device_entry(name, _pci(slot))


def _nic_entries(firmware: BootManagerFirmware, nic: Nic) -> Iterator[BootEntry]:
    if nic.model is not NicModel.VIRTIO_NET:
        return
    address = nic.mac.replace(":", "").upper()
    mac = b"\x03\x0b\x25\x00" + bytes.fromhex(address).ljust(32, b"\0") + b"\x01"
    # Addresses, ports and protocol are zero, except the sizes of prefixes: the card is not configured yet.
    ipv4 = b"\x03\x0c\x1b\x00" + bytes(23)
    ipv6 = b"\x03\x0d\x3c\x00" + bytes(38) + b"\x00\x40" + bytes(16)
    modules = firmware.dxe_names
    kinds = [
        ("PXEv4", "UefiPxeBcDxe", ipv4),
        ("PXEv6", "UefiPxeBcDxe", ipv6),
        ("HTTPv4", "HttpBootDxe", ipv4 + _URI),
        ("HTTPv6", "HttpBootDxe", ipv6 + _URI),
    ]
    for kind, module, path in kinds:
        if module in modules and (kind.endswith("4") or "Ip6Dxe" in modules):
            yield _device_entry(f"UEFI {kind} (MAC:{address})", _pci(nic.slot) + mac + path)


def _pci(slot: int) -> bytes:
    return _PCI_ROOT + bytes((1, 1, 6, 0, 0, slot))


def _device_entry(description: str, path: bytes) -> BootEntry:
    return BootEntry(
        description=description, attributes=ACTIVE, path=path + _END, optional=AUTO_CREATED.bytes_le
    )


def _firmware_entry(description: str, file: UUID, attributes: int) -> BootEntry:
    volume = b"\x04\x07\x14\x00" + DXE_VOLUME.bytes_le
    path = volume + b"\x04\x06\x14\x00" + file.bytes_le + _END
    return BootEntry(description=description, attributes=attributes, path=path, device=False)


def check_fresh(variables: VariableStore) -> None:
    """Raise ``FirmwareError`` if the firmware has made its entries in an earlier boot already."""
    for variable in variables.variables:
        if variable.vendor == GLOBAL_VARIABLE and _BOOT_NAME.fullmatch(variable.name):
            raise FirmwareError(
                f"it already holds {variable.name} from an earlier boot, which changes what firmware adds",
                subject="variable store",
                advice="start from fresh variables, such as OVMF_VARS_4M.fd",
            )
