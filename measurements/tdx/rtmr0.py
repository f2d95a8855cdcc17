"""RTMR0: configuration of machine and firmware, Secure Boot, boot variables.

Which groups of events there are, and their order, is data of the edk2 release (``profiles/edk2.toml``). What
each group measures (edk2 ``OvmfPkg/IntelTdx/TdxHelperLib``, ``Library/QemuFwCfgLib/QemuFwCfgCacheInit.c``,
``AcpiPlatformDxe``, ``Tcg/TdTcg2Dxe``, ``SecurityPkg``, ``MdeModulePkg/Universal/SmbiosMeasurementDxe``):

- td-hob: the VMM's list of memory; cfv: the section that holds the variable store;
- fw-cfg: items of QEMU's configuration device, as bytes, in the order of ``FW_CFG_ITEMS``; an item that is
  absent, or whose size is not the fixed one, is not measured;
- secure-boot: the variables SecureBoot, PK, KEK, db, dbx, each with GUID, name and data; then a separator of
  its own group;
- acpi: QEMU's loader script, then its files; smbios: the tables, with what differs between equal machines
  blanked;
- boot-variables: BootOrder and every entry in it, data only.

After the first boot option is tried come the authorities of Secure Boot, and what a stub measures for PCR 1;
on direct boot, they come before the boot manager is ready to boot, which is when SMBIOS and boot variables
are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from measurements.acpi_blob import LOADER, AcpiFiles
from measurements.errors import FormatError
from measurements.events import EventType, MeasuredEvent, Provenance
from measurements.firmware_catalogue import Edk2Release, EventGroup
from measurements.platforms import RegisterEvent
from measurements.secure_boot import SecureBootPolicy, policy_events
from measurements.smbios import measured_tables, parse_structures
from measurements.tdx.cc_mapping import CcRegister, in_trust_domain
from measurements.tdx.dxe_facts import DxeFacts
from measurements.tdx.register_events import event_over, separator
from measurements.tdx.td_hob import td_hob
from measurements.tdx.tdvf import Tdvf, TdvfError

BOOT_MENU = "BootMenu"
FW_CFG_ITEMS: Mapping[str, int | None] = {
    "etc/extra-pci-roots": 8,
    BOOT_MENU: 2,
    "etc/boot-menu-wait": 2,
    "etc/reserved-memory-end": 8,
    "opt/ovmf/X-PciMmio64Mb": None,
    "bootorder": None,
}
"""Measured items in their order, with the size that each must have to be measured."""

_REGISTER = CcRegister.RTMR0
_READY_TO_BOOT = (EventGroup.SMBIOS, EventGroup.BOOT_VARIABLES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rtmr0Inputs:
    """What RTMR0 comes from.

    ``memory`` is in bytes. ``store`` are the bytes of the variable store, ``policy`` what they say.
    ``fw_cfg`` and ``smbios`` are what QEMU offers (items by name, ``etc/smbios/smbios-tables``); they may be
    ``None`` for releases that do not measure them. ``boot_variables`` and ``started`` are events as PCR
    events: the boot entries, and all from the first program that firmware starts.
    """

    firmware: Tdvf
    facts: DxeFacts
    release: Edk2Release
    memory: int
    store: bytes
    store_name: str
    policy: SecureBootPolicy
    acpi: AcpiFiles
    acpi_origin: str
    acpi_provenance: Provenance = Provenance.COMPUTED
    fw_cfg: Mapping[str, bytes] | None
    smbios: bytes | None
    boot_variables: Sequence[MeasuredEvent]
    started: Sequence[MeasuredEvent]
    direct: bool


def rtmr0_events(inputs: Rtmr0Inputs) -> list[RegisterEvent]:
    """All events in order; raises ``FormatError`` where an input is missing that the release measures."""
    started = [event for event in in_trust_domain(inputs.started) if event.register == _REGISTER.register]
    order = list(inputs.release.rtmr0)
    # A kernel of the host is loaded, and accepted, before the boot manager is ready to boot.
    ready_at = min(order.index(group) for group in _READY_TO_BOOT if group in order)
    loaded_at = ready_at if inputs.direct else len(order)
    return [
        *(event for group in order[:loaded_at] for event in _GROUPS[group](inputs)),
        *started,
        *(event for group in order[loaded_at:] for event in _GROUPS[group](inputs)),
    ]


def _td_hob(inputs: Rtmr0Inputs) -> Iterator[RegisterEvent]:
    yield event_over(
        td_hob(inputs.firmware, inputs.memory),
        _REGISTER,
        EventType.EV_EFI_HANDOFF_TABLES2,
        description=f"TD HOB: {inputs.memory >> 20} MiB of memory in ranges",
        origin=f"memory of the shape, TDVF metadata of {inputs.firmware.name}",
    )


def _configuration(inputs: Rtmr0Inputs) -> Iterator[RegisterEvent]:
    section = inputs.firmware.configuration
    if section is None:
        raise TdvfError(
            "has no configuration firmware volume",
            subject=inputs.firmware.name,
            advice="use a build with one, as distributions ship it",
        )
    yield event_over(
        inputs.store.ljust(section.size, b"\0"),
        _REGISTER,
        EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2,
        description=f"{section.words()}: the variable store",
        origin=inputs.store_name,
    )


def _fw_cfg(inputs: Rtmr0Inputs) -> Iterator[RegisterEvent]:
    # The boot menu has a number and no file, so every machine has it.
    if inputs.fw_cfg is None or BOOT_MENU not in inputs.fw_cfg:
        raise _missing(inputs, "items of QEMU's configuration device")
    for name, size in FW_CFG_ITEMS.items():
        data = inputs.fw_cfg.get(name, b"")
        if data and size in (None, len(data)):
            yield event_over(
                data,
                _REGISTER,
                EventType.EV_PLATFORM_CONFIG_FLAGS,
                description=f"QEMU fw_cfg item {name}",
                origin="QEMU's configuration device for this machine shape",
            )


def _secure_boot(inputs: Rtmr0Inputs) -> Iterator[RegisterEvent]:
    yield from in_trust_domain(policy_events(inputs.policy, origin=inputs.store_name))


def _separator(_: Rtmr0Inputs) -> Iterator[RegisterEvent]:
    yield separator(_REGISTER)


def _acpi(inputs: Rtmr0Inputs) -> Iterator[RegisterEvent]:
    for name, data in ((LOADER, inputs.acpi.loader), *inputs.acpi.files):
        yield event_over(
            data,
            _REGISTER,
            EventType.EV_PLATFORM_CONFIG_FLAGS,
            description=f"ACPI data: {name}",
            origin=inputs.acpi_origin,
            provenance=inputs.acpi_provenance,
        )


def _smbios(inputs: Rtmr0Inputs) -> Iterator[RegisterEvent]:
    if inputs.facts.bios is None:
        return
    if inputs.smbios is None:
        raise _missing(inputs, "SMBIOS tables")
    bios = next(parse_structures(inputs.facts.bios))
    yield event_over(
        measured_tables(inputs.smbios, bios),
        _REGISTER,
        EventType.EV_EFI_HANDOFF_TABLES,
        description="SMBIOS tables",
        origin=f"SMBIOS generator of QEMU for this machine shape, and {inputs.firmware.name}",
    )


def _boot_variables(inputs: Rtmr0Inputs) -> Iterator[RegisterEvent]:
    yield from in_trust_domain(inputs.boot_variables)


_GROUPS: Mapping[EventGroup, Callable[[Rtmr0Inputs], Iterator[RegisterEvent]]] = {
    EventGroup.TD_HOB: _td_hob,
    EventGroup.CFV: _configuration,
    EventGroup.FW_CFG: _fw_cfg,
    EventGroup.SECURE_BOOT: _secure_boot,
    EventGroup.SEPARATOR: _separator,
    EventGroup.ACPI: _acpi,
    EventGroup.SMBIOS: _smbios,
    EventGroup.BOOT_VARIABLES: _boot_variables,
}


def _missing(inputs: Rtmr0Inputs, what: str) -> FormatError:
    return FormatError(
        f"are not given, but edk2 {inputs.release.name} measures them",
        subject=what,
        advice="read them from QEMU for the machine's shape",
    )
