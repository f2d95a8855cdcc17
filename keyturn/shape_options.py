"""The machine shape on the command line: the same options for every verb that means a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from measurements.shape import MachineShape

ShapeOption = Annotated[
    Path | None, typer.Option("--shape", help="A shape.toml, instead of the options for each part.")
]
MemoryOption = Annotated[str | None, typer.Option("--memory", help="Memory, such as 2GiB or 1024MiB.")]
CpusOption = Annotated[int | None, typer.Option("--cpus", help="Number of virtual processors.")]
MachineOption = Annotated[str | None, typer.Option("--machine", help="QEMU machine: q35 or a version of it.")]
DiskOption = Annotated[
    list[str] | None,
    typer.Option("--disk", help="A disk, MODEL[,slot=N]; the first one boots. May be repeated."),
]
NicOption = Annotated[
    list[str] | None,
    typer.Option("--nic", help="A network card, MODEL[,slot=N][,mac=…][,rom=on|off]. May be repeated."),
]
TpmOption = Annotated[str | None, typer.Option("--tpm", help="Interface of the TPM: crb, tis or none.")]
BootOption = Annotated[
    str | None, typer.Option("--boot", help="Where the kernel comes from: disk, or direct from the host.")
]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device", help="A further PCI device, MODEL[,slot=N][,root-port=on][,…]. May be repeated."
    ),
]
SmbiosOption = Annotated[
    list[str] | None,
    typer.Option("--smbios", help="SMBIOS strings, type=1,manufacturer=… as for QEMU. May be repeated."),
]
HpetOption = Annotated[
    bool | None, typer.Option("--hpet/--no-hpet", help="Whether there is a high precision timer.")
]
PicOption = Annotated[
    bool | None, typer.Option("--pic/--no-pic", help="Whether there is a legacy interrupt controller.")
]


class OptionError(KeyturnError):
    """Options that contradict each other or are not of the right form."""

    code = "option"


def make_shape(
    *,
    shape: Path | None,
    memory: str | None,
    cpus: int | None,
    machine: str | None,
    disks: list[str] | None,
    nics: list[str] | None,
    tpm: str | None,
    boot: str | None = None,
    devices: list[str] | None = None,
    smbios: list[str] | None = None,
    hpet: bool | None = None,
    pic: bool | None = None,
) -> MachineShape:
    """The shape that the options describe; what is not given is as in ``MachineShape``.

    Raises ``OptionError`` when ``--shape`` stands together with an option for a part, and ``ShapeError``.
    """
    from dataclasses import replace

    from measurements.shape import parse_disk, parse_nic, read_shape, shape_from_mapping
    from measurements.shape_devices import parse_device, parse_smbios

    parts = {
        "memory": memory,
        "cpus": cpus,
        "machine": machine,
        "tpm": tpm,
        "boot": boot,
        "hpet": hpet,
        "pic": pic,
    }
    given = {name: value for name, value in parts.items() if value is not None}
    if shape is not None:
        if given or disks or nics or devices or smbios:
            raise OptionError(
                "stands together with options for parts of the shape",
                subject="--shape",
                advice="put everything into the shape file, or leave --shape out",
            )
        return read_shape(shape)
    base = shape_from_mapping(given)
    return replace(
        base,
        disks=tuple(parse_disk(text, index=index) for index, text in enumerate(disks or ())) or base.disks,
        nics=tuple(parse_nic(text, index=index) for index, text in enumerate(nics or ())),
        devices=tuple(parse_device(text, index=index) for index, text in enumerate(devices or ())),
        smbios=tuple(map(parse_smbios, smbios or ())),
    )
