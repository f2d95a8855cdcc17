"""SMBIOS tables as OVMF measures them into PCR 1 (edk2 from 2025.05 on, module SmbiosMeasurementDxe).

A structure (SMBIOS 3.7, section 6.1; little endian) is u8 type, u8 length, u16 handle, then fields; after
``length`` bytes come its strings, each with NUL, and one more NUL (two if there are none). The table is
QEMU's structures (``etc/smbios/smbios-tables``) without its end marker, then OVMF's own type 0 and end
marker. The digest is over all of it with what differs between equal machines blanked: such fields are zero,
and such strings are spaces. Structures that hold nothing but the host's own strings (type 11) are zero behind
their header (edk2 ``SmbiosMeasurementDxe``, ``FilterSmbiosEntry``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from measurements.errors import FormatError
from measurements.events import EventType, MeasuredEvent, event_over
from measurements.firmware_volume import SECTION_PE32, FirmwareError
from measurements.ovmf import Firmware, version_text

TABLES = "etc/smbios/smbios-tables"
_END = 127
_END_MARKER = bytes((_END, 4, 0xFF, 0xFE, 0, 0))
_BIOS_TEMPLATE = bytes.fromhex("001a00000102 00e8 0300 0800000000000000 001c 0000 ffff 0000")
_PLATFORM_MODULE, _MEASURING_MODULE = "SmbiosPlatformDxe", "SmbiosMeasurementDxe"
_PROTECTED_VARIABLES = "VariableSmmRuntimeDxe"
_FALLBACKS = frozenset({"unknown", "02/02/2022"})
_DATE = re.compile(r"[0-9]{2}/[0-9]{2}/[0-9]{4}")
_WIDE_TEXT = re.compile(rb"(?:[ -~]\0){4,127}\0\0")

_STRINGS = {1: (0x07,), 2: (0x07, 0x0A), 3: (0x07, 0x08), 4: (0x20, 0x21, 0x22), 17: (0x18, 0x19, 0x1A)}
_FIELDS = {
    1: ((0x08, 16), (0x18, 1)),
    4: ((0x11, 1), (0x16, 2), (0x23, 3), (0x2A, 2), (0x2C, 2), (0x2E, 2)),
}
_KNOWN_TYPES = {0, 1, 2, 3, 4, 11, 16, 17, 19, 32, _END}
_BLANK_TYPES = {11}
_HEADER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """One structure: header with fields, and its strings."""

    fields: bytes
    strings: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Its bytes."""
        return self.fields + (b"".join(text + b"\0" for text in self.strings) or b"\0") + b"\0"


def measures_smbios(firmware: Firmware) -> bool:
    """Whether this build measures SMBIOS."""
    return _MEASURING_MODULE in firmware.dxe_names


def measured_after_separators(firmware: Firmware) -> bool:
    """Whether this build measures SMBIOS only after the separators, and not before the boot entries.

    Both are done when the boot manager is ready, by the driver first that was started last (edk2
    ``MdeModulePkg/Core/Dxe/Event/Event.c``: a new event goes to the head of the queue). ``Tcg2Dxe`` waits for
    the variable services, which in builds with SMM are there only after ``SmbiosMeasurementDxe`` was started.
    """
    return _PROTECTED_VARIABLES in firmware.dxe_names


def smbios_event(firmware: Firmware, offered: bytes, *, qemu_version: str) -> MeasuredEvent:
    """PCR 1: the tables of this firmware on the machine for which QEMU has ``offered`` its tables."""
    return event_over(
        measured_tables(offered, bios_structure(firmware)),
        pcr=1,
        event_type=EventType.EV_EFI_HANDOFF_TABLES,
        description="SMBIOS tables",
        origin=f"SMBIOS generator of QEMU {qemu_version} for this shape, and {firmware.name}",
    )


def measured_tables(offered: bytes, bios: Structure) -> bytes:
    """The bytes that are hashed, from QEMU's tables and OVMF's type 0."""
    ours = [structure for structure in parse_structures(offered) if structure.fields[0] != _END]
    return b"".join(_measured(structure) for structure in [*ours, bios]) + _END_MARKER


def parse_structures(data: bytes) -> Iterator[Structure]:
    """The structures of a table; raises FormatError where they do not fit."""
    position = 0
    while position < len(data):
        length = data[position + 1] if position + 4 <= len(data) else 0
        strings_at = position + length
        end = data.find(b"\0\0", strings_at)
        if length < 4 or end < 0:
            raise FormatError("is cut short", subject=TABLES, advice="check the QEMU program")
        text = data[strings_at:end]
        yield Structure(fields=data[position:strings_at], strings=tuple(text.split(b"\0")) if text else ())
        position = end + 2


def _measured(structure: Structure) -> bytes:
    whole = blanked(structure).encode()
    return whole[:_HEADER] + bytes(len(whole) - _HEADER) if whole[0] in _BLANK_TYPES else whole


def blanked(structure: Structure) -> Structure:
    """A structure without what differs between equal machines."""
    kind = structure.fields[0]
    if kind not in _KNOWN_TYPES:
        raise FormatError(
            f"has a structure of type {kind}, which this machine should not have",
            subject=TABLES,
            advice="use a machine shape without additions",
        )
    fields, strings = bytearray(structure.fields), list(structure.strings)
    for offset in _STRINGS.get(kind, ()):
        if offset < len(fields) and fields[offset]:
            number = fields[offset] - 1
            strings[number] = b" " * len(strings[number])
            fields[offset] = 0
    for offset, size in _FIELDS.get(kind, ()):
        if offset + size <= len(fields):
            fields[offset : offset + size] = bytes(size)
    return Structure(fields=bytes(fields), strings=tuple(strings))


def bios_structure(firmware: Firmware) -> Structure:
    """OVMF's type 0, from the constants of the module that makes it; raises FirmwareError if unclear."""
    return bios_structure_of(_module_image(firmware), version=version_text(firmware), name=firmware.name)


def bios_texts(image: bytes) -> set[str]:
    """The texts in the module ``image`` that come from the build: vendor, version and date."""
    return {match[0].decode("utf-16-le").rstrip("\0") for match in _WIDE_TEXT.finditer(image)} - _FALLBACKS


def bios_structure_of(image: bytes, *, version: str, name: str) -> Structure:
    """The same from the bytes of the module, for the firmware ``name`` of a known version."""
    texts = bios_texts(image) - {version}
    dates = {text for text in texts if _DATE.fullmatch(text)}
    vendors = texts - dates
    if _BIOS_TEMPLATE not in image or len(dates) != 1 or len(vendors) != 1 or not version:
        raise FirmwareError(
            "its SMBIOS vendor, version and date are not found unambiguously",
            subject=name,
            advice="report this firmware build",
        )
    strings = (vendors.pop(), version, dates.pop())
    return Structure(fields=_BIOS_TEMPLATE, strings=tuple(text.encode("ascii") for text in strings))


def _module_image(firmware: Firmware) -> bytes:
    for file in firmware.dxe.files():
        section = file.section(SECTION_PE32)
        if file.name == _PLATFORM_MODULE and section is not None:
            return section.payload
    raise FirmwareError(
        f"has no module {_PLATFORM_MODULE}", subject=firmware.name, advice="report this firmware build"
    )
