"""Predicts TPM registers from files: image, firmware and machine shape.

ACPI tables, SMBIOS tables and option ROMs are read from a halted QEMU, and only if they are measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from measurements.acpi_tables import acpi_events, measures_acpi, read_acpi
from measurements.boot_entries import boot_events
from measurements.boot_sequence import (
    ImageInputs,
    PlatformEvents,
    Prediction,
    assemble,
    measure_image,
)
from measurements.events import MeasuredEvent
from measurements.idle_machine import idle_machine
from measurements.option_roms import option_rom_events
from measurements.ovmf import Firmware, read_firmware
from measurements.pcr0 import Patch, code_events, needs_dry_boot
from measurements.qemu import QemuProgram
from measurements.secure_boot import secure_boot_policy
from measurements.shape import MachineShape, ShapeError, TpmInterface
from measurements.smbios import TABLES, Structure, measures_smbios, parse_structures, smbios_event
from measurements.varstore import VariableStore, parse_variable_store

if TYPE_CHECKING:
    from measurements.firmware_profile import FirmwareProfile


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareInputs:
    """A firmware with the variables that a machine starts with; ``profile`` is used only where PCR 0 cannot
    be computed.
    """

    firmware: Firmware
    variables: VariableStore
    variables_name: str
    profile: FirmwareProfile | None = None

    @classmethod
    def read(cls, *, code: Path, variables: Path, profile: Path | None = None) -> FirmwareInputs:
        """Read the files; raises ``FirmwareError`` or ``FormatError`` if they are not OVMF's."""
        return cls.of(read_firmware(code), variables=variables, profile=profile)

    @classmethod
    def of(cls, firmware: Firmware, *, variables: Path, profile: Path | None = None) -> FirmwareInputs:
        """The same with a firmware that is read already."""
        return cls(
            firmware=firmware,
            variables=parse_variable_store(variables.read_bytes(), subject=str(variables)),
            variables_name=variables.name,
            profile=None if profile is None else _read_profile(profile),
        )


def predict_tpm(image: ImageInputs, firmware: FirmwareInputs, shape: MachineShape) -> Prediction:
    """Every event and register of ``image`` booted by ``firmware`` on a machine of ``shape``.

    Raises ``KeyturnError`` for anything whose measurements are not known, or that the machine would not boot.
    """
    if shape.tpm is TpmInterface.NONE:
        raise ShapeError(
            "a machine without a TPM has no registers to predict", subject="tpm", advice="use crb or tis"
        )
    return assemble(measure_image(image), platform_events(firmware, shape), tpm=shape.tpm)


def platform_events(inputs: FirmwareInputs, shape: MachineShape) -> PlatformEvents:
    """The events before a boot option is tried."""
    _check_roms(inputs, shape)
    machine = _MachineReader(inputs.firmware, shape)
    return PlatformEvents(
        code=code_events(inputs.firmware, shape, recorded=_recorded(inputs, shape)),
        configuration=[
            *machine.events(),
            *boot_events(inputs.firmware, shape, inputs.variables),
        ],
        variables=inputs.variables,
        variables_name=inputs.variables_name,
        secure_boot_supported=inputs.firmware.secure_boot_supported,
        oem_strings=oem_strings(shape),
        smbios=machine.smbios,
    )


def oem_strings(shape: MachineShape) -> tuple[bytes, ...]:
    """The host's SMBIOS strings of type 11, which the guest's programs can read."""
    return tuple(
        value.encode("ascii") for strings in shape.smbios if strings.type == 11 for _, value in strings.fields
    )


def _recorded(inputs: FirmwareInputs, shape: MachineShape) -> tuple[Patch, ...] | None:
    """What a dry boot recorded, if this firmware needs one on this machine and one is given."""
    if inputs.profile is None or not needs_dry_boot(inputs.firmware, shape):
        return None
    return inputs.profile.patches_for(inputs.firmware, shape)


def _read_profile(path: Path) -> FirmwareProfile:
    from measurements.firmware_profile import read_profile

    return read_profile(path)


class _MachineReader:
    """Reads from a halted QEMU what firmware and stub measure, starting it at most once if that is enough."""

    def __init__(self, firmware: Firmware, shape: MachineShape) -> None:
        self._firmware = firmware
        self._shape = shape
        self._tables: bytes | None = None

    def events(self) -> list[MeasuredEvent]:
        """What firmware reads from the machine and measures: ACPI, then option ROMs, then SMBIOS."""
        firmware, shape = self._firmware, self._shape
        if not (measures_acpi(firmware) or measures_smbios(firmware) or any(nic.rom for nic in shape.nics)):
            return []
        events: list[MeasuredEvent] = []
        with idle_machine(shape, QemuProgram.installed()) as machine:
            self._tables = machine.config.read(TABLES)
            if measures_acpi(firmware):
                events += acpi_events(read_acpi(machine, shape), qemu_version=machine.qemu_version)
            events += option_rom_events(machine, shape)
            if measures_smbios(firmware):
                events.append(smbios_event(firmware, machine))
        return events

    def smbios(self) -> list[Structure]:
        """The machine's SMBIOS structures."""
        if self._tables is None:
            with idle_machine(self._shape, QemuProgram.installed()) as machine:
                self._tables = machine.config.read(TABLES)
        return list(parse_structures(self._tables))


def _check_roms(inputs: FirmwareInputs, shape: MachineShape) -> None:
    policy = secure_boot_policy(inputs.variables, supported=inputs.firmware.secure_boot_supported)
    if policy.enforced and any(nic.rom for nic in shape.nics):
        raise ShapeError(
            "a boot ROM under Secure Boot must be signed, and its measurement is not predicted",
            subject="nic.rom",
            advice="use a network card without boot ROM (rom = false)",
        )
