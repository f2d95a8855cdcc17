"""``keyturn predict``: every register of an image on a machine, before anything boots."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.dstack_options import (
    ComposeOption,
    InstanceIdOption,
    PhysBitsOption,
    ProviderIdOption,
    ReleaseFolderOption,
    TablesOption,
    VmConfigOption,
)
from keyturn.output import JsonOption, Output
from keyturn.predict_inputs import PlatformChoice
from keyturn.predict_output import REFERENCE_FOLDER, Format, Target
from keyturn.shape_options import (
    BootOption,
    CpusOption,
    DeviceOption,
    DiskOption,
    HpetOption,
    MachineOption,
    MemoryOption,
    NicOption,
    PicOption,
    SmbiosOption,
    TpmOption,
    make_shape,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measurements.api import Host
    from measurements.boot_sequence import ImageInputs
    from measurements.platforms import Platform, PlatformPrediction
    from measurements.shape import MachineShape

_ImageArgument = Annotated[
    Path | None, typer.Argument(help="An image folder; may be left out with --app or --dstack.")
]
_PlatformOption = Annotated[
    list[PlatformChoice] | None,
    typer.Option("--platform", help="Whose registers; may be repeated. By default tpm."),
]
_ShapesOption = Annotated[
    list[Path] | None,
    typer.Option("--shape", help="A shape.toml, instead of the options for each part. May be repeated."),
]
_CodeOption = Annotated[Path | None, typer.Option("--firmware-code", help="OVMF's code file.")]
_VarsOption = Annotated[
    Path | None, typer.Option("--firmware-vars", help="OVMF's variables, as the machine starts with them.")
]
_FirmwareOption = Annotated[
    Path | None,
    typer.Option("--firmware", help="The firmware in one file, for TDX and SEV. By default vars and code."),
]
_ReleaseOption = Annotated[
    str | None, typer.Option("--firmware-release", help="The edk2 release of a firmware not recognised.")
]
_ProfileOption = Annotated[
    Path | None,
    typer.Option("--firmware-profile", help="A dry boot's profile, where PCR 0 cannot be computed."),
]
_QemuOption = Annotated[Path | None, typer.Option("--qemu", help="The QEMU that ACPI tables are read from.")]
_HypervisorOption = Annotated[
    list[str] | None,
    typer.Option("--hypervisor", help="Who starts the trust domain (TDX). May be repeated. By default qemu."),
]
_ModelOption = Annotated[
    list[str] | None, typer.Option("--cpu-model", help="CPU model of a SEV guest. May be repeated.")
]
_FeaturesOption = Annotated[
    list[str] | None,
    typer.Option("--guest-features", help="SEV_FEATURES of an SNP guest, 0x1 or 0x21. May be repeated."),
]
_VmmOption = Annotated[str | None, typer.Option("--vmm", help="Who starts the SEV guest: qemu, ec2 or gce.")]
_SvsmOption = Annotated[
    Path | None, typer.Option("--svsm", help="An SVSM that runs below the firmware of an SNP guest.")
]
_IgvmOption = Annotated[
    Path | None, typer.Option("--igvm", help="An IGVM file that QEMU starts an SNP guest with.")
]
_EifOption = Annotated[
    Path | None, typer.Option("--eif", help="The enclave image file (Nitro). By default made of the image.")
]
_EspOption = Annotated[
    Path | None,
    typer.Option("--esp", help="A folder with further files of the ESP, which the UKI's stub takes up."),
]
_OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Where the values go; by default into the image folder.")
]
_FormatOption = Annotated[Format, typer.Option("--format", help="The form of the values.")]
_AppOption = Annotated[
    Path | None, typer.Option("--app", help="An app folder, whose runtime events are predicted, too.")
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("predict")(predict)


def predict(
    image: _ImageArgument = None,
    platform: _PlatformOption = None,
    shape: _ShapesOption = None,
    memory: MemoryOption = None,
    cpus: CpusOption = None,
    machine: MachineOption = None,
    disk: DiskOption = None,
    nic: NicOption = None,
    tpm: TpmOption = None,
    boot: BootOption = None,
    device: DeviceOption = None,
    smbios: SmbiosOption = None,
    hpet: HpetOption = None,
    pic: PicOption = None,
    firmware_code: _CodeOption = None,
    firmware_vars: _VarsOption = None,
    firmware: _FirmwareOption = None,
    firmware_release: _ReleaseOption = None,
    firmware_profile: _ProfileOption = None,
    qemu: _QemuOption = None,
    hypervisor: _HypervisorOption = None,
    cpu_model: _ModelOption = None,
    guest_features: _FeaturesOption = None,
    vmm: _VmmOption = None,
    svsm: _SvsmOption = None,
    igvm: _IgvmOption = None,
    eif: _EifOption = None,
    output: _OutputOption = None,
    form: _FormatOption = Format.KEYTURN,
    events: Annotated[bool, typer.Option("--events", help="Also show every event.")] = False,
    app: _AppOption = None,
    config: Annotated[Path | None, typer.Option("--config", help="The config disk of that app.")] = None,
    dstack: ReleaseFolderOption = None,
    vm_config: VmConfigOption = None,
    acpi: TablesOption = None,
    phys_bits: PhysBitsOption = None,
    esp: _EspOption = None,
    app_compose: ComposeOption = None,
    instance_id: InstanceIdOption = "",
    provider_id: ProviderIdOption = "",
    json: JsonOption = False,
) -> None:
    """Compute every register and event of a boot, each with the input it comes from."""
    from keyturn.app_prediction import launch_of, runtime_of, show_runtime
    from keyturn.predict_inputs import chosen_platforms, enclave_of, make_host, sev_choices, usual_shape
    from keyturn.predict_output import give

    out = Output(json=json)
    _check_options(image, app, config, dstack, vm_config)
    target = Target(form=form, output=output, events=events, json=json)
    document: dict[str, Any] = {}
    if dstack is not None and vm_config is not None:
        from keyturn.dstack_inputs import DstackApp, TablesSource, predict_release

        tables = TablesSource(tables=acpi, qemu=qemu, phys_bits=phys_bits)
        compose = app_compose and DstackApp(
            compose=app_compose, instance_id=instance_id, provider_id=provider_id
        )
        predictions = predict_release(dstack, vm_config, tables=tables, app=compose or None)
        document = give(out, predictions, target, folder=None, identifier=dstack.name)
    runtime = None if app is None or config is None else runtime_of(app, config, image=image)
    if image is not None:
        described = functools.partial(
            make_shape,
            memory=memory,
            cpus=cpus,
            machine=machine,
            disks=disk,
            nics=nic,
            tpm=tpm,
            boot=boot,
            devices=device,
            smbios=smbios,
            hpet=hpet,
            pic=pic,
        )
        shapes = [described(shape=path) for path in shape or (None,)]
        platforms = chosen_platforms(platform)
        plan = [
            (each, one if shape else usual_shape(one, each, tpm_given=tpm is not None))
            for one in shapes
            for each in platforms
        ]
        host = make_host(
            platforms=platforms,
            code=firmware_code,
            variables=firmware_vars,
            whole=firmware,
            release=firmware_release,
            profile=firmware_profile,
            qemu=qemu,
            hypervisors=hypervisor,
            sev=sev_choices(cpu_model, guest_features, vmm),
            svsm=svsm,
            igvm=igvm,
            enclave=enclave_of(image, eif),
            runtime_events=() if runtime is None else runtime.events,
            launch={} if config is None else launch_of(config),
        )
        identifier = _image_id(image)
        predictions = _predictions(out, image, plan, host, esp=esp)
        document = give(out, predictions, target, folder=image / REFERENCE_FOLDER, identifier=identifier)
    if runtime is not None:
        document["runtime"] = show_runtime(out, runtime)
    out.result(document)


def _check_options(
    image: Path | None, app: Path | None, config: Path | None, dstack: Path | None, vm_config: Path | None
) -> None:
    if (app is None) != (config is None) or (dstack is None) != (vm_config is None):
        raise typer.BadParameter("--app goes with --config, and --dstack with --vm-config")
    if (image is None and app is None) == (dstack is None):
        raise typer.BadParameter("give an image folder, --app with --config, or --dstack with --vm-config")


def _predictions(
    out: Output,
    image: Path,
    plan: Sequence[tuple[Platform, MachineShape]],
    host: Host,
    *,
    esp: Path | None,
) -> list[PlatformPrediction]:
    from keyturn.predict_inputs import read_esp
    from measurements.api import Predictor

    def read() -> ImageInputs:
        from image_builder.measured_image import read_measured_image

        inputs = read_measured_image(image)
        return inputs if esp is None else replace(inputs, esp=read_esp(esp))

    found: list[PlatformPrediction] = []
    with out.progress() as bars, Predictor(image=read, host=host) as predictor:
        predictor.prepare({platform for platform, _ in plan})
        for index, (platform, shape) in enumerate(plan):
            bars.update("predictions", done=index, total=len(plan))
            found += predictor.predict(platform, shape)
    return found


def _image_id(image: Path) -> str:
    from image_builder.image import load_image

    return load_image(image, verify=False).id
