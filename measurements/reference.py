"""Reference values: a prediction as the JSON document that users keep and verifiers read.

Layout, one JSON object::

    {"platform": "tpm",
     "shape": {...},                                       keys of shape.toml
     "banks": {"sha256": {"0": hex, ..., "14": hex}, "sha384": {...}},
     "events": [{"pcr": int, "type": "EV_...", "digest": {bank: hex}, "description": text,
                 "source": "computed" | "dry-boot", "origin": text}, ...]}

Hexadecimal is lower case; the events are in the order of the boot and yield exactly the banks' values. The
document without its events is that of ``measurements.reference_digest``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measurements.boot_sequence import PREDICTED_PCRS, UNLOGGED_PCRS, Prediction
from measurements.errors import FormatError
from measurements.events import Bank, EventType, MeasuredEvent, Provenance, replay
from measurements.json_text import json_text
from measurements.reference_digest import ReferenceValues

PLATFORM = "tpm"
_KEYS = {"platform", "shape", "banks", "events"}
_EVENT_KEYS = {"pcr", "type", "digest", "description", "source", "origin"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Parsed reference values; ``shape`` is kept as JSON, since only people and causes read it."""

    shape: Mapping[str, Any]
    events: tuple[MeasuredEvent, ...]
    registers: Mapping[Bank, Mapping[int, bytes]]

    def logged(self) -> tuple[MeasuredEvent, ...]:
        """The events that the firmware's log shows."""
        return tuple(event for event in self.events if event.pcr not in UNLOGGED_PCRS)


def reference_document(prediction: Prediction, *, shape: Mapping[str, object]) -> dict[str, Any]:
    """The document of ``prediction``."""
    return {
        "platform": PLATFORM,
        "shape": dict(shape),
        "banks": {
            bank.value: {str(pcr): value.hex() for pcr, value in sorted(values.items())}
            for bank, values in prediction.registers.items()
        },
        "events": [_event_document(event) for event in prediction.events],
    }


def parse_reference(data: bytes, *, subject: str = "reference values") -> Reference:
    """Read a document; raises ``FormatError`` unless it has exactly the layout and its events yield its
    registers.
    """
    try:
        document = json.loads(json_text(data))
        reference = _from_document(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _error(f"is not a document of reference values: {error!r}", subject) from error
    if replay(reference.events, pcrs=PREDICTED_PCRS) != reference.registers:
        raise _error("has events that do not yield its registers", subject)
    return reference


def reference_values(reference: Reference) -> ReferenceValues:
    """The values without events, as a guest declares them and a contract allows their digest."""
    banks = {bank.value: dict(values) for bank, values in reference.registers.items()}
    return ReferenceValues(shape=reference.shape, banks=banks)


def read_reference(path: Path) -> Reference:
    """The document in a file."""
    return parse_reference(path.read_bytes(), subject=str(path))


def _event_document(event: MeasuredEvent) -> dict[str, Any]:
    return {
        "pcr": event.pcr,
        "type": event.event_type.name,
        "digest": {bank.value: digest.hex() for bank, digest in event.digests.items()},
        "description": event.description,
        "source": event.provenance.value,
        "origin": event.origin,
    }


def _from_document(document: Mapping[str, Any]) -> Reference:
    if set(document) != _KEYS or document["platform"] != PLATFORM:
        raise ValueError(f"its keys are not {', '.join(sorted(_KEYS))}, or its platform is not {PLATFORM}")
    registers = {
        Bank(bank): {int(pcr): _digest(Bank(bank), value) for pcr, value in values.items()}
        for bank, values in document["banks"].items()
    }
    if set(registers) != set(Bank) or any(set(v) != set(PREDICTED_PCRS) for v in registers.values()):
        raise ValueError("its banks are not complete")
    return Reference(
        shape=dict(document["shape"]),
        events=tuple(_event_of(event) for event in document["events"]),
        registers=registers,
    )


def _event_of(event: Mapping[str, Any]) -> MeasuredEvent:
    if set(event) != _EVENT_KEYS:
        raise ValueError(f"an event's keys are not {', '.join(sorted(_EVENT_KEYS))}")
    digests = {Bank(bank): _digest(Bank(bank), value) for bank, value in event["digest"].items()}
    if set(digests) != set(Bank) or event["pcr"] not in PREDICTED_PCRS:
        raise ValueError("an event lacks a bank, or extends a register that is not predicted")
    return MeasuredEvent(
        pcr=int(event["pcr"]),
        event_type=EventType[event["type"]],
        digests=digests,
        description=str(event["description"]),
        origin=str(event["origin"]),
        provenance=Provenance(event["source"]),
    )


def _digest(bank: Bank, text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != bank.size or value.hex() != text:
        raise ValueError(f"{text!r} is not a {bank.value} value")
    return value


def _error(reason: str, subject: str) -> FormatError:
    return FormatError(
        reason, subject=subject, advice="make the file anew with keyturn predict --json --output FILE"
    )
