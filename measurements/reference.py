"""Reference values: a prediction as the JSON document that users keep and verifiers read.

Layout, one JSON object for every platform::

    {"platform": "tpm" | "tdx" | "snp" | "sev-es" | "sev" | "nitro",
     "label": {text: text},                              what tells it from its like; absent if nothing does
     "shape": {...},                                     keys of shape.toml
     "banks": {bank: {register: hex}},                   "sha256" and "sha384", as the platform has them
     "inputs": {register: [text, ...]},                  where it comes from, in the order measured
     "events": [{"register": text, "type": text, "digest": {bank: hex}, "description": text,
                 "source": "computed" | "dry-boot", "origin": text,
                 "running": true                           only where it is so
                }, ...]}

or ``{"predictions": [object, ...]}`` with several of them. Hexadecimal is lower case. ``digest`` extends the
register (``r = H(r ‖ digest)``, from zeros, unless the type is EV_NO_ACTION); with ``running`` it is the
register's value after this step. The events are in the order of the boot and yield exactly the banks' values.
A document of a TPM system without inputs and events is that of ``measurements.reference_digest``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measurements.canonical import parse_json
from measurements.errors import FormatError
from measurements.events import Bank, EventType, MeasuredEvent, Provenance
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.reference_digest import PCRS, ReferenceValues

if TYPE_CHECKING:
    from measurements.boot_sequence import Prediction

REGISTERS: Mapping[Platform, tuple[str, ...]] = {
    Platform.TPM: tuple(str(pcr) for pcr in PCRS),
    Platform.TDX: (
        *("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"),
        *("mrconfigid", "mrowner", "mrownerconfig"),
    ),
    Platform.SNP: ("measurement",),
    Platform.SEV_ES: ("measurement",),
    Platform.SEV: ("measurement",),
    Platform.NITRO: tuple(str(pcr) for pcr in range(32)),
}
"""The names that a platform's registers have, in the order in which they are shown."""

