"""What the machine contributes to PCR 1 and 2: ACPI tables, option ROMs, SMBIOS, then the boot entries.

All of it is read from a halted QEMU of the same shape, which is started only if this firmware measures any
of it.
"""

from __future__ import annotations

from measurements.acpi_tables import acpi_events, read_acpi
from measurements.boot_entries import boot_events
from measurements.events import MeasuredEvent
from measurements.idle_machine import IdleMachine, idle_machine
from measurements.option_roms import option_rom_events
from measurements.ovmf import Firmware
from measurements.qemu import QemuProgram
from measurements.shape import BootOrder, MachineShape, ShapeError
from measurements.smbios import measures_smbios, smbios_event
from measurements.varstore import VariableStore

_ACPI_EVENT_DATA = b"ACPI DATA"


def configuration_events(
    firmware: Firmware,
    shape: MachineShape,
    variables: VariableStore,
    *,
    program: QemuProgram | None = None,
) -> list[MeasuredEvent]:
    """The events between the Secure Boot policy and the boot manager's action, in the order of the log.

    Raises ``ShapeError`` for shapes whose events are not known; ``program`` is the QEMU that will run the
    machine, by default the installed one.
    """
    _refuse_unknown(shape)
    events: list[MeasuredEvent] = []
    if measures_acpi(firmware) or measures_smbios(firmware) or any(nic.rom for nic in shape.nics):
        with idle_machine(shape, program or QemuProgram.installed()) as machine:
            events = _machine_events(firmware, shape, machine)
    return events + boot_events(firmware, shape, variables)


def measures_acpi(firmware: Firmware) -> bool:
    """Whether this build measures ACPI tables (edk2 from 2023.02 on)."""
    return _ACPI_EVENT_DATA in firmware.dxe.data


def _machine_events(firmware: Firmware, shape: MachineShape, machine: IdleMachine) -> list[MeasuredEvent]:
    events: list[MeasuredEvent] = []
    if measures_acpi(firmware):
        events += acpi_events(read_acpi(machine, shape), qemu_version=machine.qemu_version)
    events += option_rom_events(machine, shape)
    if measures_smbios(firmware):
        events.append(smbios_event(firmware, machine))
    return events


def _refuse_unknown(shape: MachineShape) -> None:
    if any(nic.rom for nic in shape.nics) and shape.boot_order is BootOrder.FIRMWARE:
        raise ShapeError(
            "a card's boot ROM brings its own boot entries, which are not predicted",
            subject="nic.rom",
            advice='use rom = false, or boot-order = "disk"',
        )
