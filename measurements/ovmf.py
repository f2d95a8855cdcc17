"""OVMF, edk2's firmware for virtual machines: what of a flash file ends up in a register.

A flash file (``OVMF_CODE*.fd`` or the combined ``OVMF.fd``) holds a main volume with one LZMA section; in it
are two more volumes, which firmware unpacks to RAM and measures there: PEI (early code) and DXE (drivers,
boot manager). Names of the volumes and modules: edk2, OvmfPkg/OvmfPkgX64.fdf and the INF files.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from measurements.firmware_volume import (
    FILE_VOLUME_IMAGE,
    SECTION_PE32,
    SECTION_VOLUME,
    FirmwareError,
    FirmwareFile,
    FirmwareVolume,
    Section,
    find_volumes,
    is_lzma,
    parse_volume,
    sections_of,
    unpack_lzma,
)

PEI_VOLUME = UUID("6938079b-b503-4e3d-9d24-b28337a25806")
DXE_VOLUME = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
MAX_FLASH = 64 << 20

MACHINE_IA32 = 0x014C
MACHINE_X64 = 0x8664

_TPM_MODULE = "Tcg2Pei"
_SECURE_BOOT_MODULE = "SecureBootConfigDxe"
_WIDE_TEXT = re.compile(rb"(?:[!-~]\0){1,127}\0\0")
_LOAD_ADDRESS = re.compile(
    rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?P<displacement>....)", re.DOTALL
)


Unpacker = Callable[[Section], bytes]
"""Gives the content of an LZMA section."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One program of a volume: ``start`` is the offset of its PE image in the volume."""

    name: str
    kind: int
    start: int
    image: bytes
    machine: int
    image_base: int

    def volume_offset(self, address: int) -> int:
        """Offset in the volume of a linked address (programs in the PEI volume run where they lie)."""
        return address - self.image_base + self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class Firmware:
    """A flash file that is OVMF.

    ``pei`` and ``dxe`` are the unpacked volumes as the file holds them; ``dxe_files`` names the files of the
    latter by GUID.
    """

    name: str
    sha256: str
    pei: FirmwareVolume
    dxe: FirmwareVolume
    pei_modules: tuple[Module, ...]
    dxe_files: Mapping[UUID, str]

    def pei_module(self, name: str) -> Module | None:
        """A program of the PEI volume."""
        return next((module for module in self.pei_modules if module.name == name), None)

    @property
    def dxe_names(self) -> frozenset[str]:
        """Names of the programs in the DXE volume."""
        return frozenset(self.dxe_files.values())

    @property
    def secure_boot_supported(self) -> bool:
        """Whether this build can enforce Secure Boot."""
        return _SECURE_BOOT_MODULE in self.dxe_names


def read_firmware(path: Path, *, unpack: Unpacker = unpack_lzma) -> Firmware:
    """The firmware in a flash file; raises FirmwareError unless it is OVMF with TPM support. ``unpack`` may
    know what a compressed section holds.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FLASH + 1)
    except OSError as problem:
        raise FirmwareError(
            f"cannot be read: {problem.strerror}", subject=str(path), advice="install it: apt install ovmf"
        ) from problem
    return parse_firmware(data, name=path.name, unpack=unpack)


def parse_firmware(data: bytes, *, name: str, unpack: Unpacker = unpack_lzma) -> Firmware:
    """The firmware in the bytes of a flash file called ``name``."""
    if len(data) > MAX_FLASH:
        raise _not_ovmf(name, "it is larger than any flash file")
    try:
        inner = {volume.name: volume for volume in inner_volumes(data, unpack=unpack)}
        if PEI_VOLUME not in inner or DXE_VOLUME not in inner:
            raise FirmwareError("it does not hold OVMF's PEI and DXE volumes", subject=name, advice="")
        pei, dxe = inner[PEI_VOLUME], inner[DXE_VOLUME]
        modules = tuple(_module(file) for file in pei.files() if file.section(SECTION_PE32) is not None)
        dxe_files = {file.guid: file.name for file in dxe.files()}
    except FirmwareError as problem:
        raise _not_ovmf(name, problem.reason) from problem
    firmware = Firmware(
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        pei=pei,
        dxe=dxe,
        pei_modules=modules,
        dxe_files=dxe_files,
    )
    if firmware.pei_module(_TPM_MODULE) is None:
        raise _not_ovmf(name, "it is an OVMF build without TPM 2.0 support")
    return firmware


def version_text(firmware: Firmware) -> str:
    """The firmware version that OVMF was built with, empty where the build sets none.

    It is a constant of the module that measures it: the one wide string that the module's code refers to.
    """
    module = firmware.pei_module(_TPM_MODULE)
    assert module is not None
    texts = {match.start(): match[0] for match in _WIDE_TEXT.finditer(module.image)}
    found = [texts[offset] for offset in sorted(_referenced(module, texts))]
    if len(found) > 1:
        raise FirmwareError(
            f"{_TPM_MODULE} refers to {len(found)} strings, so its version is not known",
            subject=firmware.name,
            advice="report this firmware build",
        )
    return found[0].decode("utf-16-le").rstrip("\0") if found else ""


def _referenced(module: Module, offsets: Collection[int]) -> set[int]:
    """Those of ``offsets`` that the module's code refers to: relative on x64, by address on IA-32."""
    if module.machine == MACHINE_X64:
        return set(offsets) & {
            match.end() + int.from_bytes(match["displacement"], "little", signed=True)
            for match in _LOAD_ADDRESS.finditer(module.image)
        }
    return {offset for offset in offsets if struct.pack("<I", module.image_base + offset) in module.image}


def inner_volumes(data: bytes, *, unpack: Unpacker = unpack_lzma) -> list[FirmwareVolume]:
    """The volumes that are compressed in the flash file ``data``, unpacked; none if it holds no such."""
    for volume in find_volumes(data):
        for file in _files_leniently(volume):
            for section in file.sections:
                if file.kind == FILE_VOLUME_IMAGE and is_lzma(section):
                    inner = [part for part in sections_of(unpack(section)) if part.kind == SECTION_VOLUME]
                    return [parse_volume(part.payload) for part in inner]
    return []


def _files_leniently(volume: FirmwareVolume) -> list[FirmwareFile]:
    # The variable store is a volume too, but what follows its header are no files.
    try:
        return list(volume.files())
    except FirmwareError:
        return []


def _module(file: FirmwareFile) -> Module:
    section = file.section(SECTION_PE32)
    assert section is not None
    image = section.payload
    header = int.from_bytes(image[60:64], "little")
    if image[:2] != b"MZ" or image[header : header + 4] != b"PE\0\0" or header + 56 > len(image):
        raise FirmwareError("a module is no PE image", subject="firmware", advice="reinstall the firmware")
    (machine,) = struct.unpack_from("<H", image, header + 4)
    if machine not in (MACHINE_IA32, MACHINE_X64):
        raise FirmwareError("it is not for x86-64 machines", subject="firmware", advice="give an x86-64 OVMF")
    base = (
        struct.unpack_from("<Q", image, header + 48)
        if machine == MACHINE_X64
        else (struct.unpack_from("<I", image, header + 52))
    )
    return Module(
        name=file.name,
        kind=file.kind,
        start=section.start,
        image=image,
        machine=machine,
        image_base=base[0],
    )


def _not_ovmf(name: str, why: str) -> FirmwareError:
    return FirmwareError(
        f"is not an OVMF firmware whose measurements are known: {why}",
        subject=name,
        advice="give the code file of OVMF, such as /usr/share/OVMF/OVMF_CODE_4M.fd (package ovmf)",
    )
