"""Predicts TPM registers from files: image, firmware and machine shape.

ACPI tables are read from a halted QEMU, and only for firmware that measures them (edk2 from 2023.02 on).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from measurements.boot_entries import boot_events
from measurements.boot_sequence import (
    ImageEvents,
    ImageInputs,
    PlatformEvents,
    Prediction,
    assemble,
    measure_image,
)
from measurements.events import MeasuredEvent
from measurements.ovmf import Firmware, read_firmware
from measurements.pcr0 import code_events
from measurements.shape import MachineShape
from measurements.varstore import VariableStore, parse_variable_store

_ACPI_EVENT_DATA = b"ACPI DATA"


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareInputs:
    """A firmware with the variables that a machine starts with."""

    firmware: Firmware
    variables: VariableStore
    variables_name: str

    @classmethod
    def read(cls, *, code: Path, variables: Path) -> FirmwareInputs:
        """Read both flash files; raises ``FirmwareError`` or ``FormatError`` if they are not OVMF's."""
        return cls(
            firmware=read_firmware(code),
            variables=parse_variable_store(variables.read_bytes(), subject=str(variables)),
            variables_name=variables.name,
        )


def predict_tpm(image: ImageInputs, firmware: FirmwareInputs, shape: MachineShape) -> Prediction:
    """Every event and register of ``image`` booted by ``firmware`` on a machine of ``shape``.

    Raises ``KeyturnError`` for anything whose measurements are not known, or that the machine would not boot.
    """
    return predict_measured(measure_image(image), firmware, shape)


def predict_measured(image: ImageEvents, firmware: FirmwareInputs, shape: MachineShape) -> Prediction:
    """The same for an image that is hashed already."""
    return assemble(image, platform_events(firmware, shape), tpm=shape.tpm)


def platform_events(inputs: FirmwareInputs, shape: MachineShape) -> PlatformEvents:
    """The events before a boot option is tried."""
    return PlatformEvents(
        code=code_events(inputs.firmware, shape),
        configuration=[
            *_table_events(inputs.firmware, shape),
            *boot_events(inputs.firmware, shape, inputs.variables),
        ],
        variables=inputs.variables,
        variables_name=inputs.variables_name,
        secure_boot_supported=inputs.firmware.secure_boot_supported,
    )


def _table_events(firmware: Firmware, shape: MachineShape) -> list[MeasuredEvent]:
    if _ACPI_EVENT_DATA not in firmware.dxe.data:
        return []
    from measurements.acpi_tables import acpi_events, read_acpi
    from measurements.idle_machine import idle_machine
    from measurements.qemu import QemuProgram

    with idle_machine(shape, QemuProgram.installed()) as machine:
        return acpi_events(read_acpi(machine, shape), qemu_version=machine.qemu_version)
