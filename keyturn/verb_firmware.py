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
    code: Annotated[Path, typer.Argument(help="OVMF's code file.")],
    json: JsonOption = False,
) -> None:
    """Say what a firmware file is, and which of its measurements are computed."""
    from measurements.acpi_tables import measures_acpi
    from measurements.ovmf import read_firmware, version_text
    from measurements.pcr0 import needs_dry_boot
    from measurements.shape import MachineShape
    from measurements.smbios import measures_smbios

    out = Output(json=json)
    firmware = read_firmware(code)
    facts: dict[str, object] = {
        "name": firmware.name,
        "sha256": firmware.sha256,
        "version": version_text(firmware),
        "secure_boot": firmware.secure_boot_supported,
        "measures_acpi": measures_acpi(firmware),
        "measures_smbios": measures_smbios(firmware),
        "dry_boot_with_smm": needs_dry_boot(firmware, MachineShape(smm=True)),
    }
    out.table("firmware", ("fact", "value"), [(key, escape(str(value))) for key, value in facts.items()])
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
