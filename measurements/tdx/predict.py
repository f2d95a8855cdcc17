"""The prediction for Intel TDX: MRTD, RTMR0 to RTMR3 and what the host sets at launch.

A hypervisor of which two page orders are known gives two predictions, told apart by their label. Whatever the
firmware measures but the caller did not give is an error.

MRCONFIGID, MROWNER and MROWNERCONFIG are set by the host and only reported: zero, unless the host is told to
set something (``measurements.launch_binding``, or what another stack wants).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from measurements.acpi_blob import AcpiFiles
from measurements.boot_applications import exit_events, program_event
from measurements.boot_sequence import ImageEvents, started_events
from measurements.errors import FormatError
from measurements.events import MeasuredEvent, Provenance
from measurements.firmware_catalogue import (
    FirmwareBuild,
    HobForm,
    Hypervisor,
    UnknownFirmwareError,
    recognise,
)
from measurements.linux_stub import check_kernel_release, kernel_stub_events
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.runtime_events import RuntimeEvent, event_digest
from measurements.secure_boot import SecureBootPolicy, StartedImage, authority_events
from measurements.shape import BootSource, MachineShape, ShapeError
from measurements.smbios import Structure, parse_structures
from measurements.tdx.boot_variables import boot_variable_events
from measurements.tdx.cc_mapping import CcRegister
from measurements.tdx.dxe_facts import DxeFacts
from measurements.tdx.kernel_patch import kernel_release, measured_kernel
from measurements.tdx.mrtd import BANK, PageOrder, compute_mrtd
from measurements.tdx.register_events import replay
from measurements.tdx.rtmr0 import Rtmr0Inputs, rtmr0_events
from measurements.tdx.rtmr1 import rtmr1_direct, rtmr1_from_disk
from measurements.tdx.rtmr2 import direct_command_line, rtmr2_events
from measurements.tdx.td_hob import END_MARKER, gce_td_hob
from measurements.tdx.tdvf import Tdvf, parse_tdvf
from measurements.tdx.variables import trust_domain_policy

LAUNCH_REGISTERS = ("mrconfigid", "mrowner", "mrownerconfig")
_REGISTER_SIZE = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxFirmware:
    """A firmware file for trust domains: its metadata, its build, the facts of its DXE volume, its
    variables."""

    tdvf: Tdvf
    build: FirmwareBuild
    facts: DxeFacts
    store: bytes
    store_name: str
    policy: SecureBootPolicy

    @classmethod
    def parse(
        cls,
        data: bytes,
        *,
        name: str,
        release: str | None = None,
        variables: tuple[str, bytes] | None = None,
    ) -> TdxFirmware:
        """Read the bytes of the file ``name``.

        ``release`` names the edk2 release of a build that is not recognised, ``variables`` is a variable
        store (its name and bytes) that takes the place of the file's own. Raises ``TdvfError``,
        ``FirmwareError``, ``FormatError`` or ``UnknownFirmwareError``.
        """
        tdvf = parse_tdvf(data, name=name)
        digest = hashlib.sha256(data).hexdigest()
        facts = _facts(data, name=name, digest=digest)
        build = recognise(name=name, sha256=digest, version_text=facts.version, release=release)
        store_name, store = variables or (f"variable store in {name}", _own_store(tdvf))
        section = tdvf.configuration
        if section is None or len(store) != section.raw_size:
            size = section.raw_size if section else 0
            raise FormatError(
                f"has {len(store)} bytes, but the firmware keeps {size} for it",
                subject=store_name,
                advice="give the OVMF_VARS file that belongs to the firmware",
            )
        policy = trust_domain_policy(store, name=store_name, supported=facts.secure_boot_supported)
        return cls(tdvf=tdvf, build=build, facts=facts, store=store, store_name=store_name, policy=policy)


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxMachine:
    """The machine and its hypervisor.

    ``acpi`` are QEMU's ACPI files for it, ``acpi_origin`` says where they come from; ``fw_cfg`` and
    ``smbios`` what QEMU offers besides, for firmware that measures them; ``qemu_version`` (major, minor) is
    needed on direct boot.
    """

    shape: MachineShape
    hypervisor: Hypervisor
    acpi: AcpiFiles
    acpi_origin: str
    acpi_provenance: Provenance = Provenance.COMPUTED
    fw_cfg: Mapping[str, bytes] | None = None
    smbios: bytes | None = None
    qemu_version: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectBoot:
    """What the host starts without a disk: kernel file, initrd (may be empty), command line."""

    kernel: bytes
    initrd: bytes
    command_line: str


def predict_tdx(
    firmware: TdxFirmware,
    machine: TdxMachine,
    boot: ImageEvents | DirectBoot,
    *,
    runtime_events: Sequence[RuntimeEvent] = (),
    launch: Mapping[str, bytes] | None = None,
) -> tuple[PlatformPrediction, ...]:
    """Every register of ``boot`` on ``machine``, one prediction per page order of the hypervisor.

    ``runtime_events`` are the guest's own, ``launch`` values of ``LAUNCH_REGISTERS`` that the host sets.
    Raises ``KeyturnError`` for what is not known or not given.
    """
    _check(firmware, machine, boot)
    started = _started(firmware, machine, boot)
    release = firmware.build.release
    direct = isinstance(boot, DirectBoot)
    events = [
        *rtmr0_events(rtmr0_inputs(firmware, machine, started, direct=direct)),
        *(rtmr1_direct if direct else rtmr1_from_disk)(release, started),
        *rtmr2_events(started, kernel_release=_kernel_release(boot)),
        *(_runtime_event(event) for event in runtime_events),
    ]
    tail = _launch_events(launch or {})
    return tuple(
        _prediction(machine, order, [*compute_mrtd(firmware.tdvf, order=order).events, *events, *tail])
        for order in machine.hypervisor.orders
    )


def predict_mrtd(
    firmware: Tdvf, hypervisor: Hypervisor, shape: MachineShape
) -> tuple[PlatformPrediction, ...]:
    """MRTD alone, which needs neither image nor ACPI tables, one prediction per page order."""
    everything = PageOrder.ALL_REGIONS in hypervisor.orders
    td_hob = gce_td_hob(firmware, shape.memory_mib << 20) + END_MARKER if everything else None
    return tuple(
        PlatformPrediction(
            platform=Platform.TDX,
            shape=shape.as_json(),
            registers={"mrtd": {BANK: mrtd.value}},
            events=mrtd.events,
            label=_label(hypervisor, order),
        )
        for order in hypervisor.orders
        for mrtd in [compute_mrtd(firmware, order=order, td_hob=td_hob)]
    )


def _facts(data: bytes, *, name: str, digest: str) -> DxeFacts:
    """From the catalogue where the file is known: unpacking takes ten times as long as all the rest."""
    from measurements.firmware_catalogue import catalogue

    known = catalogue().files.get(digest)
    if known is not None and known.dxe is not None:
        return known.dxe
    from measurements.tdx.dxe_volume import read_dxe_facts

    return read_dxe_facts(data, name=name)


def _own_store(tdvf: Tdvf) -> bytes:
    return bytes(tdvf.contents(tdvf.configuration)) if tdvf.configuration else b""


def _check(firmware: TdxFirmware, machine: TdxMachine, boot: ImageEvents | DirectBoot) -> None:
    release = firmware.build.release
    if release.unsupported:
        raise UnknownFirmwareError(
            f"is of edk2 {release.name}: {release.unsupported}",
            subject=firmware.tdvf.name,
            advice="use firmware of edk2 2023.02 or later",
        )
    if not firmware.facts.measures:
        raise UnknownFirmwareError(
            "is built without measurement for trust domains (it has no module TdTcg2Dxe)",
            subject=firmware.tdvf.name,
            advice="use a build for TDX, such as OVMF.inteltdx.fd, or one of edk2 2024.08 or later",
        )
    if machine.hypervisor.td_hob is not HobForm.QEMU:
        raise UnknownFirmwareError(
            f"of {machine.hypervisor.words} only MRTD and TD HOB are predicted",
            subject="hypervisor",
            advice="compare the other registers with the provider's endorsement",
        )
    _check_shape(machine.shape)
    if isinstance(boot, DirectBoot) != (machine.shape.boot is BootSource.DIRECT):
        raise FormatError(
            f"is {machine.shape.boot.value!r}, but what is booted is not",
            subject="shape: boot",
            advice='use boot = "direct" for a kernel of the host, and boot = "disk" for an image',
        )


def _check_shape(shape: MachineShape) -> None:
    if shape.smm:
        raise ShapeError(
            "a trust domain has no system management mode", subject="smm", advice="use smm = false"
        )
    if any(nic.rom for nic in shape.nics):
        raise ShapeError(
            "what a card's boot ROM measures in a trust domain is not predicted",
            subject="nic.rom",
            advice="use a network card without boot ROM (rom = false)",
        )


def _started(
    firmware: TdxFirmware, machine: TdxMachine, boot: ImageEvents | DirectBoot
) -> list[MeasuredEvent]:
    """From the first program that firmware starts, as PCR events."""
    if isinstance(boot, ImageEvents):
        return started_events(
            boot,
            firmware.policy,
            variables_name=firmware.store_name,
            smbios=lambda: _smbios_structures(machine),
            trust_domain=True,
        )
    check_kernel_release(kernel_release(boot.kernel))
    release = firmware.build.release
    kernel = measured_kernel(
        boot.kernel,
        hypervisor=machine.hypervisor,
        release=release,
        qemu_version=machine.qemu_version,
        memory=_memory(machine),
        initrd_size=len(boot.initrd),
        command_line=boot.command_line,
    )
    line = direct_command_line(boot.command_line, release.initrd_argument, initrd=bool(boot.initrd))
    words = "as the file is" if kernel == boot.kernel else "with QEMU's changes to its header"
    return [
        *authority_events(
            firmware.policy, [StartedImage(name="kernel", data=kernel)], origin=firmware.store_name
        ),
        program_event(kernel, description=f"kernel (Authenticode), {words}", origin="kernel of the host"),
        *kernel_stub_events(
            command_line=line,
            initrd=boot.initrd,
            command_line_origin="command line of the host, and what OVMF adds",
            initrd_origin="initrd of the host",
        ),
        *exit_events(),
    ]


def _smbios_structures(machine: TdxMachine) -> list[Structure]:
    """What the machine tells programs; few stubs measure it."""
    if machine.smbios is None:
        raise FormatError(
            "are not given, but this UKI's stub measures them",
            subject="SMBIOS tables",
            advice="read them from QEMU for the machine's shape",
        )
    return list(parse_structures(machine.smbios))


def rtmr0_inputs(
    firmware: TdxFirmware, machine: TdxMachine, started: Sequence[MeasuredEvent], *, direct: bool
) -> Rtmr0Inputs:
    """What RTMR0 comes from on this machine; ``started`` are the events from the first program on."""
    return Rtmr0Inputs(
        firmware=firmware.tdvf,
        facts=firmware.facts,
        release=firmware.build.release,
        memory=_memory(machine),
        store=firmware.store,
        store_name=firmware.store_name,
        policy=firmware.policy,
        acpi=machine.acpi,
        acpi_origin=machine.acpi_origin,
        acpi_provenance=machine.acpi_provenance,
        fw_cfg=machine.fw_cfg,
        smbios=machine.smbios,
        boot_variables=boot_variable_events(firmware.facts, machine.shape),
        started=started,
        direct=direct,
    )


def _memory(machine: TdxMachine) -> int:
    return machine.shape.memory_mib << 20


def _kernel_release(boot: ImageEvents | DirectBoot) -> str:
    return boot.inputs.kernel_release if isinstance(boot, ImageEvents) else kernel_release(boot.kernel)


def _runtime_event(event: RuntimeEvent) -> RegisterEvent:
    return RegisterEvent(
        register=CcRegister.RTMR3.register,
        event_type="KEYTURN_RUNTIME",
        digests={BANK: event_digest(event, algorithm=BANK)},
        description=f"runtime event {event.name}",
        origin="app manifest, config disk and development mark of the image",
    )


def _launch_events(launch: Mapping[str, bytes]) -> list[RegisterEvent]:
    for register, value in launch.items():
        if register not in LAUNCH_REGISTERS or len(value) != _REGISTER_SIZE:
            raise FormatError(
                f"is no value of 48 bytes for one of {', '.join(LAUNCH_REGISTERS)}",
                subject=register,
                advice="give what the host sets before launch",
            )
    return [
        RegisterEvent(
            register=register,
            event_type="TD parameter",
            digests={BANK: launch.get(register, bytes(_REGISTER_SIZE))},
            description=f"{register}, set by the host before launch"
            + ("" if register in launch else ": zero, nothing is bound"),
            origin="launch parameters of the host",
            running=True,
        )
        for register in LAUNCH_REGISTERS
    ]


def _prediction(machine: TdxMachine, order: PageOrder, events: Sequence[RegisterEvent]) -> PlatformPrediction:
    running = {event.register: event.digests[BANK] for event in events if event.running}
    values = {**running, **replay(event for event in events if not event.running)}
    return PlatformPrediction(
        platform=Platform.TDX,
        shape=machine.shape.as_json(),
        registers={register: {BANK: value} for register, value in values.items()},
        events=tuple(events),
        label=_label(machine.hypervisor, order),
    )


def _label(hypervisor: Hypervisor, order: PageOrder) -> dict[str, str]:
    return {"hypervisor": hypervisor.name, "page-order": order.value}
