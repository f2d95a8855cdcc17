"""``keyturn explain``: why a machine's registers are not the predicted ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output, escape
from measurements.errors import ExitStatus

if TYPE_CHECKING:
    from measurements.explain import Booted, Explanation, Finding
    from measurements.reference import Reference

_ExpectedOption = Annotated[
    Path, typer.Option("--expected", help="Reference values, as keyturn predict --json writes them.")
]
_LogOption = Annotated[
    Path,
    typer.Option("--log", help="The booted event log: binary, a boot report, or console output with one."),
]
_QuoteOption = Annotated[
    Path | None,
    typer.Option("--quote", help="The quote's message; checked against the log, not its signature."),
]
_ImageOption = Annotated[Path | None, typer.Option("--image", help="Folder of the predicted image.")]
_BootedImageOption = Annotated[
    Path | None,
    typer.Option("--booted-image", help="Folder of the image that was booted, to compare initrds."),
]

_NeighboursOption = Annotated[
    bool,
    typer.Option("--neighbours", help="Also try machines that differ in one choice; takes some seconds."),
]
_CodeOption = Annotated[Path | None, typer.Option("--firmware-code", help="OVMF's code file, to try with.")]
_VarsOption = Annotated[Path | None, typer.Option("--firmware-vars", help="OVMF's variables, to try with.")]


def register(app: typer.Typer) -> None:
    """Add ``explain``."""
    app.command("explain")(explain_command)


def explain_command(
    expected: _ExpectedOption,
    log: _LogOption,
    quote: _QuoteOption = None,
    image: _ImageOption = None,
    booted_image: _BootedImageOption = None,
    neighbours: _NeighboursOption = False,
    firmware_code: _CodeOption = None,
    firmware_vars: _VarsOption = None,
    json: JsonOption = False,
) -> None:
    """Name the first difference between prediction and boot, its cause and the fix, then every other one."""
    from measurements.explain import explain, explanation_document
    from measurements.reference import read_reference

    out = Output(json=json)
    reference = read_reference(expected)
    booted = read_booted(log)
    explanation = explain(reference, booted, initrd_files=_initrd_files(image, booted_image))
    near = _near_misses(reference, booted, firmware_code, firmware_vars) if neighbours else []
    quoted = None if quote is None else _quote_matches(quote, booted)
    document = {**explanation_document(explanation), "near_misses": near}
    if quoted is not None:
        document["quote_matches_log"] = quoted
    _show(out, explanation, quoted)
    for words in near:
        out.line(
            f"[bold]near miss[/bold]: the firmware's registers are those of a machine where {escape(words)}"
        )
    out.result(document)
    if not explanation.equal or quoted is False:
        raise typer.Exit(int(ExitStatus.REFUSED))


def read_booted(path: Path) -> Booted:
    """A binary log, a boot report as JSON, or console output that holds one."""
    from measurements.boot_report import BEGIN, BootReport, decode_report, find_report
    from measurements.eventlog import parse_event_log
    from measurements.events import Bank
    from measurements.explain import Booted

    data = path.read_bytes()
    report: BootReport | None = None
    if data.startswith(b"{"):
        report = decode_report(data)
    elif BEGIN.encode() in data:
        report = find_report(data)
    if report is None:
        return Booted(log=parse_event_log(data, subject=str(path)))
    registers = {bank: report.banks[bank.value] for bank in Bank if bank.value in report.banks}
    return Booted(
        log=parse_event_log(report.event_log, subject=str(path)),
        registers=registers,
        command_line=report.command_line,
    )


def _near_misses(
    reference: Reference, booted: Booted, code: Path | None, variables: Path | None
) -> list[str]:
    """Choices of the host that would make the firmware's events those of the boot."""
    from keyturn.run_inputs import find_firmware
    from measurements.neighbours import matching_neighbours
    from measurements.predict_tpm import FirmwareInputs
    from measurements.shape import shape_from_mapping

    files = find_firmware(code, variables)
    firmware = FirmwareInputs.read(code=files.code, variables=files.variables)
    return matching_neighbours(booted.log, firmware, shape_from_mapping(reference.shape))


def _quote_matches(path: Path, booted: Booted) -> bool:
    """Whether the quoted digest is that of the reported registers, or else of what the log yields."""
    from measurements.alignment import ALGORITHMS
    from measurements.quote_digest import parse_quote

    registers = booted.registers or {
        bank: booted.log.replay(algorithm)
        for bank, algorithm in ALGORITHMS.items()
        if algorithm in booted.log.algorithms
    }
    return parse_quote(path.read_bytes(), subject=str(path)).matches(registers)


def _initrd_files(image: Path | None, booted_image: Path | None) -> tuple[str, ...]:
    """Paths that differ between the initrds of two images; none if one is not given."""
    if image is None or booted_image is None:
        return ()
    from image_builder.measured_image import differing_initrd_files

    return differing_initrd_files(image, booted_image)


def _show(out: Output, explanation: Explanation, quoted: bool | None) -> None:
    if explanation.equal:
        out.line(
            f"[green]equal[/green]: the {explanation.compared} predicted events were booted, in this order"
        )
    else:
        _show_findings(out, explanation.findings)
        _show_faults(out, explanation)
    for hint in explanation.hints:
        out.line(f"[yellow]hint[/yellow] (from data that is not measured) {escape(hint)}")
    if quoted is not None:
        out.line(
            "the quote is over the registers of this boot"
            if quoted
            else "[red]the quote is over other registers[/red]"
        )


def _show_findings(out: Output, findings: tuple[Finding, ...]) -> None:
    from measurements.explain import describe

    for number, finding in enumerate(findings):
        difference = finding.difference
        expected, booted = describe(difference)
        if number == 0:
            out.line(f"[red]first difference[/red]: PCR {difference.pcr}, event {difference.booted_at + 1}")
            out.line(f"  predicted: {escape(expected)}")
            if difference.expected is not None:
                out.line(f"  comes from: {escape(difference.expected.origin)}")
            out.line(f"  booted:    {escape(booted)}")
            detail = f" ({finding.cause.detail})" if finding.cause.detail else ""
            out.line(f"  [bold]cause[/bold]:     {escape(finding.cause.input.value + detail)}")
            out.line(f"  [bold]fix[/bold]:       {escape(finding.cause.fix)}")
    rows = [
        (
            str(finding.difference.booted_at + 1),
            str(finding.difference.pcr),
            finding.difference.kind.value,
            *(escape(side) for side in describe(finding.difference)),
            escape(finding.cause.input.value),
        )
        for finding in findings[1:]
    ]
    if rows:
        out.table("further differences", ("event", "PCR", "kind", "predicted", "booted", "cause"), rows)


def _show_faults(out: Output, explanation: Explanation) -> None:
    rows = [
        (fault.bank.value, str(fault.pcr), fault.expected.hex(), fault.found.hex(), fault.reason)
        for fault in explanation.faults
    ]
    if rows:
        out.table("registers that no event explains", ("bank", "PCR", "expected", "found", "reason"), rows)