_SEVERAL = "predictions"
_KEYS = {"platform", "shape", "banks", "inputs", "events"}
_EVENT_KEYS = {"register", "type", "digest", "description", "source", "origin"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Reference values of a TPM system; ``shape`` is kept as JSON, since only people and causes read it."""

    shape: Mapping[str, Any]
    events: tuple[MeasuredEvent, ...]
    registers: Mapping[Bank, Mapping[int, bytes]]


def tpm_prediction(prediction: Prediction, *, shape: Mapping[str, object]) -> PlatformPrediction:
    """The prediction of a TPM system in the form that all platforms share."""
    return PlatformPrediction(
        platform=Platform.TPM,
        shape=shape,
        registers={
            str(pcr): {bank.value: prediction.registers[bank][pcr] for bank in Bank}
            for pcr in sorted(prediction.registers[Bank.SHA256])
        },
        events=tuple(register_event(event) for event in prediction.events),
    )


def register_event(event: MeasuredEvent) -> RegisterEvent:
    """A TPM system's event in the form that all platforms share."""
    return RegisterEvent(
        register=str(event.pcr),
        event_type=event.event_type.name,
        digests={bank.value: digest for bank, digest in event.digests.items()},
        description=event.description,
        origin=event.origin,
        provenance=event.provenance,
    )


def reference_document(prediction: Prediction, *, shape: Mapping[str, object]) -> dict[str, Any]:
    """The document of a TPM system's prediction."""
    return prediction_document(tpm_prediction(prediction, shape=shape))


def prediction_document(prediction: PlatformPrediction) -> dict[str, Any]:
    """The document of ``prediction``."""
    banks: dict[str, dict[str, str]] = {}
    for register, values in prediction.registers.items():
        for bank, value in values.items():
            banks.setdefault(bank, {})[register] = value.hex()
    return {
        "platform": prediction.platform.value,
        **({"label": dict(prediction.label)} if prediction.label else {}),
        "shape": dict(prediction.shape),
        "banks": banks,
        "inputs": {register: list(prediction.inputs(register)) for register in prediction.registers},
        "events": [_event_document(event) for event in prediction.events],
    }


def predictions_document(predictions: Sequence[PlatformPrediction]) -> dict[str, Any]:
    """The document of one prediction, or of several."""
    if len(predictions) == 1:
        return prediction_document(predictions[0])
    return {_SEVERAL: [prediction_document(prediction) for prediction in predictions]}


def parse_prediction(data: bytes, *, subject: str = "reference values") -> PlatformPrediction:
    """Read a document of one prediction; raises ``FormatError`` unless it has exactly the layout, and its
    events yield its registers.
    """
    predictions = parse_predictions(data, subject=subject)
    if len(predictions) != 1:
        raise _error(f"holds {len(predictions)} predictions, one was expected", subject)
    return predictions[0]


def parse_predictions(data: bytes, *, subject: str = "reference values") -> tuple[PlatformPrediction, ...]:
    """Read a document of one or several predictions; errors as ``parse_prediction``."""
    try:
        document: Any = parse_json(data, subject=subject)
        several = document[_SEVERAL] if set(document) == {_SEVERAL} else [document]
        predictions = tuple(_from_document(each) for each in several)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _error(f"is not a document of reference values: {error!r}", subject) from error
    if not predictions:
        raise _error("holds no prediction", subject)
    for prediction in predictions:
        register = _unexplained_register(prediction)
        if register is not None:
            raise _error(f"has events that do not yield its register {register}", subject)
    return predictions


def read_predictions(path: Path) -> tuple[PlatformPrediction, ...]:
    """The predictions in a file."""
    return parse_predictions(path.read_bytes(), subject=str(path))


def parse_reference(data: bytes, *, subject: str = "reference values") -> Reference:
    """Read a document of one TPM system's prediction; errors as ``parse_prediction``."""
    prediction = parse_prediction(data, subject=subject)
    if prediction.platform is not Platform.TPM or prediction.label:
        raise _error(f"is a prediction for {prediction.platform.value}, not for a TPM system", subject)
    return tpm_reference(prediction)


def tpm_reference(prediction: PlatformPrediction) -> Reference:
    """A TPM system's prediction with registers by number; one that was parsed is always complete."""
    return Reference(
        shape=dict(prediction.shape),
        events=tuple(
            MeasuredEvent(
                pcr=int(event.register),
                event_type=EventType[event.event_type],
                digests={Bank(bank): digest for bank, digest in event.digests.items()},
                description=event.description,
                origin=event.origin,
                provenance=event.provenance,
            )
            for event in prediction.events
        ),
        registers={
            bank: {int(pcr): values[bank.value] for pcr, values in prediction.registers.items()}
            for bank in Bank
        },
    )


def reference_values(reference: Reference) -> ReferenceValues:
    """The values without events, as a guest declares them and a contract allows their digest."""
    banks = {bank.value: dict(values) for bank, values in reference.registers.items()}
    return ReferenceValues(shape=reference.shape, banks=banks)


def read_reference(path: Path) -> Reference:
    """The document of a TPM system in a file."""
    return parse_reference(path.read_bytes(), subject=str(path))


def parse_registers(
    platform: Platform, banks: Mapping[str, Mapping[str, str]], *, complete: bool = True
) -> dict[str, dict[str, bytes]]:
    """The values of a document's ``banks``; ``complete`` asks for every register of a TPM system.

    Raises ``ValueError`` or another error of Python for anything that is not in form.
    """
    registers: dict[str, dict[str, bytes]] = {}
    for bank, values in banks.items():
        if not values:
            raise ValueError(f"its bank {bank} is empty")
        for register, value in values.items():
            if register not in REGISTERS[platform]:
                raise ValueError(f"a {platform.value} machine has no register {register!r}")
            registers.setdefault(register, {})[Bank(bank).value] = _digest(Bank(bank), value)
    every = all(set(registers.get(name, {})) == set(Bank) for name in REGISTERS[Platform.TPM])
    if not registers or (complete and platform is Platform.TPM and not every):
        raise ValueError("its banks are not complete")
    return registers


def replay_register(events: Iterable[RegisterEvent], register: str, bank: str) -> bytes:
    """The value of ``register`` after ``events``; zeros if none extends it."""
    value = bytes(Bank(bank).size)
    for event in events:
        if event.register != register or event.event_type == EventType.EV_NO_ACTION.name:
            continue
        digest = event.digests[bank]
        value = digest if event.running else hashlib.new(bank, value + digest).digest()
    return value


def _unexplained_register(prediction: PlatformPrediction) -> str | None:
    """The first register whose value is not that of its events."""
    events: dict[str, list[RegisterEvent]] = {register: [] for register in prediction.registers}
    for event in prediction.events:
        events[event.register].append(event)
    for register, values in prediction.registers.items():
        for bank, value in values.items():
            if replay_register(events[register], register, bank) != value:
                return register
    return None


def _event_document(event: RegisterEvent) -> dict[str, Any]:
    return {
        "register": event.register,
        "type": event.event_type,
        "digest": {bank: digest.hex() for bank, digest in event.digests.items()},
        "description": event.description,
        "source": event.provenance.value,
        "origin": event.origin,
        **({"running": True} if event.running else {}),
    }


def _from_document(document: Mapping[str, Any]) -> PlatformPrediction:
    if set(document) - {"label"} != _KEYS:
        raise ValueError(f"its keys are not {', '.join(sorted(_KEYS))}")
    platform = Platform(document["platform"])
    prediction = PlatformPrediction(
        platform=platform,
        label=_label(document["label"]) if "label" in document else {},
        shape=dict(document["shape"]),
        registers=parse_registers(platform, document["banks"]),
        events=tuple(_event_of(event) for event in document["events"]),
    )
    for event in prediction.events:
        _check_event(event, prediction)
    inputs = {register: list(prediction.inputs(register)) for register in prediction.registers}
    if document["inputs"] != inputs:
        raise ValueError("its inputs are not those of its events")
    return prediction


def _label(label: Mapping[str, Any]) -> dict[str, str]:
    if not label or not all(isinstance(text, str) for text in label.values()):
        raise ValueError("its label is empty, or holds something else than texts")
    return dict(label)


def _event_of(event: Mapping[str, Any]) -> RegisterEvent:
    if set(event) - {"running"} != _EVENT_KEYS or event.get("running", True) is not True:
        raise ValueError(f"an event's keys are not {', '.join(sorted(_EVENT_KEYS))}, or running is not true")
    texts = [event[key] for key in ("register", "type", "description", "origin")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("an event holds something else where a text belongs")
    return RegisterEvent(
        register=event["register"],
        event_type=event["type"],
        digests={Bank(bank).value: _digest(Bank(bank), value) for bank, value in event["digest"].items()},
        description=event["description"],
        origin=event["origin"],
        provenance=Provenance(event["source"]),
        running="running" in event,
    )


def _check_event(event: RegisterEvent, prediction: PlatformPrediction) -> None:
    if event.register not in prediction.registers:
        raise ValueError(f"an event is of register {event.register!r}, which has no value")
    if set(event.digests) != set(prediction.registers[event.register]):
        raise ValueError("an event lacks a bank of its register, or has another one")
    if prediction.platform is Platform.TPM and (
        event.event_type not in EventType.__members__ or event.running
    ):
        raise ValueError(f"a TPM system has no event {event.event_type!r}")


def _digest(bank: Bank, text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != bank.size or value.hex() != text:
        raise ValueError(f"{text!r} is not a {bank.value} value")
    return value


def _error(reason: str, subject: str) -> FormatError:
    return FormatError(
        reason, subject=subject, advice="make the file anew with keyturn predict --json --output FILE"
    )
