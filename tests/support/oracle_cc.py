"""What a trust domain would measure in place of a boot of the TPM oracle, against that boot's log.

Firmware, stub and kernel measure through one protocol, which in a trust domain has registers for groups of
PCRs (UEFI 2.10, section 38.4.1). So the sequence of the booted log's events per register must be the one that
``predict_tdx`` gives for the same machine and image with the whole firmware file (``OVMF.fd``) of the same
package. All that may differ is:

- separators: a TPM has one for each PCR, a trust domain as many as the release's order says;
- the list of memory (TD HOB) and the variable store (CFV), which only trust domains measure;
- items of QEMU's configuration device, which only trust domains measure (from 2025.05 on);
- PCR 0, in whose place MRTD is fixed at launch.
"""

from __future__ import annotations

from collections.abc import Iterable

from measurements.acpi_tables import read_acpi
from measurements.boot_sequence import ImageEvents
from measurements.events import Bank, EventType
from measurements.firmware_catalogue import hypervisor
from measurements.fw_cfg import FirmwareConfig
from measurements.idle_machine import idle_machine
from measurements.platforms import RegisterEvent
from measurements.qemu import QemuProgram
from measurements.shape import BootSource, MachineShape
from measurements.smbios import TABLES
from measurements.tdx.cc_mapping import CcRegister, register_of
from measurements.tdx.machine_reader import offered_items
from measurements.tdx.predict import DirectBoot, TdxFirmware, TdxMachine, predict_tdx
from measurements.tdx.rtmr0 import FW_CFG_ITEMS
from tests.support.oracle_boots import BANKS, Booted, OracleMachine, firmware_folder, logged

RTMRS = (CcRegister.RTMR0, CcRegister.RTMR1, CcRegister.RTMR2)
_ONLY_IN_TRUST_DOMAINS = {
    EventType.EV_EFI_HANDOFF_TABLES2.name,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2.name,
}
_CC_STUB = 257
"""252 and 254 do not know EFI_CC_MEASUREMENT_PROTOCOL: its GUID is not in them."""
_FW_CFG = "QEMU fw_cfg item "

Sequence = list[tuple[int, str]]


def measures_alike(machine: OracleMachine) -> bool:
    """Whether the same boot in a trust domain measures the same: not with Secure Boot (whose keys are in
    another variable store), nor where a stub takes the host's command line, which it does not in a
    confidential machine; nor with stubs that measure into TPMs only.
    """
    return machine.stub >= _CC_STUB and not machine.secure_boot and not machine.shape.smbios


def check_cc_sequences(
    booted: Booted,
    *,
    suite: str,
    shape: MachineShape,
    boot: ImageEvents | DirectBoot,
    program: QemuProgram | None = None,
) -> None:
    """Assert that each RTMR's predicted events are those of the log, apart from the differences above."""
    path = firmware_folder(suite) / "ovmf/OVMF.fd"
    firmware = TdxFirmware.parse(path.read_bytes(), name=path.name)
    (prediction,) = predict_tdx(firmware, _machine(shape, program or QemuProgram.installed()), boot)
    for register in RTMRS:
        found = _booted(booted, register)
        assert found
        assert _predicted(prediction.events, register) == found, register


def _machine(shape: MachineShape, program: QemuProgram) -> TdxMachine:
    with idle_machine(shape, program) as machine:
        major, minor = machine.qemu_version.split(".")[:2]
        return TdxMachine(
            shape=shape,
            hypervisor=hypervisor("qemu"),
            acpi=read_acpi(machine, shape),
            acpi_origin="QEMU",
            fw_cfg=offered_items(_items(machine.config), direct=shape.boot is BootSource.DIRECT),
            smbios=machine.config.read(TABLES),
            qemu_version=(int(major), int(minor)),
        )


def _items(config: FirmwareConfig) -> dict[str, bytes]:
    return {name: config.read(name) for name in FW_CFG_ITEMS if name in config.files}


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
