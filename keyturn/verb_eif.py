"""``keyturn eif``: enclave image files for AWS Nitro."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.output import JsonOption, Output, escape

if TYPE_CHECKING:
    from measurements.nitro.eif import Eif, EifSection
    from measurements.platforms import PlatformPrediction

_RamdiskOption = Annotated[
    list[Path] | None,
    typer.Option("--ramdisk", help="A further RAM disk (newc archive) behind the initrd. May be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    eif = typer.Typer(no_args_is_help=True, help="Write and read enclave image files (AWS Nitro).")
    eif.command("build")(build)
    eif.command("show")(show)
    app.add_typer(eif, name="eif")


def build(
    image: Annotated[Path, typer.Argument(help="An image folder.")],
    output: Annotated[Path, typer.Option("--output", help="Where the file goes.")],
    ramdisk: _RamdiskOption = None,
    memory: Annotated[str, typer.Option("--memory", help="Default memory, such as 1GiB.")] = "1GiB",
    cpus: Annotated[int, typer.Option("--cpus", min=1, max=1024, help="Default number of vCPUs.")] = 2,
    json: JsonOption = False,
) -> None:
    """Write the enclave image file of an image: the same bytes on every machine."""
    from image_builder.enclave import write_enclave
    from image_builder.output_folder import new_file
    from measurements.shape import parse_memory

    size = parse_memory(memory) << 20
    with new_file(output) as stream:
        write_enclave(image, stream, ramdisks=ramdisk or (), memory=size, cpus=cpus)
    _present(Output(json=json), output)


def show(
    file: Annotated[Path, typer.Argument(help="An enclave image file, of any tool.")],
    role: Annotated[
        str | None, typer.Option("--role", help="ARN of the parent's IAM role, for PCR 3.")
    ] = None,
    instance: Annotated[str | None, typer.Option("--instance", help="Id of the parent, for PCR 4.")] = None,
    json: JsonOption = False,
) -> None:
    """Check an enclave image file, show its sections and what it will measure."""
    _present(Output(json=json), file, role=role, instance=instance)


def _present(out: Output, path: Path, *, role: str | None = None, instance: str | None = None) -> None:
    from measurements.nitro.eif import read_eif
    from measurements.nitro.predict import predict_nitro

    data = path.read_bytes()
    eif = read_eif(data, subject=str(path))
    prediction = predict_nitro(data, subject=str(path), role=role, instance=instance)
    rows = [
        (section.kind.name, str(section.offset), str(section.size), _sha384(data, section))
        for section in eif.sections
    ]
    title = f"{escape(str(path))}: version {eif.version}, {eif.size} bytes, CRC32 {eif.crc32:08x}"
    out.table(title, ("section", "offset", "size", "sha384"), rows)
    registers = [(name, values["sha384"].hex()) for name, values in prediction.registers.items()]
    out.table("what an enclave of it measures", ("PCR", "sha384"), registers)
    out.result(_document(data, eif, prediction))


def _sha384(data: bytes, section: EifSection) -> str:
    import hashlib

    return hashlib.sha384(memoryview(data)[section.offset : section.offset + section.size]).hexdigest()


def _document(data: bytes, eif: Eif, prediction: PlatformPrediction) -> dict[str, Any]:
    return {
        "version": eif.version,
        "size": eif.size,
        "crc32": f"{eif.crc32:08x}",
        "architecture": "aarch64" if eif.arm64 else "x86_64",
        "default_memory": eif.memory,
        "default_cpus": eif.cpus,
        "sections": [
            {
                "type": section.kind.name.lower(),
                "offset": section.offset,
                "size": section.size,
                "sha384": _sha384(data, section),
            }
            for section in eif.sections
        ],
        "registers": {name: values["sha384"].hex() for name, values in prediction.registers.items()},
    }
