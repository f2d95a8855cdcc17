"""dstack's event log: a JSON list of what was extended into the four RTMRs.

Each entry (``dstack/cc-eventlog/src/tdx.rs``) has ``imr`` (0 to 3: RTMR0 to RTMR3), ``event_type``,
``digest`` (hex of 48 bytes; empty where a runtime event was stripped for transport), ``event`` (a name) and
``event_payload`` (hex), and for V2 events ``version`` 2 and ``preimage`` (hex of the hashed bytes).

Only runtime events (type 0x08000001, always in RTMR3) have a digest that covers name and payload: theirs is
computed anew here, and a stated one must be the same. The names of all other entries, and their payloads,
are decoration that anybody can change; nothing here goes by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from measurements.dstack.errors import DstackInputError
from measurements.dstack.json_documents import closed_object, integer, octets, parse_document, refuse, text
from measurements.dstack.runtime_events import BANK, EVENT_TYPE, ZERO, LogVersion, RuntimeEvent

MAX_LOG = 8 << 20
MAX_EVENTS = 2048
_MARKS = 32 * MAX_EVENTS
"""More brackets, commas and quotes than the log's own form has."""
REGISTERS = 4
RUNTIME_REGISTER = 3
_SIZE = 48
_REQUIRED = frozenset({"imr", "event_type", "digest", "event", "event_payload"})
_OPTIONAL = frozenset({"version", "preimage"})


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEvent:
    """One entry; ``digest`` extends the register. ``runtime`` is set for runtime events, whose ``digest`` is
    computed from name and payload; ``stated`` is the one in the log, if it has one.
    """

    register: int
    event_type: int
    digest: bytes
    stated: bytes | None
    name: str
    payload: bytes
    runtime: RuntimeEvent | None = None


def parse_event_log(data: bytes, *, subject: str = "event log") -> tuple[LogEvent, ...]:
    """Read a log; raises ``DstackFormatError`` for anything but the form above."""
    entries = parse_document(data, subject=subject, limit=MAX_LOG, marks=_MARKS)
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_EVENTS:
        refuse(subject, f"is not a list of 1 to {MAX_EVENTS} events")
    return tuple(_event(entry, f"{subject}, event {number}") for number, entry in enumerate(entries))


def digests(events: Iterable[LogEvent], register: int) -> tuple[bytes, ...]:
    """The digests of one register, in order."""
    return tuple(event.digest for event in events if event.register == register)


def replay_digests(found: Iterable[bytes]) -> bytes:
    """The register after these digests."""
    register = ZERO
    for digest in found:
        register = hashlib.new(BANK, register + digest).digest()
    return register


def runtime_events(events: Iterable[LogEvent]) -> tuple[RuntimeEvent, ...]:
    """The events of RTMR3."""
    return tuple(event.runtime for event in events if event.runtime is not None)


def wrong_digests(events: Sequence[LogEvent]) -> tuple[LogEvent, ...]:
    """The runtime events whose stated digest is not that of their name and payload."""
    return tuple(event for event in events if event.runtime and event.stated not in (None, event.digest))


def log_event(
    *,
    register: int,
    event_type: int,
    stated: bytes,
    name: str,
    payload: bytes,
    subject: str,
    version: LogVersion = LogVersion.V1,
) -> LogEvent:
    """One entry from its fields, of which ``stated`` (the digest) may be empty for a runtime event."""
    if (register == RUNTIME_REGISTER) is not (event_type == EVENT_TYPE):
        refuse(subject, f"has type {event_type:#x} in RTMR{register}; runtime events alone are in RTMR3")
    if register >= REGISTERS or len(stated) not in ((0, _SIZE) if event_type == EVENT_TYPE else (_SIZE,)):
        refuse(subject, f"has a digest of {len(stated)} bytes, or is of RTMR{register}")
    runtime = _runtime(name, payload, version, subject) if event_type == EVENT_TYPE else None
    return LogEvent(
        register=register,
        event_type=event_type,
        digest=runtime.digest() if runtime else stated,
        stated=stated or None,
        name=name,
        payload=payload,
        runtime=runtime,
    )


def _event(entry: object, subject: str) -> LogEvent:
    fields = closed_object(entry, required=_REQUIRED, optional=_OPTIONAL, subject=subject)
    version = integer(fields.get("version", 1), subject=f"{subject}, version", lowest=1, highest=2)
    event = log_event(
        register=integer(fields["imr"], subject=f"{subject}, imr", highest=REGISTERS - 1),
        event_type=integer(fields["event_type"], subject=f"{subject}, event_type", highest=(1 << 32) - 1),
        stated=octets(fields["digest"], subject=f"{subject}, digest", sizes=(0, _SIZE)),
        name=text(fields["event"], subject=f"{subject}, event"),
        payload=octets(fields["event_payload"], subject=f"{subject}, event_payload"),
        subject=subject,
        version=LogVersion(version),
    )
    if event.runtime is None:
        if _OPTIONAL & set(fields):
            refuse(subject, "has fields of a runtime event, and is none")
    elif "preimage" in fields:
        preimage = octets(fields["preimage"], subject=f"{subject}, preimage")
        if preimage != event.runtime.preimage():
            refuse(subject, "has a preimage that is not that of its name, payload and version")
    return event


def _runtime(name: str, payload: bytes, version: LogVersion, subject: str) -> RuntimeEvent:
    try:
        return RuntimeEvent(name=name, payload=payload, version=version)
    except DstackInputError as error:
        refuse(subject, error.reason)
