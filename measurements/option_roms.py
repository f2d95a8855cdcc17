"""Option ROMs of network cards, which firmware starts and measures into PCR 2.

A ROM (PCI Firmware 3.2, section 5.1; UEFI 2.10, section 14.4; little endian) is a chain of images. Each
starts with 0x55 0xAA; a pointer at 0x18 leads to ``PCIR``, which has at 0x10 the image's length in units of
512, at 0x14 the code type (3: EFI) and at 0x15 bit 7 for the last image. An EFI image has at 4 the
signature 0x0EF1, at 12 the compression (0: none, 1: UEFI) and at 0x16 the offset of its PE program, which is
measured by its Authenticode digest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from measurements.events import Bank, EventType, MeasuredEvent
from measurements.firmware_volume import FirmwareError
from measurements.idle_machine import IdleMachine
from measurements.pe import authenticode_digest
from measurements.shape import MachineShape, Nic
from measurements.uefi_decompress import decompress

_ROM_BASE, _COMMAND, _MEMORY_DECODE = 0x30, 0x04, 0x2
_FREE_ADDRESS = 0xC0000000
_MAX_ROM = 4 << 20
_EFI_CODE, _EFI_SIGNATURE, _UEFI_COMPRESSION = 3, 0x0EF1, 1


def option_rom_events(machine: IdleMachine, shape: MachineShape) -> list[MeasuredEvent]:
    """PCR 2: the EFI programs in the ROMs of the shape's cards, as the unmodified QEMU shows them."""
    cards = sorted((nic for nic in shape.nics if nic.rom), key=lambda nic: nic.slot)
    return [
        MeasuredEvent(
            pcr=2,
            event_type=EventType.EV_EFI_BOOT_SERVICES_DRIVER,
            digests={bank: authenticode_digest(program, bank, subject="option ROM") for bank in Bank},
            description=f"option ROM of the network card {nic.model} in slot {nic.slot}",
            origin=f"boot ROM of {nic.model} in QEMU {machine.qemu_version}",
        )
        for nic in cards
        for program in efi_programs(_read_rom(machine, nic), subject=f"boot ROM of {nic.model}")
    ]


def efi_programs(rom: bytes, *, subject: str) -> Iterator[bytes]:
    """The EFI programs in a ROM; raises FirmwareError or FormatError for a damaged one."""
    position = 0
    while True:
        if rom[position : position + 2] != b"\x55\xaa" or position + 0x1C > len(rom):
            raise _bad(subject, "is not a chain of ROM images")
        data_at = position + int.from_bytes(rom[position + 0x18 : position + 0x1A], "little")
        if rom[data_at : data_at + 4] != b"PCIR" or data_at + 0x16 > len(rom):
            raise _bad(subject, "has an image without PCI data structure")
        size = int.from_bytes(rom[data_at + 0x10 : data_at + 0x12], "little") * 512
        if not size or position + size > len(rom):
            raise _bad(subject, "has an image of impossible size")
        if rom[data_at + 0x14] == _EFI_CODE:
            yield _efi_program(rom[position : position + size], subject)
        if rom[data_at + 0x15] & 0x80:
            return
        position += size


def _efi_program(image: bytes, subject: str) -> bytes:
    signature, _, _, compression = struct.unpack_from("<IHHH", image, 4)
    if signature != _EFI_SIGNATURE:
        raise _bad(subject, "has an EFI image without its signature")
    content = image[int.from_bytes(image[0x16:0x18], "little") :]
    if compression == _UEFI_COMPRESSION:
        return decompress(content, subject=subject)
    if compression:
        raise _bad(subject, "has an EFI image of unknown compression")
    return content


def _read_rom(machine: IdleMachine, nic: Nic) -> bytes:
    bus = machine.bus
    bus.pci_write(nic.slot, 0, _ROM_BASE, 0xFFFFFFFE)
    size = (~(bus.pci_read(nic.slot, 0, _ROM_BASE) & 0xFFFFF800) + 1) & 0xFFFFFFFF
    if not 0 < size <= _MAX_ROM:
        raise _bad(f"network card {nic.model}", "has no boot ROM in this QEMU")
    bus.pci_write(nic.slot, 0, _ROM_BASE, _FREE_ADDRESS | 1)
    bus.pci_write(nic.slot, 0, _COMMAND, _MEMORY_DECODE)
    content = bus.read(_FREE_ADDRESS, size)
    bus.pci_write(nic.slot, 0, _ROM_BASE, 0)
    return content


def _bad(subject: str, reason: str) -> FirmwareError:
    return FirmwareError(reason, subject=subject, advice="use a network card without boot ROM (rom = false)")
