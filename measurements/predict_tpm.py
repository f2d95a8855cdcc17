"""Predicts TPM registers from files: image, firmware and machine shape.

ACPI tables, SMBIOS tables and option ROMs are read from a halted QEMU, and only if they are measured.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from measurements.acpi_tables import acpi_events, idle_limits, measures_acpi, read_acpi
from measurements.boot_entries import boot_events
from measurements.boot_sequence import (
    ImageInputs,
    PlatformEvents,
    Prediction,
    assemble,
    measure_image,
)
from measurements.events import MeasuredEvent
from measurements.idle_machine import IdleMachine, idle_machine
from measurements.option_roms import option_rom_events
from measurements.ovmf import Firmware, read_firmware, version_text
from measurements.pcr0 import Patch, code_events, needs_dry_boot
from measurements.qemu import QemuProgram
from measurements.secure_boot import secure_boot_policy
from measurements.shape import BootSource, MachineShape, ShapeError, TpmInterface
from measurements.smbios import (
    TABLES,
    Structure,
    measured_after_separators,
    measures_smbios,
    parse_structures,
    smbios_event,
)
from measurements.varstore import VariableStore, parse_variable_store

if TYPE_CHECKING:
    from measurements.direct_boot import DirectInputs
    from measurements.firmware_profile import FirmwareProfile


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareInputs:
    """A firmware with the variables that a machine starts with; ``profile`` is used only where PCR 0 cannot
    be computed, ``release`` names the edk2 release of a build that does not tell it.
    """

    firmware: Firmware
    variables: VariableStore
    variables_name: str
    profile: FirmwareProfile | None = None
    release: str | None = None

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


def predict_tpm(
    image: ImageInputs,
    firmware: FirmwareInputs,
    shape: MachineShape,
    *,
    program: QemuProgram | None = None,
) -> Prediction:
    """Every event and register of ``image`` booted by ``firmware`` on a machine of ``shape``; ``program`` is
    the QEMU that will run it, if it is not the installed one.

    Raises ``KeyturnError`` for anything whose measurements are not known, or that the machine would not boot.
    """
    if shape.tpm is TpmInterface.NONE:
        raise ShapeError(
            "a machine without a TPM has no registers to predict", subject="tpm", advice="use crb or tis"
        )
    return assemble(measure_image(image), platform_events(firmware, shape, program=program), tpm=shape.tpm)


def platform_events(
    inputs: FirmwareInputs, shape: MachineShape, *, program: QemuProgram | None = None
) -> PlatformEvents:
    """The events before a boot option is tried."""
    check_release(inputs.firmware, release=inputs.release)
    _check_roms(inputs, shape)
    return _platform_events(inputs, shape, _MachineReader(inputs.firmware, shape, program))


def predict_direct_boot(
    image: DirectInputs,
    firmware: FirmwareInputs,
    shape: MachineShape,
    *,
    program: QemuProgram | None = None,
) -> Prediction:
    """The same for a kernel that the host gives directly: ``shape.boot`` is ``direct``."""
    from measurements.direct_boot import predict_direct

    if shape.boot is not BootSource.DIRECT:
        raise ShapeError("the machine boots from its disk", subject="boot", advice='use boot = "direct"')
    check_release(firmware.firmware, release=firmware.release)
    _check_roms(firmware, shape)
    machine = _MachineReader(firmware.firmware, shape, program)
    platform = _platform_events(firmware, shape, machine)
    return predict_direct(image, platform, firmware.firmware, shape, qemu=machine.qemu_version)


def _platform_events(inputs: FirmwareInputs, shape: MachineShape, machine: _MachineReader) -> PlatformEvents:
    configuration = machine.configuration()
    tables = machine.smbios_events()
    late = measured_after_separators(inputs.firmware)
    return PlatformEvents(
        code=code_events(inputs.firmware, shape, recorded=_recorded(inputs, shape)),
        configuration=configuration,
        boot_choice=[*([] if late else tables), *boot_events(inputs.firmware, shape, inputs.variables)],
        after_separators=tables if late else (),
        variables=inputs.variables,
        variables_name=inputs.variables_name,
        secure_boot_supported=inputs.firmware.secure_boot_supported,
        oem_strings=oem_strings(shape),
        smbios=machine.smbios,
        direct=shape.boot is BootSource.DIRECT,
    )


def check_release(firmware: Firmware, *, release: str | None = None) -> None:
    """Raise ``UnknownFirmwareError`` for firmware of an edk2 release whose order of events is not known.

    Debian's builds before 2023.02 do not tell their version. They measure no ACPI tables, which no later
    release leaves out, so their order is known all the same.
    """
    if release is None and not version_text(firmware) and not measures_acpi(firmware):
        return
    from measurements.firmware_catalogue import edk2_release, recognise

    if release is not None:
        edk2_release(release, subject=firmware.name)
    else:
        recognise(name=firmware.name, sha256=firmware.sha256, version_text=version_text(firmware))


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

    def __init__(self, firmware: Firmware, shape: MachineShape, program: QemuProgram | None) -> None:
        self._firmware = firmware
        self._shape = shape
        self._program = program
        self._tables: bytes | None = None
        self._qemu_version = ""

    def configuration(self) -> list[MeasuredEvent]:
        """What firmware reads before it looks for something to boot: ACPI tables and option ROMs."""
        firmware, shape = self._firmware, self._shape
        if not (measures_acpi(firmware) or any(nic.rom for nic in shape.nics)):
            return []
        limit = idle_limits(shape, firmware.dxe) if measures_acpi(firmware) else None
        if limit is not None:
            raise ShapeError(
                f"its ACPI tables are not what a machine at rest shows: {limit}",
                subject="machine shape",
                advice="use a shape without this, or read the registers of a first boot",
            )
        events: list[MeasuredEvent] = []
        with self._machine() as machine:
            self._read(machine)
            if measures_acpi(firmware):
                events += acpi_events(read_acpi(machine, shape), qemu_version=machine.qemu_version)
            events += option_rom_events(machine, shape)
        return events

    def smbios_events(self) -> list[MeasuredEvent]:
        """The SMBIOS tables as firmware measures them, if it does."""
        if not measures_smbios(self._firmware):
            return []
        return [smbios_event(self._firmware, self._offered(), qemu_version=self._qemu_version)]

    @property
    def qemu_version(self) -> str:
        """The version of the installed QEMU."""
        self._offered()
        return self._qemu_version

    def smbios(self) -> list[Structure]:
        """The machine's SMBIOS structures."""
        return list(parse_structures(self._offered()))

    def _offered(self) -> bytes:
        if self._tables is None:
            with self._machine() as machine:
                self._read(machine)
        assert self._tables is not None
        return self._tables

    def _machine(self) -> AbstractContextManager[IdleMachine]:
        return idle_machine(self._shape, self._program or QemuProgram.installed())

    def _read(self, machine: IdleMachine) -> None:
        self._tables = machine.config.read(TABLES)
        self._qemu_version = machine.qemu_version


def _check_roms(inputs: FirmwareInputs, shape: MachineShape) -> None:
    policy = secure_boot_policy(inputs.variables, supported=inputs.firmware.secure_boot_supported)
    if policy.enforced and any(nic.rom for nic in shape.nics):
        raise ShapeError(
            "a boot ROM under Secure Boot must be signed, and its measurement is not predicted",
            subject="nic.rom",
            advice="use a network card without boot ROM (rom = false)",
        )
