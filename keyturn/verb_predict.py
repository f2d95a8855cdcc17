"""``keyturn predict``: every register of an image on a machine, before anything boots."""

from __future__ import annotations

import json as json_module
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.output import JsonOption, Output, escape
from keyturn.register_names import COVERS
from keyturn.run_inputs import find_firmware
from keyturn.shape_options import (
    CpusOption,
    DiskOption,
    MachineOption,
    MemoryOption,
    NicOption,
    ShapeOption,
    TpmOption,
    make_shape,
)

if TYPE_CHECKING:
    from measurements.boot_sequence import PlatformEvents, Prediction
    from measurements.events import Bank, MeasuredEvent
    from measurements.qemu_args import FirmwareFiles
    from measurements.shape import MachineShape

REFERENCE_FOLDER = "reference"


class Platform(StrEnum):
    """Platforms that are predicted."""

    TPM = "tpm"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("predict")(predict)


def predict(
    image: Annotated[Path | None, typer.Argument(help="An image folder; may be left out with --app.")] = None,
    platform: Annotated[Platform, typer.Option("--platform", help="Whose registers.")] = Platform.TPM,
    shape: ShapeOption = None,
    memory: MemoryOption = None,
    cpus: CpusOption = None,
    machine: MachineOption = None,
    disk: DiskOption = None,
    nic: NicOption = None,
    tpm: TpmOption = None,
    firmware_code: Annotated[Path | None, typer.Option("--firmware-code", help="OVMF's code file.")] = None,
    firmware_vars: Annotated[
        Path | None,
        typer.Option("--firmware-vars", help="OVMF's variables, as the machine starts with them."),
    ] = None,
    firmware_profile: Annotated[
        Path | None,
        typer.Option("--firmware-profile", help="A dry boot's profile, where PCR 0 cannot be computed."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Where the reference values go; by default into the image folder."),
    ] = None,
    events: Annotated[bool, typer.Option("--events", help="Also show every event.")] = False,
    app: Annotated[
        Path | None, typer.Option("--app", help="An app folder, whose runtime events are predicted, too.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The config disk of that app.")] = None,
    json: JsonOption = False,
) -> None:
    """Compute every register and event of a boot, each with the input it comes from."""
    out = Output(json=json)
    if (app is None) != (config is None) or (image is None and app is None):
        raise typer.BadParameter("give an image folder, or --app with --config, or all of them")
    if image is None:
        document: dict[str, Any] = {}
    else:
        wanted = make_shape(
            shape=shape, memory=memory, cpus=cpus, machine=machine, disks=disk, nics=nic, tpm=tpm
        )
        files = find_firmware(firmware_code, firmware_vars)
        prediction = _predict(image, files, wanted, firmware_profile)
        document = _publish(
            out,
            prediction,
            shape=wanted,
            target=output or image / REFERENCE_FOLDER / f"{platform.value}.json",
            events=events,
        )
    if app is not None and config is not None:
        from keyturn.app_prediction import predict_app

        document["runtime"] = predict_app(out, app, config, image=image)
    out.result(document)


def _predict(image: Path, files: FirmwareFiles, wanted: MachineShape, profile: Path | None) -> Prediction:
    from measurements.ovmf import read_firmware

    with ThreadPoolExecutor(max_workers=1) as pool:
        # Unpacking leaves the interpreter's lock alone, so the other modules are loaded meanwhile.
        firmware = pool.submit(read_firmware, files.code)
        from image_builder.measured_image import read_measured_image
        from measurements.boot_sequence import assemble, measure_image
        from measurements.predict_tpm import FirmwareInputs, platform_events

        def platform() -> PlatformEvents:
            inputs = FirmwareInputs.of(firmware.result(), variables=files.variables, profile=profile)
            return platform_events(inputs, wanted)

        before = pool.submit(platform)
        measured = measure_image(read_measured_image(image))
    return assemble(measured, before.result(), tpm=wanted.tpm)


def _publish(
    out: Output, prediction: Prediction, *, shape: MachineShape, target: Path, events: bool
) -> dict[str, Any]:
    """Write and show the reference values; the document with their digest."""
    from measurements.reference import reference_document
    from measurements.reference_digest import KEYS, parse_reference_values, reference_digest

    document = reference_document(prediction, shape=shape.as_json())
    digest = reference_digest(parse_reference_values({key: document[key] for key in KEYS})).hex()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json_module.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not out.json:
        if events:
            _show_events(out, prediction)
        _show_registers(out, prediction)
        out.line(f"{len(prediction.events)} events; reference values in {escape(str(target))}")
        out.line(f"reference digest {digest}")
    return {**document, "reference_digest": digest}


def _show_registers(out: Output, prediction: Prediction) -> None:
    from measurements.events import Bank

    rows = [
        (
            str(pcr),
            *(_shown(prediction, bank, pcr) for bank in Bank),
            _sources([event for event in prediction.events if event.pcr == pcr]),
            COVERS[pcr],
        )
        for pcr in sorted(prediction.registers[Bank.SHA256])
    ]
    out.table("predicted registers", ("PCR", "sha256", "sha384", "source", "covers"), rows)


def _shown(prediction: Prediction, bank: Bank, pcr: int) -> str:
    value = prediction.registers[bank][pcr]
    return value.hex() if any(value) else "[dim]zero[/dim]"


def _sources(events: list[MeasuredEvent]) -> str:
    return ", ".join(sorted({event.provenance.value for event in events})) or "-"


def _show_events(out: Output, prediction: Prediction) -> None:
    from measurements.events import Bank

    rows = [
        (
            str(event.pcr),
            event.event_type.name,
            event.digests[Bank.SHA256].hex(),
            escape(event.description),
            escape(event.origin),
        )
        for event in prediction.events
    ]
    out.table("predicted events", ("PCR", "type", "sha256", "description", "comes from"), rows)
