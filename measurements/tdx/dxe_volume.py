"""Reads the facts about a DXE volume from a firmware file.

The volume is compressed in the boot firmware volume. Builds for trust domains alone (edk2's IntelTdxX64) keep
what a trust domain must not load in a second volume, so only the first one counts.
"""

from __future__ import annotations

import re

from measurements.firmware_volume import SECTION_PE32, FirmwareError, FirmwareVolume
from measurements.ovmf import DXE_VOLUME, inner_volumes
from measurements.smbios import bios_structure_of, bios_texts
from measurements.tdx.dxe_facts import MODULES, SMBIOS_MODULE, DxeFacts

_SMBIOS_MAKER = "SmbiosPlatformDxe"
_VERSION = re.compile(r"(edk2-stable)?[0-9]{4}\.?[0-9]{2}.*")


def read_dxe_facts(data: bytes, *, name: str) -> DxeFacts:
    """Unpack the volume of the firmware file ``data`` and look; raises ``FirmwareError`` if there is none."""
    volume = next((volume for volume in inner_volumes(data) if volume.name == DXE_VOLUME), None)
    if volume is None:
        raise FirmwareError(
            f"has no DXE volume ({DXE_VOLUME})",
            subject=name,
            advice="give OVMF.fd, or a build for TDX such as OVMF.inteltdx.fd",
        )
    modules = frozenset(file.name for file in volume.files() if file.name in MODULES)
    maker = _program(volume, _SMBIOS_MAKER)
    versions = {text for text in bios_texts(maker) if _VERSION.fullmatch(text)}
    version = versions.pop() if len(versions) == 1 else ""
    bios = bios_structure_of(maker, version=version, name=name) if SMBIOS_MODULE in modules else None
    return DxeFacts(name=name, version=version, modules=modules, bios=bios.encode() if bios else None)


def _program(volume: FirmwareVolume, module: str) -> bytes:
    """The module's program, empty if the volume has no such module."""
    for file in volume.files():
        section = file.section(SECTION_PE32)
        if file.name == module and section is not None:
            return section.payload
    return b""
