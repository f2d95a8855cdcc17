"""``keyturn explain``: why a machine's registers are not the predicted ones, on every platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output
from measurements.errors import ExitStatus

if TYPE_CHECKING:
    from measurements.booted import Booted
    from measurements.booted_files import BootedMachine
    from measurements.events import Bank

_ExpectedOption = Annotated[
    Path,
    typer.Option("--expected", help="Reference values of one or several machines, from keyturn predict."),
]
_LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log",
        help="The event log: a TPM's (binary, a boot report, console output with one), a CC log or dstack's.",
    ),
]
_QuoteOption = Annotated[
    Path | None,
    typer.Option("--quote", help="A quote: the message of a TPM's, a TDX quote, or dstack's report."),
]
_ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="An SNP report, dstack's report, or a list of register values."),
]
_DocumentOption = Annotated[
    Path | None, typer.Option("--document", help="A Nitro enclave's attestation document.")
]
_ImageOption = Annotated[
    Path | None, typer.Option("--image", help="Folder of the predicted image, to try near misses with.")
]
_BootedImageOption = Annotated[
    Path | None,
    typer.Option("--booted-image", help="Folder of the image that was booted, to compare initrds."),
]
_NeighboursOption = Annotated[
    bool,
    typer.Option("--neighbours", help="Also try near misses that need QEMU; takes from seconds to minutes."),
]
_CodeOption = Annotated[Path | None, typer.Option("--firmware-code", help="OVMF's code file, to try with.")]
_VarsOption = Annotated[Path | None, typer.Option("--firmware-vars", help="OVMF's variables, to try with.")]
_FirmwareOption = Annotated[
    Path | None,
    typer.Option("--firmware", help="The whole OVMF image of a TDX or SEV guest, to try near misses with."),
]
_OtherFirmwareOption = Annotated[
    list[Path] | None,
    typer.Option("--try-firmware", help="Another firmware file that the host may use. May be repeated."),
]
_OtherVarsOption = Annotated[
    list[Path] | None,
    typer.Option("--try-vars", help="Another variable store that the host may use. May be repeated."),
]
_ReleaseOption = Annotated[
    str | None, typer.Option("--firmware-release", help="The edk2 release of a firmware not recognised.")
]
_QemuOption = Annotated[
    Path | None,
    typer.Option("--qemu", help="The QEMU that was predicted with; by default the installed one."),
]
_OtherQemuOption = Annotated[
    list[Path] | None,
    typer.Option("--try-qemu", help="Another QEMU that the host may use. May be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add ``explain``."""
    app.command("explain")(explain_command)


def explain_command(
    expected: _ExpectedOption,
    log: _LogOption = None,
    quote: _QuoteOption = None,
    report: _ReportOption = None,
    document: _DocumentOption = None,
    image: _ImageOption = None,
    booted_image: _BootedImageOption = None,
    neighbours: _NeighboursOption = False,
    firmware_code: _CodeOption = None,
    firmware_vars: _VarsOption = None,
    firmware: _FirmwareOption = None,
    firmware_release: _ReleaseOption = None,
    try_firmware: _OtherFirmwareOption = None,
    try_vars: _OtherVarsOption = None,
    qemu: _QemuOption = None,
    try_qemu: _OtherQemuOption = None,
    json: JsonOption = False,
) -> None:
    """Name the first difference between prediction and boot, its cause and the fix, then every other one.

    What a file is, is recognised by its content; no signature is checked. Where registers are wrong, near
    misses are tried: other choices of host, firmware and image that would give exactly these registers.
    """
    from keyturn.explain_inputs import SearchFiles
    from keyturn.explain_output import near_misses_document, show_explanation, show_near_misses
    from keyturn.explain_search import search_log, search_machine
    from keyturn.input_files import read_limited
    from measurements.explain import best_explanation, explain, explanation_document
    from measurements.reference import parse_predictions

    out = Output(json=json)
    predictions = parse_predictions(read_limited(expected), subject=str(expected))
    machine = read_machine(*(path for path in (log, quote, report, document) if path is not None))
    files = _initrd_files(image, booted_image)
    fitting = [each for each in predictions if each.platform is machine.booted.platform] or predictions
    explanation = best_explanation(
        [explain(each, machine.booted, initrd_files=files, subject=str(expected)) for each in fitting]
    )
    near = search_machine(
        out,
        explanation.prediction,
        predictions,
        machine,
        files=SearchFiles(
            image=image,
            firmware_code=firmware_code,
            firmware_vars=firmware_vars,
            firmware=firmware,
            release=firmware_release,
            qemu=qemu,
            other_qemus=try_qemu or (),
            other_firmware=try_firmware or (),
            other_vars=try_vars or (),
        ),
        neighbours=neighbours,
    )
    of_log = search_log(machine.booted)
    quoted = None if machine.quote is None else machine.quote.matches(numbered_registers(machine.booted))
    result = {
        **explanation_document(explanation),
        "near_misses": near_misses_document(near),
        "log_near_misses": None if of_log is None else near_misses_document(of_log),
    }
    if quoted is not None:
        result["quote_matches_log"] = quoted
    show_explanation(out, explanation, quoted)
    show_near_misses(out, near, of_log)
    out.result(result)
    if not explanation.equal or quoted is False:
        raise typer.Exit(int(ExitStatus.REFUSED))


def read_machine(*paths: Path) -> BootedMachine:
    """What the files tell of one machine."""
    from keyturn.input_files import read_limited
    from measurements.booted_files import read_files

    return read_files({str(path): read_limited(path) for path in paths})


def numbered_registers(booted: Booted) -> dict[Bank, dict[int, bytes]]:
    """Registers of a TPM system by bank and number, as quotes select them."""
    from measurements.events import Bank

    banks: dict[Bank, dict[int, bytes]] = {}
    for register, values in booted.registers.items():
        for bank, value in values.items():
            banks.setdefault(Bank(bank), {})[int(register)] = value
    return banks


def _initrd_files(image: Path | None, booted_image: Path | None) -> tuple[str, ...]:
    """Paths that differ between the initrds of two images; none if one is not given."""
    if image is None or booted_image is None:
        return ()
    from image_builder.measured_image import differing_initrd_files

    return differing_initrd_files(image, booted_image)
