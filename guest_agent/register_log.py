"""The log of runtime events and the register it explains, kept as one.

The log entry is written first, then the register is extended, both under one lock: whoever reads the log
between sees an entry that the register lacks, never the reverse. Before every entry and after it the log is
replayed and compared with the register; after a crash between the two steps, or when somebody else extended
the register, the log is refused for good.

The log is a file, one line per event: ``name SP payload in lower-case hex LF``. It lies on a file system in
memory, so it is as old as the register's boot.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from guest_agent.backend import Backend, SignedQuote
from measurements.errors import RefusedError
from measurements.runtime_events import (
    RUNTIME_BANKS,
    RUNTIME_PCR,
    RuntimeEvent,
    event_digest,
    replay_runtime_events,
)

MAX_EVENTS = 256
MAX_PAYLOAD = 4096
"""Bounds of a log that a verifier still reads (attestation.evidence)."""

_LINE = re.compile(r"([a-z0-9-]{1,64}) ((?:[0-9a-f]{2})*)")


class RegisterLogError(RefusedError):
    """Log and register do not agree, or the log is not readable."""

    code = "register-log"


def encode_log(events: Sequence[RuntimeEvent]) -> bytes:
    """The file's bytes."""
    return b"".join(f"{event.name} {event.payload.hex()}\n".encode("ascii") for event in events)


def parse_log(data: bytes) -> tuple[RuntimeEvent, ...]:
    """The events of a file. Raises ``RegisterLogError`` for anything that ``encode_log`` does not write."""
    *lines, rest = data.decode("ascii", "replace").split("\n")
    found = [_LINE.fullmatch(line) for line in lines]
    if rest or None in found:
        raise _error("a line of the log is cut off or not well formed")
    events = tuple(RuntimeEvent(match[1], bytes.fromhex(match[2])) for match in found if match is not None)
    if len(events) > MAX_EVENTS or any(len(event.payload) > MAX_PAYLOAD for event in events):
        raise _error("the log is larger than a verifier reads")
    return events


class RegisterLog:
    """The log at ``path`` with the runtime register of ``backend``. Safe for threads."""

    def __init__(self, backend: Backend, path: Path) -> None:
        """Open the log, or begin one. Raises ``RegisterLogError`` unless it explains the register."""
        self._backend = backend
        self._path = path
        self._lock = threading.Lock()
        self._broken = False
        self._events = parse_log(path.read_bytes()) if path.exists() else ()
        self._compare(self._events)

    @property
    def events(self) -> tuple[RuntimeEvent, ...]:
        """The events that are in the register, oldest first."""
        with self._lock:
            self._refuse_broken()
            return self._events

    def append(self, event: RuntimeEvent) -> None:
        """Log ``event``, then extend the register with it.

        Raises ``RegisterLogError`` or what the backend raises; after either the log takes no more events.
        """
        with self._lock:
            self._refuse_broken()
            if len(self._events) == MAX_EVENTS or len(event.payload) > MAX_PAYLOAD:
                raise _error("the event would make the log larger than a verifier reads")
            digests = {bank: event_digest(event, algorithm=bank) for bank in RUNTIME_BANKS}
            self._broken = True
            self._compare(self._events)
            self._write(event)
            self._backend.extend(digests)
            extended = (*self._events, event)
            self._compare(extended)
            self._events = extended
            self._broken = False

    def quote(self, report_data: bytes) -> tuple[SignedQuote, tuple[RuntimeEvent, ...]]:
        """A quote over ``report_data``, and exactly the events that its runtime register holds."""
        with self._lock:
            self._refuse_broken()
            quoted = self._backend.quote(report_data)
            if {bank: values[RUNTIME_PCR] for bank, values in quoted.registers.items()} != (
                replay_runtime_events(self._events)
            ):
                raise _mismatch()
            return quoted, self._events

    def _write(self, event: RuntimeEvent) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            line = encode_log((event,))
            if os.write(descriptor, line) != len(line):
                raise _error("the log's file system is full")
        finally:
            os.close(descriptor)

    def _compare(self, events: Sequence[RuntimeEvent]) -> None:
        if self._backend.runtime_register() != replay_runtime_events(events):
            raise _mismatch()

    def _refuse_broken(self) -> None:
        if self._broken:
            raise _error("an earlier event was not completed")


def _mismatch() -> RegisterLogError:
    return _error("the register is not what the log says: an event is missing, or one was added")


def _error(reason: str) -> RegisterLogError:
    return RegisterLogError(
        reason, subject="runtime events", advice="boot the machine again; a register cannot be taken back"
    )
