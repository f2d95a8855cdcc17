"""``keyturn firmware``: what is known of a firmware file, and dry boots for what cannot be computed."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from keyturn.output import JsonOption, Output, escape
from keyturn.shape_options import CpusOption, MachineOption, MemoryOption, ShapeOption, make_shape


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    firmware = typer.Typer(no_args_is_help=True, help="Look at firmware files.")
    firmware.command("show")(show)
    firmware.command("profile")(profile)
    app.add_typer(firmware, name="firmware")


def show(
    file: Annotated[Path, typer.Argument(help="A firmware file: OVMF's code, or code and variables in one.")],
    json: JsonOption = False,
) -> None:
    """Say what a firmware file is, what each platform measures of it, and which of that is computed."""
    from keyturn.firmware_facts import firmware_facts, usable
    from measurements.firmware_volume import FirmwareError
    from measurements.ovmf import MAX_FLASH

    out = Output(json=json)
    with file.open("rb") as stream:
        data = stream.read(MAX_FLASH + 1)
    facts = firmware_facts(data, name=file.name)
    if len(data) > MAX_FLASH or not usable(facts):
        raise FirmwareError(
            f"is no firmware whose measurements are known: {facts['tpm'].get('unusable')}",
            subject=str(file),
            advice="give a file of OVMF, such as /usr/share/OVMF/OVMF_CODE_4M.fd (package ovmf)",
        )
    for about, part in facts.items():
        out.table(about, ("fact", "value"), [(key, escape(str(value))) for key, value in part.items()])
    out.result(facts)


def profile(
    code: Annotated[Path, typer.Argument(help="OVMF's code file.")],
    variables: Annotated[Path, typer.Argument(help="OVMF's variables file.")],
    output: Annotated[Path, typer.Option("--output", help="Where the profile goes.")],
    shape: ShapeOption = None,
    memory: MemoryOption = None,
    cpus: CpusOption = None,
    machine: MachineOption = None,
    json: JsonOption = False,
) -> None:
    """Boot a firmware once, with empty disks, and record what it writes into its measured volume."""
    from measurements.firmware_profile import record_profile
    from measurements.qemu_args import FirmwareFiles

    out = Output(json=json)
    wanted = make_shape(
        shape=shape, memory=memory, cpus=cpus, machine=machine, disks=None, nics=None, tpm=None
    )
    recorded = record_profile(FirmwareFiles(code=code, variables=variables), wanted)
    document = recorded.as_json()
    output.write_text(json_module.dumps(document, indent=2) + "\n", encoding="utf-8")
    changed = sum(len(patch.data) for patch in recorded.patches)
    out.line(f"{len(recorded.patches)} patches, {changed} bytes; profile in {escape(str(output))}")
    out.line("PCR 0 of this firmware on this machine comes from a dry boot; all other registers do not.")
    out.result(document)
