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
TpmOption = Annotated[str | None, typer.Option("--tpm", help="Interface of the TPM: crb or tis.")]


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
) -> MachineShape:
    """The shape that the options describe; what is not given is as in ``MachineShape``.

    Raises ``OptionError`` when ``--shape`` stands together with an option for a part, and ``ShapeError``.
    """
    from measurements.shape import MachineShape, parse_disk, parse_nic, read_shape, shape_from_mapping

    parts = {"memory": memory, "cpus": cpus, "machine": machine, "tpm": tpm}
    given = {name: value for name, value in parts.items() if value is not None}
    if shape is not None:
        if given or disks or nics:
            raise OptionError(
                "stands together with options for parts of the shape",
                subject="--shape",
                advice="put everything into the shape file, or leave --shape out",
            )
        return read_shape(shape)
    base = shape_from_mapping(given)
    return MachineShape(
        memory_mib=base.memory_mib,
        cpus=base.cpus,
        machine=base.machine,
        tpm=base.tpm,
        disks=tuple(parse_disk(text, index=index) for index, text in enumerate(disks or ())) or base.disks,
        nics=tuple(parse_nic(text, index=index) for index, text in enumerate(nics or ())),
    )
