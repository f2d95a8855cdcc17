"""The ACPI files of a machine shape from an unmodified QEMU, with how they were had, and the other items of
QEMU's configuration device that firmware measures.

An idle machine gives them at once where that is proven to be what firmware gets; a dry boot of the firmware
gives them everywhere. Nothing is guessed: a method that does not hold for a shape is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from measurements.acpi_blob import AcpiFiles
from measurements.events import MeasuredEvent, Provenance
from measurements.shape import MachineShape, ShapeError
from measurements.stand_ins import replaced_devices

if TYPE_CHECKING:
    from pathlib import Path

    from measurements.firmware_volume import FirmwareVolume
    from measurements.fw_cfg import FirmwareConfig
    from measurements.qemu import QemuProgram
    from measurements.qemu_args import DryBootFirmware

# What runs QEMU is imported where it is needed: dumps from the cache need none of it.


class AcpiMethod(StrEnum):
    """How tables are had."""

    IDLE = "idle"
    IDLE_WITHOUT_ROOM = "idle-without-room"
    """For firmware that keeps no room behind root ports, whatever the width of addresses."""
    DRY_BOOT = "dry-boot"


ITEMS = (
    "etc/smbios/smbios-tables",
    "etc/smbios/smbios-anchor",
    "etc/e820",
    "etc/extra-pci-roots",
    "etc/boot-menu-wait",
    "etc/reserved-memory-end",
    "opt/ovmf/X-PciMmio64Mb",
    "bootorder",
)
"""Items that a dump holds besides the ACPI files, if QEMU offers them."""

_PROVENANCE = {
    AcpiMethod.IDLE: Provenance.COMPUTED,
    AcpiMethod.IDLE_WITHOUT_ROOM: Provenance.COMPUTED,
    AcpiMethod.DRY_BOOT: Provenance.DRY_BOOT,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AcpiDump:
    """The files, the version of the QEMU that made them, how they were had, the firmware that ran (empty for
    none), in words which devices had stand-ins, and those of ``ITEMS`` that there are, by name.
    """

    files: AcpiFiles
    qemu_version: str
    method: AcpiMethod
    firmware: str = ""
    replaced: tuple[str, ...] = ()
    items: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def provenance(self) -> Provenance:
        """How digests over these files came about."""
        return _PROVENANCE[self.method]

    @property
    def origin(self) -> str:
        """Where the files come from, for the events over them."""
        words = [f"ACPI generator of QEMU {self.qemu_version} for this machine shape"]
        if self.firmware:
            words.append(f"after a dry boot of {self.firmware}")
        return "; ".join([*words, *self.replaced])

    def events(self) -> list[MeasuredEvent]:
        """PCR 1 of firmware that measures these files."""
        from measurements.acpi_tables import acpi_events

        return acpi_events(
            self.files, qemu_version=self.qemu_version, origin=self.origin, provenance=self.provenance
        )


def choose_method(
    shape: MachineShape, *, firmware: DryBootFirmware | None, wanted: AcpiMethod | None = None
) -> AcpiMethod:
    """The quickest method that holds, or ``wanted`` if it does; raises ``ShapeError`` if none does.

    Without ``firmware`` it is one of OVMF's current builds that suits the shape.
    """
    from measurements.acpi_tables import idle_limits, shape_limits

    if wanted is AcpiMethod.DRY_BOOT:
        limits: str | None = "it is asked for"
    elif wanted is AcpiMethod.IDLE_WITHOUT_ROOM:
        limits = shape_limits(shape, port_room=False)
    elif firmware is None:
        limits = shape_limits(shape)
    else:
        limits = idle_limits(shape, _drivers(firmware.code))
    if limits is None:
        return wanted or AcpiMethod.IDLE
    if wanted in (AcpiMethod.IDLE, AcpiMethod.IDLE_WITHOUT_ROOM):
        raise ShapeError(
            f"an idle machine does not give this machine's tables: {limits}",
            subject="method",
            advice="use a dry boot (--method dry-boot)",
        )
    if firmware is None:
        raise ShapeError(
            f"the tables need a dry boot of the firmware: {limits}",
            subject="firmware",
            advice="give the firmware's files (--firmware-code, --firmware-vars)",
        )
    return AcpiMethod.DRY_BOOT


def acpi_dump(
    shape: MachineShape,
    program: QemuProgram,
    *,
    firmware: DryBootFirmware | None = None,
    method: AcpiMethod | None = None,
) -> AcpiDump:
    """The files that ``firmware`` gets on a machine of ``shape``, by ``choose_method``.

    Raises ``ShapeError``, ``IdleMachineError`` when QEMU refuses the shape, ``DryBootError``.
    """
    from measurements.acpi_dry_boot import dry_boot
    from measurements.acpi_tables import offered_files, read_acpi
    from measurements.idle_machine import idle_machine

    replaced = replaced_devices(shape)
    chosen = choose_method(shape, firmware=firmware, wanted=method)
    if chosen is not AcpiMethod.DRY_BOOT or firmware is None:
        with idle_machine(shape, program) as machine:
            files = read_acpi(machine, shape)
            return AcpiDump(
                files=files,
                qemu_version=machine.qemu_version,
                method=chosen,
                replaced=replaced,
                items=_items(machine.config),
            )
    with dry_boot(shape, program, firmware) as machine:
        files = offered_files(machine)
        return AcpiDump(
            files=files,
            qemu_version=machine.qemu_version,
            method=AcpiMethod.DRY_BOOT,
            firmware=firmware.code.name,
            replaced=replaced,
            items=_items(machine.config),
        )


def _items(config: FirmwareConfig) -> dict[str, bytes]:
    return {name: config.read(name) for name in ITEMS if name in config.files}


def _drivers(code: Path) -> FirmwareVolume | None:
    """The volume of drivers of a firmware file; None if it is not OVMF."""
    from measurements.firmware_volume import FirmwareError
    from measurements.ovmf import DXE_VOLUME, MAX_FLASH, inner_volumes

    try:
        with code.open("rb") as stream:
            volumes = list(inner_volumes(stream.read(MAX_FLASH)))
    except OSError as problem:
        raise FirmwareError(
            f"cannot be read: {problem.strerror}", subject=str(code), advice="check the path"
        ) from problem
    except FirmwareError:
        return None
    return next((volume for volume in volumes if volume.name == DXE_VOLUME), None)
