"""What ``keyturn explain`` shows: the first difference with cause and fix, all others, and near misses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyturn.output import Output, escape

if TYPE_CHECKING:
    from measurements.explain import Explanation, Finding
    from measurements.near_miss import NearMiss, NearMisses
    from measurements.platforms import PlatformPrediction

_SHOWN_MISSES = 8


def near_misses_document(near: NearMisses) -> dict[str, Any]:
    """The result of a search as a JSON document."""
    return {
        "wrong": list(near.wrong),
        "found": [
            {
                "kinds": [kind.value for kind in miss.kinds],
                "words": list(miss.words),
                "machine": miss.machine,
                "explains": list(miss.explains),
                "left": list(miss.left),
                "events": list(miss.events),
                "steps": list(miss.steps),
            }
            for miss in near.found
        ],
        "tried": near.tried,
        "impossible": near.impossible,
        "untried": near.untried,
        "costly_untried": near.costly,
    }


def show_explanation(out: Output, explanation: Explanation, quoted: bool | None) -> None:
    """The explanation for people."""
    if explanation.equal:
        out.line(f"[green]equal[/green]: {_what_is_equal(explanation)}")
    else:
        _show_findings(out, explanation)
        _show_faults(out, explanation)
    if explanation.uncompared:
        out.line(f"[yellow]not told[/yellow]: {_names(explanation.uncompared)}")
    for hint in explanation.hints:
        out.line(f"[yellow]hint[/yellow] (from data that is not measured) {escape(hint)}")
    if quoted is not None:
        out.line(
            "the quote is over the registers of this boot"
            if quoted
            else "[red]the quote is over other registers[/red]"
        )


def show_near_misses(out: Output, near: NearMisses, of_log: NearMisses | None) -> None:
    """Near misses for people, and how many were tried."""
    for miss in near.found[:_SHOWN_MISSES]:
        out.line(f"[bold]near miss[/bold]: {escape(_near_miss_words(miss))}")
    if near.wrong:
        _show_counts(out, near)
    if of_log is None:
        return
    for miss in of_log.found[:_SHOWN_MISSES]:
        registers = _names(miss.explains)
        out.line(
            f"[bold]the log[/bold] would yield {registers} as told if {escape(' and '.join(miss.words))}"
        )


def _what_is_equal(explanation: Explanation) -> str:
    words = f"the registers {_names(explanation.registers)} are the predicted ones"
    if explanation.compared:
        words = f"the {explanation.compared} predicted events were booted, in this order"
    return escape(words + _label_words(explanation.prediction))


def _label_words(prediction: PlatformPrediction) -> str:
    label = ", ".join(f"{name} {value}" for name, value in prediction.label.items())
    return f" ({label})" if label else ""


def _near_miss_words(miss: NearMiss) -> str:
    what = [_names(miss.explains)] if miss.explains else []
    what += [f"event {words}" for words in miss.events]
    words = f"{', '.join(what)} would be as found if {' and '.join(miss.words)}"
    words += f"; this is what {miss.machine} would give"
    if miss.steps:
        words += f"; first other step: {', '.join(miss.steps)}"
    return words + (f"; {_names(miss.left)} is still unexplained" if miss.left else "")


def _show_counts(out: Output, near: NearMisses) -> None:
    words = f"{near.tried} near misses were tried, {len(near.found)} of them explain something"
    if near.impossible:
        words += f"; {near.impossible} do not apply or cannot be"
    if near.untried:
        words += f"; {near.untried} more pairs were not tried"
    if near.costly and not near.complete:
        words += f"; {near.costly} more need QEMU (--neighbours)"
    out.line(f"[dim]{escape(words)}[/dim]")


def _names(registers: tuple[str, ...]) -> str:
    return ", ".join(register_name(register) for register in registers)


def register_name(register: str) -> str:
    """``PCR 4``, ``RTMR0``, ``measurement``."""
    if register.isdigit():
        return f"PCR {register}"
    return register if register == "measurement" else register.upper()


def _show_findings(out: Output, explanation: Explanation) -> None:
    from measurements.explain import describe

    if not explanation.findings:
        return
    _show_first(out, explanation.findings[0])
    rows = [
        (
            str(finding.difference.booted_at + 1),
            register_name(finding.difference.register),
            finding.difference.kind.value,
            *(escape(side) for side in describe(finding.difference)),
            escape(finding.cause.input.value),
        )
        for finding in explanation.findings[1:]
    ]
    if rows:
        columns = ("event", "register", "kind", "predicted", "booted", "cause")
        out.table("further differences", columns, rows)


def _show_first(out: Output, finding: Finding) -> None:
    from measurements.explain import describe

    difference = finding.difference
    expected, booted = describe(difference)
    place = f"{register_name(difference.register)}, event {difference.booted_at + 1}"
    out.line(f"[red]first difference[/red]: {place}")
    out.line(f"  predicted: {escape(expected)}")
    if difference.expected is not None:
        out.line(f"  comes from: {escape(difference.expected.origin)}")
    out.line(f"  booted:    {escape(booted)}")
    detail = f" ({finding.cause.detail})" if finding.cause.detail else ""
    out.line(f"  [bold]cause[/bold]:     {escape(finding.cause.input.value + detail)}")
    out.line(f"  [bold]fix[/bold]:       {escape(finding.cause.fix)}")


def _show_faults(out: Output, explanation: Explanation) -> None:
    rows = [
        (
            fault.bank,
            register_name(fault.register),
            fault.expected.hex(),
            fault.found.hex(),
            escape(fault.reason),
        )
        for fault in explanation.faults
    ]
    if rows:
        columns = ("bank", "register", "expected", "found", "reason")
        out.table("registers that no event explains", columns, rows)
