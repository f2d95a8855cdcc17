"""PCR 0: the firmware's own code, as OVMF measures it.

Events: EV_S_CRTM_VERSION over the version as UTF-16 with NUL; EV_EFI_PLATFORM_FIRMWARE_BLOB over the PEI
volume in RAM, then over the DXE volume (edk2, SecurityPkg/Tcg/Tcg2Pei). The DXE volume is measured as
unpacked. The PEI volume is not: the modules that run before RAM is set up run in place in it, and what they
write to their own data is measured with it. Modules that run later are copied first. Those early writes
are:

* ``PlatformPei`` of releases up to 2022.11: its platform information block (``measurements.platform_info``);
* ``PeiCore`` of releases 2024.11 to 2026.05: the I/O port of the ACPI timer;
* ``PlatformPei`` of releases from 2024.11 on with SMM: the relocation of SMRAM, full of pointers that
  depend on the memory layout. These are taken from a dry boot (``measurements.firmware_profile``), never
  guessed.

Where a variable lies is found from the instructions that write it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from measurements.events import EventType, MeasuredEvent, Provenance, digests_of, event_over
from measurements.firmware_volume import FILE_PEI_CORE, FirmwareError
from measurements.ovmf import MACHINE_X64, Firmware, Module, version_text
from measurements.platform_info import HOST_BRIDGE_AT, S3_SUPPORTED_AT, platform_info
from measurements.shape import MachineShape

ACPI_TIMER_PORT = 0x608
"""Power management block at 0x600, where OVMF puts it on q35; the timer is 8 bytes into it."""

_SMM_BASE_HOB = UUID("c2217ba7-03bb-4f63-a647-7c25c5fc9d73")
_PLATFORM_MODULE = "PlatformPei"
_STORE_WORD = re.compile(rb"\x66\x89[\x05\x0d\x15\x1d\x35\x3d](?P<at>....)", re.DOTALL)
_STORE_WORD_IA32 = re.compile(rb"\x66\xa3(?P<at>....)", re.DOTALL)
_STORE_TRUE = re.compile(rb"\xc6\x05(?P<at>....)\x01", re.DOTALL)
_STORE_TIMER = re.compile(rb"\xc7\x05(?P<at>....)" + struct.pack("<I", ACPI_TIMER_PORT), re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """Bytes that a module writes into the PEI volume before it is measured, at ``offset``."""

    offset: int
    data: bytes
    reason: str


def code_events(
    firmware: Firmware, shape: MachineShape, *, recorded: Sequence[Patch] | None = None
) -> list[MeasuredEvent]:
    """PCR 0 before the separator.

    ``recorded`` are the patches of a dry boot of this firmware and shape; without them a machine whose
    patches cannot be computed raises FirmwareError.
    """
    patches = computed_patches(firmware, shape) if recorded is None else recorded
    volume = apply_patches(firmware.pei.data, patches)
    changed = sum(len(patch.data) for patch in patches)
    version = version_text(firmware)
    return [
        event_over(
            (version + "\0").encode("utf-16-le"),
            pcr=0,
            event_type=EventType.EV_S_CRTM_VERSION,
            description=f"firmware version {version!r}",
            origin=firmware.name,
        ),
        MeasuredEvent(
            pcr=0,
            event_type=EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB,
            digests=digests_of(volume),
            description="PEI volume" + (f" with {changed} bytes written by early modules" if changed else ""),
            origin=", ".join([firmware.name, *(patch.reason for patch in patches)]),
            provenance=Provenance.COMPUTED if recorded is None else Provenance.DRY_BOOT,
        ),
        event_over(
            firmware.dxe.data,
            pcr=0,
            event_type=EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB,
            description="DXE volume",
            origin=firmware.name,
        ),
    ]


def needs_dry_boot(firmware: Firmware, shape: MachineShape) -> bool:
    """Whether the PEI volume of this firmware on this machine cannot be computed."""
    module = firmware.pei_module(_PLATFORM_MODULE)
    return shape.smm and module is not None and _SMM_BASE_HOB.bytes_le in module.image


def computed_patches(firmware: Firmware, shape: MachineShape) -> list[Patch]:
    """What early modules write; raises FirmwareError where that is not known without a boot."""
    if needs_dry_boot(firmware, shape):
        raise FirmwareError(
            "its SMRAM relocation writes pointers into the measured volume, which only a boot shows",
            subject=firmware.name,
            advice="record them once with `keyturn firmware profile`, or use a shape without smm",
        )
    return [*_platform_info_patch(firmware, shape), *_timer_patch(firmware)]


def apply_patches(volume: bytes, patches: Sequence[Patch]) -> bytes:
    """The volume as it is in RAM."""
    memory = bytearray(volume)
    for patch in patches:
        memory[patch.offset : patch.offset + len(patch.data)] = patch.data
    return bytes(memory)


def _platform_info_patch(firmware: Firmware, shape: MachineShape) -> Iterator[Patch]:
    module = firmware.pei_module(_PLATFORM_MODULE)
    if module is None:
        return
    pattern = _STORE_WORD if module.machine == MACHINE_X64 else _STORE_WORD_IA32
    words = set(_targets(module, pattern))
    flags = set(_targets(module, _STORE_TRUE))
    starts = [word - HOST_BRIDGE_AT for word in words if word - HOST_BRIDGE_AT + S3_SUPPORTED_AT in flags]
    if not starts:
        return
    if len(starts) > 1:
        raise FirmwareError(
            "its platform information block is not found unambiguously",
            subject=firmware.name,
            advice="report this firmware build",
        )
    data = platform_info(shape)
    _check_inside(firmware, module, starts[0], len(data))
    yield Patch(
        offset=starts[0], data=data, reason="platform information of the shape (memory, processors, SMM)"
    )


def _timer_patch(firmware: Firmware) -> Iterator[Patch]:
    for module in firmware.pei_modules:
        if module.kind != FILE_PEI_CORE:
            continue
        for offset in sorted(set(_targets(module, _STORE_TIMER))):
            data = struct.pack("<I", ACPI_TIMER_PORT)
            _check_inside(firmware, module, offset, len(data))
            yield Patch(offset=offset, data=data, reason="ACPI timer port of q35")


def _targets(module: Module, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Volume offsets that the matching instructions write to: relative on x64, absolute on IA-32."""
    for match in pattern.finditer(module.image):
        value = int.from_bytes(match["at"], "little", signed=module.machine == MACHINE_X64)
        if module.machine == MACHINE_X64:
            yield module.start + match.end() + value
        else:
            yield module.volume_offset(value)


def _check_inside(firmware: Firmware, module: Module, offset: int, size: int) -> None:
    inside = module.start <= offset and offset + size <= module.start + len(module.image)
    if not inside or any(firmware.pei.data[offset : offset + size]):
        raise FirmwareError(
            f"a variable of {module.name} is not where its code says",
            subject=firmware.name,
            advice="report this firmware build",
        )
