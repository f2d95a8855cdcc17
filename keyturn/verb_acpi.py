"""``keyturn acpi``: the ACPI tables of a machine shape from an unmodified QEMU, and what they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.output import JsonOption, Output, escape
from keyturn.shape_options import (
    BootOption,
    CpusOption,
    DeviceOption,
    DiskOption,
    HpetOption,
    MachineOption,
    MemoryOption,
    NicOption,
    OptionError,
    PicOption,
    ShapeOption,
    SmbiosOption,
    TpmOption,
    make_shape,
)

if TYPE_CHECKING:
    from measurements.acpi_depends import Dependency
    from measurements.acpi_dump import AcpiDump
    from measurements.qemu_args import DryBootFirmware


class Method(StrEnum):
    """Ways to the tables (the values of ``AcpiMethod``)."""

    IDLE = "idle"
    DRY_BOOT = "dry-boot"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("acpi")(acpi)


def acpi(
    shape: ShapeOption = None,
    memory: MemoryOption = None,
    cpus: CpusOption = None,
    machine: MachineOption = None,
    disks: DiskOption = None,
    nics: NicOption = None,
    tpm: TpmOption = None,
    boot: BootOption = None,
    devices: DeviceOption = None,
    smbios: SmbiosOption = None,
    hpet: HpetOption = None,
    pic: PicOption = None,
    qemu: Annotated[
        Path | None, typer.Option("--qemu", help="QEMU's program; by default the installed one.")
    ] = None,
    code: Annotated[
        Path | None,
        typer.Option("--firmware-code", help="OVMF's code file, or the one file of an undivided firmware."),
    ] = None,
    variables: Annotated[
        Path | None, typer.Option("--firmware-vars", help="OVMF's variables file, for a divided firmware.")
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option("--method", help="By default an idle machine where that is enough, else a dry boot."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the files, under the names QEMU has for them.")
    ] = None,
    depends: Annotated[
        bool, typer.Option("--depends", help="Also read machines that differ in one choice, and compare.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option("--compare-qemu", help="Another QEMU to compare this one's tables with.")
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Whether to keep and use dumps.")] = True,
    json: JsonOption = False,
) -> None:
    """Show the ACPI tables that QEMU gives firmware on a machine, with their digests."""
    from measurements.acpi_depends import dependencies, difference
    from measurements.acpi_dump import AcpiMethod
    from measurements.qemu import QemuProgram

    out = Output(json=json)
    wanted = make_shape(
        shape=shape,
        memory=memory,
        cpus=cpus,
        machine=machine,
        disks=disks,
        nics=nics,
        tpm=tpm,
        boot=boot,
        devices=devices,
        smbios=smbios,
        hpet=hpet,
        pic=pic,
    )
    program, firmware = QemuProgram.at(qemu), _firmware(code, variables)
    chosen = None if method is None else AcpiMethod(method)

    def dump_of(which: QemuProgram) -> AcpiDump:
        from measurements.acpi_cache import cached_dump
        from measurements.acpi_dump import acpi_dump

        read = cached_dump if cache else acpi_dump
        return read(wanted, which, firmware=firmware, method=chosen)

    dump = dump_of(program)
    found = list(dependencies(wanted, program)) if depends else []
    if compare is not None:
        other = dump_of(QemuProgram.at(compare))
        found.append(difference(dump, other, key="QEMU", choice=other.qemu_version))
    if output is not None:
        _write(dump, output)
    document = {
        "shape": wanted.as_json(),
        **_facts(dump),
        "depends": [_dependency(each) for each in found],
    }
    _show(out, document, dump, found)
    out.result(document)


def _firmware(code: Path | None, variables: Path | None) -> DryBootFirmware | None:
    from measurements.qemu_args import DryBootFirmware

    if code is None:
        if variables is not None:
            raise OptionError(
                "stands without the code file", subject="--firmware-vars", advice="give --firmware-code too"
            )
        return None
    return DryBootFirmware(code=code, variables=variables)


def _facts(dump: AcpiDump) -> dict[str, Any]:
    import hashlib

    from measurements.acpi_blob import LOADER, parse_tables

    files = [(LOADER, dump.files.loader), *dump.files.files]
    return {
        "qemu": dump.qemu_version,
        "method": dump.method.value,
        "firmware": dump.firmware,
        "replaced": list(dump.replaced),
        "files": [
            {
                "name": name,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "sha384": hashlib.sha384(data).hexdigest(),
            }
            for name, data in files
        ],
        "tables": [
            {
                "signature": table.signature,
                "offset": table.offset,
                "length": table.length,
                "sha256": hashlib.sha256(table.content).hexdigest(),
            }
            for table in parse_tables(dump.files.tables)
        ],
    }


def _dependency(found: Dependency) -> dict[str, Any]:
    return {
        "key": found.key,
        "choice": found.choice,
        "files": list(found.files),
        "tables": [
            {
                "signature": table.signature,
                "number": table.number,
                "ranges": [{"start": start, "end": end} for start, end in table.ranges],
            }
            for table in found.tables
        ],
        "refused": found.refused,
    }


def _show(out: Output, document: Mapping[str, Any], dump: AcpiDump, found: list[Dependency]) -> None:
    out.line(escape(dump.origin))
    out.line(f"method: {dump.method.value}")
    out.table(
        "tables",
        ("table", "offset", "length", "SHA-256"),
        [
            (table["signature"], f"{table['offset']:#x}", str(table["length"]), table["sha256"])
            for table in document["tables"]
        ],
    )
    out.table(
        "files, in the order in which firmware measures them",
        ("file", "size", "SHA-256", "SHA-384"),
        [(file["name"], str(file["size"]), file["sha256"], file["sha384"]) for file in document["files"]],
    )
    if found:
        out.table(
            "what a choice changes",
            ("key", "other choice", "files", "tables"),
            [(each.key, escape(each.choice), _names(each), _tables(each)) for each in found],
        )


def _names(found: Dependency) -> str:
    if found.refused:
        return "QEMU makes no such machine"
    return ", ".join(found.files) or "nothing"


def _tables(found: Dependency) -> str:
    return escape(found.refused or ", ".join(str(table) for table in found.tables))


def _write(dump: AcpiDump, folder: Path) -> None:
    from measurements.acpi_blob import LOADER

    for name, data in [(LOADER, dump.files.loader), *dump.files.files]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
