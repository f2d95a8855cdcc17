"""What a dstack guest will measure: MRTD and RTMR0 to RTMR2 on TDX, the launch measurement on SEV-SNP.

The image comes from a measurement document, or from a release's folder; the machine from the host's
``vm_config``; the ACPI tables from an unmodified QEMU, or from wherever the caller says. RTMR3 follows from
the app (``app_compose``), not from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from measurements.acpi_blob import RSDP, AcpiFiles
from measurements.dstack.boot_log import (
    BANK,
    AcpiDigests,
    Measured,
    empty_variable_store,
    replayed,
    rtmr0_events,
    rtmr1_events,
    rtmr2_events,
    sha384,
)
from measurements.dstack.errors import DstackInputError
from measurements.dstack.lite import (
    SNP_FILE,
    TDX_FILE,
    SnpMeasurement,
    TdxMeasurement,
    require_stable_kernel,
)
from measurements.dstack.runtime_events import RuntimeEvent, replay
from measurements.dstack.vm_config import SnpLaunch, VmConfig
from measurements.events import Provenance
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.sev.cpu_models import find_cpu_model
from measurements.sev.kernel_hashes import KernelHashes
from measurements.sev.ovmf_metadata import described_image
from measurements.sev.predict import SevChoices, predict_sev
from measurements.tdx.mrtd import PageOrder


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxReference:
    """What an image measures on a machine, but for the ACPI tables: MRTD by the order in which QEMU adds
    pages, and the digests that differ between images.
    """

    mrtd: Mapping[PageOrder, bytes]
    mrtd_events: tuple[RegisterEvent, ...]
    td_hob: Measured
    variables: Measured
    kernel: Measured
    command_line: Measured
    initrd: Measured


def lite_reference(document: TdxMeasurement, config: VmConfig) -> TdxReference:
    """From ``measurement.tdx.cbor``; raises ``DstackInputError`` for memory that it does not speak of."""
    require_stable_kernel(config.memory)
    mrtd = {PageOrder.SINGLE_PASS: document.mrtd_single_pass, PageOrder.TWO_PASS: document.mrtd_two_pass}
    hob = sha384(document.witness.td_hob(config.memory))
    return TdxReference(
        mrtd=mrtd,
        mrtd_events=(_listed_mrtd(mrtd[config.page_order], config.page_order),),
        td_hob=Measured(digest=hob, origin=f"memory of the machine, regions in {TDX_FILE}"),
        variables=Measured(digest=sha384(empty_variable_store()), origin="an empty variable store"),
        kernel=_recorded(document.kernel),
        command_line=_recorded(document.command_line),
        initrd=_recorded(document.initrd),
    )


def predict_tdx(reference: TdxReference, config: VmConfig, acpi: AcpiDigests) -> PlatformPrediction:
    """MRTD and RTMR0 to RTMR2 of the image on this machine."""
    registers = {
        "rtmr0": rtmr0_events(td_hob=reference.td_hob, variables=reference.variables, acpi=acpi),
        "rtmr1": rtmr1_events(reference.kernel),
        "rtmr2": rtmr2_events(command_line=reference.command_line, initrd=reference.initrd),
    }
    values = {"mrtd": reference.mrtd[config.page_order]}
    values |= {register: replayed(events) for register, events in registers.items()}
    return PlatformPrediction(
        platform=Platform.TDX,
        shape=shape_words(config),
        registers={register: {BANK: value} for register, value in values.items()},
        events=(*reference.mrtd_events, *(event for events in registers.values() for event in events)),
        label={"qemu": ".".join(map(str, config.qemu)), "page-order": config.page_order.value},
    )


def with_app(
    prediction: PlatformPrediction, events: Sequence[RuntimeEvent], *, config_id: bytes
) -> PlatformPrediction:
    """The prediction with RTMR3 at the end of the boot's runtime events, and MRCONFIGID (48 bytes) as the
    host binds it at launch.
    """
    runtime = [
        RegisterEvent(
            register="rtmr3",
            event_type="dstack runtime event",
            digests={BANK: event.digest()},
            description=f"runtime event {event.name}",
            origin="app-compose.json and deployment",
        )
        for event in events
    ]
    bound = RegisterEvent(
        register="mrconfigid",
        event_type="TD parameter",
        digests={BANK: config_id},
        description=f"mrconfigid of version {config_id[0]}",
        origin="app-compose.json",
        running=True,
    )
    return replace(
        prediction,
        registers={
            **prediction.registers,
            "rtmr3": {BANK: replay(events)},
            "mrconfigid": {BANK: config_id},
        },
        events=(*prediction.events, *runtime, bound),
    )


def predict_snp(document: SnpMeasurement, launch: SnpLaunch) -> PlatformPrediction:
    """The launch measurement of the image with these processors.

    Raises ``SevFirmwareError`` for sections that are not known, and the errors of ``predict_sev``.
    """
    firmware = described_image(
        name=SNP_FILE,
        sections=[(each.gpa, each.size, each.kind) for each in document.sections],
        hash_table_gpa=document.hashes_gpa,
        reset_eip=document.reset_eip,
    )
    command_line = hashlib.sha256(document.command_line.encode("ascii") + b"\0").digest()
    choices = SevChoices(
        cpu_models=(find_cpu_model(launch.vcpu_type),),
        guest_features=(launch.guest_features,),
        vcpus=(launch.vcpus,),
    )
    (prediction,) = predict_sev(
        Platform.SNP,
        firmware,
        kernel=KernelHashes(kernel=document.kernel, initrd=document.initrd, cmdline=command_line),
        choices=choices,
        firmware_digest=document.firmware,
    )
    return prediction


def acpi_digests(
    files: AcpiFiles, *, origin: str, provenance: Provenance = Provenance.COMPUTED
) -> AcpiDigests:
    """The digests of QEMU's files as dstack's firmware measures them.

    Raises ``DstackInputError`` for a machine with a TPM, whose firmware measures one file more.
    """
    contents = dict(files.files)
    if len(contents) != 2 or RSDP not in contents:
        raise DstackInputError(
            f"has the files {', '.join(contents)}; RSDP and tables alone are expected",
            subject="ACPI files",
            advice="make them for a machine without a TPM: dstack's log has no layout for one",
        )
    return AcpiDigests(
        loader=sha384(files.loader),
        rsdp=sha384(contents[RSDP]),
        tables=sha384(files.tables),
        origin=origin,
        provenance=provenance,
    )


def shape_words(config: VmConfig) -> dict[str, object]:
    """The host's choices that the values hold for, in the words of shapes where these have such."""
    return {
        "cpus": config.cpus,
        "memory": f"{config.memory >> 20}MiB",
        "qemu": ".".join(map(str, config.qemu)),
        "pic": config.pic,
        "pci-hole64": config.pci_hole64,
        "hugepages": config.hugepages,
        "gpus": config.gpus,
        "nvswitches": config.nvswitches,
        "nics": config.nics,
        "verity-volumes": config.verity_volumes,
        "acpi-hotplug": not config.hotplug_off,
    }


def _listed_mrtd(value: bytes, order: PageOrder) -> RegisterEvent:
    return RegisterEvent(
        register="mrtd",
        event_type="MRTD",
        digests={BANK: value},
        description=f"firmware, {order.value}",
        origin=TDX_FILE,
        running=True,
    )


def _recorded(digest: bytes) -> Measured:
    return Measured(digest=digest, origin=TDX_FILE)
