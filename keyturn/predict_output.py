"""What ``keyturn predict`` shows and writes: tables for people, documents for tools."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyturn.output import Output, escape
from keyturn.register_names import covers
from keyturn.shape_options import OptionError
from measurements.platforms import Platform, PlatformPrediction

if TYPE_CHECKING:
    from measurements.platforms import RegisterEvent

REFERENCE_FOLDER = "reference"


class Format(StrEnum):
    """Forms in which reference values are written."""

    KEYTURN = "keyturn"
    DSTACK = "dstack"
    CORIM = "corim"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where values go and in which form; ``events``: people also see every event."""

    form: Format
    output: Path | None
    events: bool
    json: bool

    def __post_init__(self) -> None:
        if self.json and self.form is not Format.KEYTURN:
            raise OptionError(
                "goes with --format keyturn only", subject="--json", advice="leave one of them out"
            )


def give(
    out: Output,
    predictions: Sequence[PlatformPrediction],
    target: Target,
    *,
    folder: Path | None,
    identifier: str,
) -> dict[str, Any]:
    """Write and show the values; the document of them, empty for the forms of other tools.

    Without ``target.output`` each platform gets a file in ``folder``, if there is one.
    """
    if target.form is not Format.KEYTURN:
        export(predictions, target.form, output=target.output, identifier=identifier)
        return {}
    from measurements.reference import predictions_document

    written = _publish(predictions, folder=folder, output=target.output)
    if not out.json:
        show(out, predictions, events=target.events)
        if written:
            out.line(f"reference values in {escape(', '.join(map(str, written)))}")
    return {**predictions_document(predictions), **_digests(out, predictions)}


def _publish(
    predictions: Sequence[PlatformPrediction], *, folder: Path | None, output: Path | None
) -> list[Path]:
    from measurements.reference import predictions_document

    if output is not None:
        _write(output, predictions_document(predictions))
        return [output]
    written = []
    for platform in dict.fromkeys(prediction.platform for prediction in predictions if folder):
        assert folder is not None
        target = folder / f"{platform.value}.json"
        mine = [prediction for prediction in predictions if prediction.platform is platform]
        _write(target, predictions_document(mine))
        written.append(target)
    return written


def export(
    predictions: Sequence[PlatformPrediction], form: Format, *, output: Path | None, identifier: str
) -> None:
    """Write ``predictions`` in the form of another tool to ``output`` or, without it, to standard output."""
    from measurements.value_formats import encode_csv, encode_dstack

    if form is Format.CORIM:
        from measurements.corim import encode_corim

        data = encode_corim(predictions, identifier=identifier)
        if output is None and sys.stdout.isatty():
            raise OptionError(
                "is binary and not for a terminal", subject="--format corim", advice="give --output FILE"
            )
    else:
        data = (encode_csv if form is Format.CSV else encode_dstack)(predictions).encode("utf-8")
    if output is None:
        sys.stdout.buffer.write(data)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(data)


def show(out: Output, predictions: Sequence[PlatformPrediction], *, events: bool) -> None:
    """The values as tables: one per prediction, or one for a labelled set of single values."""
    for group in _groups(predictions):
        if len(group) > 1:
            _show_set(out, group)
        else:
            _show_registers(out, group[0])
        if events:
            for prediction in group:
                _show_events(out, prediction)


def _groups(predictions: Sequence[PlatformPrediction]) -> list[list[PlatformPrediction]]:
    """Predictions of the same platform and shape with one register each are shown together."""
    groups: list[list[PlatformPrediction]] = []
    for prediction in predictions:
        last = groups[-1][0] if groups else None
        if (
            last is not None
            and len(prediction.registers) == len(last.registers) == 1
            and (last.platform, dict(last.shape)) == (prediction.platform, dict(prediction.shape))
        ):
            groups[-1].append(prediction)
        else:
            groups.append([prediction])
    return groups


def _show_registers(out: Output, prediction: PlatformPrediction) -> None:
    banks = list(dict.fromkeys(bank for values in prediction.registers.values() for bank in values))
    rows = []
    for register, values in _in_order(prediction):
        events = [event for event in prediction.events if event.register == register]
        rows.append(
            (
                register,
                *(_shown(values.get(bank)) for bank in banks),
                _sources(events),
                covers(prediction.platform, register),
            )
        )
    name = "PCR" if prediction.platform is Platform.TPM else "register"
    out.table(_title(prediction), (name, *banks, "source", "covers"), rows)


def _in_order(prediction: PlatformPrediction) -> list[tuple[str, Mapping[str, bytes]]]:
    from measurements.reference import REGISTERS

    order = {register: place for place, register in enumerate(REGISTERS[prediction.platform])}
    return sorted(prediction.registers.items(), key=lambda item: order[item[0]])


def _show_set(out: Output, group: Sequence[PlatformPrediction]) -> None:
    (register,) = group[0].registers
    labels = list(dict.fromkeys(key for prediction in group for key in prediction.label))
    rows = [
        (
            *(escape(prediction.label.get(key, "-")) for key in labels),
            *(value.hex() for value in prediction.registers[register].values()),
        )
        for prediction in group
    ]
    title = f"predicted {register}, {group[0].platform.value}, {_conditions(group[0].shape)}"
    out.table(title, (*labels, *group[0].registers[register]), rows)


def _title(prediction: PlatformPrediction) -> str:
    label = "".join(f", {key} {value}" for key, value in prediction.label.items())
    return f"predicted registers, {prediction.platform.value}{label}, {_conditions(prediction.shape)}"


def _conditions(shape: Mapping[str, object]) -> str:
    return f"{shape.get('cpus')} vCPU, {shape.get('memory')}"


def _shown(value: bytes | None) -> str:
    if value is None:
        return "-"
    return value.hex() if any(value) else "[dim]zero[/dim]"


def _sources(events: Sequence[RegisterEvent]) -> str:
    return ", ".join(sorted({event.provenance.value for event in events})) or "-"


def _show_events(out: Output, prediction: PlatformPrediction) -> None:
    rows = [
        (
            event.register,
            event.event_type,
            next(iter(event.digests.values())).hex(),
            escape(event.description),
            escape(event.origin),
        )
        for event in prediction.events
    ]
    bank = next((bank for event in prediction.events for bank in event.digests), "digest")
    columns = ("register", "type", bank, "description", "comes from")
    out.table(f"events of {_title(prediction).removeprefix('predicted registers, ')}", columns, rows)


def _digests(out: Output, predictions: Sequence[PlatformPrediction]) -> dict[str, Any]:
    """What contracts allow for TPM systems: the digests of their reference values."""
    from measurements.reference import prediction_document
    from measurements.reference_digest import KEYS, parse_reference_values, reference_digest

    digests = []
    for prediction in predictions:
        if prediction.platform is Platform.TPM:
            document = prediction_document(prediction)
            values = parse_reference_values({key: document[key] for key in KEYS})
            digests.append(reference_digest(values).hex())
    for digest in digests:
        out.line(f"reference digest {digest}")
    if not digests:
        return {}
    return {"reference_digest": digests[0]} if len(predictions) == 1 else {"reference_digests": digests}


def _write(target: Path, document: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json_module.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
