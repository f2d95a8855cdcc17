"""What a trust domain would measure in place of a boot of the TPM oracle, against that boot's log.

Firmware, stub and kernel measure through one protocol, which in a trust domain has registers for groups of
PCRs (UEFI 2.10, section 38.4.1). So the sequence of the booted log's events per register must be the one that
``predict_tdx`` gives for the same machine and image with the whole firmware file (``OVMF.fd``) of the same
package. All that may differ is:

- separators: a TPM has one for each PCR, a trust domain as many as the release's order says;
- the list of memory (TD HOB) and the variable store (CFV), which only trust domains measure;
- items of QEMU's configuration device, which only trust domains measure (from 2025.05 on);
- PCR 0, in whose place MRTD is fixed at launch.

Boots with Secure Boot are left out: ``OVMF.fd`` of these packages is built without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from measurements.acpi_tables import read_acpi
from measurements.boot_sequence import ImageEvents, measure_image
from measurements.events import Bank, EventType
from measurements.firmware_catalogue import hypervisor
from measurements.idle_machine import idle_machine
from measurements.platforms import RegisterEvent
from measurements.qemu import QemuProgram
from measurements.shape import MachineShape
from measurements.smbios import TABLES
from measurements.tdx.cc_mapping import CcRegister, register_of
from measurements.tdx.predict import DirectBoot, TdxFirmware, TdxMachine, predict_tdx
from measurements.tdx.rtmr0 import BOOT_MENU
from tests.support.oracle_boots import BANKS, Booted, OracleMachine, firmware_folder, logged

_ONLY_IN_TRUST_DOMAINS = {
    EventType.EV_EFI_HANDOFF_TABLES2.name,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2.name,
}
_CC_STUB = 257
"""252 and 254 do not know EFI_CC_MEASUREMENT_PROTOCOL: its GUID is not in them."""
_FW_CFG = "QEMU fw_cfg item "

Sequence = list[tuple[int, str]]


def compared_registers(machine: OracleMachine) -> tuple[CcRegister, ...]:
    """The registers that have the same events: none with Secure Boot, and not RTMR2 where the stub measures
    into TPMs only, nor where it takes the host's command line, which it does not in a confidential machine.
    """
    if machine.secure_boot:
        return ()
    alike = machine.stub >= _CC_STUB and not machine.shape.smbios
    return (CcRegister.RTMR0, CcRegister.RTMR1, *([CcRegister.RTMR2] if alike else []))


def check_image(booted: Booted, machine: OracleMachine) -> None:
    """Compare the boot of a disk, if it can be."""
    assert booted.disk_boot is not None
    registers = compared_registers(machine)
    if not registers:
        return
    check_cc_sequences(
        booted,
        suite=machine.firmware,
        shape=booted.disk_boot.shape,
        boot=measure_image(booted.disk_boot.image),
        registers=registers,
        program=booted.disk_boot.program,
    )


def check_cc_sequences(
    booted: Booted,
    *,
    suite: str,
    shape: MachineShape,
    boot: ImageEvents | DirectBoot,
    registers: Iterable[CcRegister] = (CcRegister.RTMR0, CcRegister.RTMR1, CcRegister.RTMR2),
    program: QemuProgram | None = None,
) -> None:
    """Assert that each register's predicted events are those of the log, apart from the differences above."""
    path = firmware_folder(suite) / "ovmf/OVMF.fd"
    firmware = TdxFirmware.parse(path.read_bytes(), name=path.name)
    machine = _machine(shape, program or QemuProgram.installed())
    (prediction,) = predict_tdx(firmware, machine, boot)
    for register in registers:
        found = _booted(booted, register)
        assert found
        mine = _predicted(prediction.events, register)
        wrong = [f"{one} is not {other}" for one, other in zip_longest(mine, found) if one != other]
        assert not wrong, "\n".join([register.register, *wrong])


def _machine(shape: MachineShape, program: QemuProgram) -> TdxMachine:
    with idle_machine(shape, program) as machine:
        major, minor = machine.qemu_version.split(".")[:2]
        return TdxMachine(
            shape=shape,
            hypervisor=hypervisor("qemu"),
            acpi=read_acpi(machine, shape),
            acpi_origin="QEMU",
            fw_cfg={BOOT_MENU: bytes(2)},
            smbios=machine.config.read(TABLES),
            qemu_version=(int(major), int(minor)),
        )


def _booted(booted: Booted, register: CcRegister) -> Sequence:
    return [
        (kind, digest)
        for pcr, kind, digest in logged(booted.report.log, BANKS[Bank.SHA384])
        if kind != EventType.EV_SEPARATOR and pcr != 0 and register_of(pcr) is register
    ]


def _predicted(events: Iterable[RegisterEvent], register: CcRegister) -> Sequence:
    return [
        (EventType[event.event_type].value, event.digests[Bank.SHA384.value].hex())
        for event in events
        if event.register == register.register
        and event.event_type != EventType.EV_SEPARATOR.name
        and event.event_type not in _ONLY_IN_TRUST_DOMAINS
        and not event.description.startswith(_FW_CFG)
    ]
