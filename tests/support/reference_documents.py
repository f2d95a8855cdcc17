"""Documents of reference values for the boots of a TPM on paper."""

from __future__ import annotations

import dataclasses
from typing import Any

from measurements.eventlog import parse_event_log
from measurements.events import Bank, EventType, MeasuredEvent, digests_of, replay
from measurements.runtime_events import DEV_IMAGE, event_digest


def reference_document(log: bytes, *, dev: bool = False, other_pcr: int | None = None) -> dict[str, Any]:
    """Reference values with the events of ``log``, as ``keyturn predict --json`` writes them; with
    ``other_pcr`` those of another boot, which differs in the first event of that register.
    """
    events = [
        MeasuredEvent(
            pcr=record.pcr,
            event_type=EventType(record.event_type),
            digests={Bank(a.bank): digest for a, digest in record.digests.items()},
            description="on paper",
            origin="tests",
        )
        for record in parse_event_log(log).events
    ]
    if dev:
        digests = {bank: event_digest(DEV_IMAGE, algorithm=bank.value) for bank in Bank}
        events.append(
            MeasuredEvent(
                pcr=14,
                event_type=EventType.KEYTURN_RUNTIME,
                digests=digests,
                description="development image",
                origin="tests",
            )
        )
    if other_pcr is not None:
        place = next(number for number, event in enumerate(events) if event.pcr == other_pcr)
        events[place] = dataclasses.replace(events[place], digests=digests_of(b"other"))
    registers = replay(events, pcrs=range(15))
    return {
        "platform": "tpm",
        "shape": {"memory": "2GiB", "cpus": 1},
        "banks": {
            bank.value: {str(pcr): value.hex() for pcr, value in values.items()}
            for bank, values in registers.items()
        },
        "inputs": {str(pcr): _origins(events, pcr) for pcr in range(15)},
        "events": [
            {
                "register": str(event.pcr),
                "type": event.event_type.name,
                "digest": {bank.value: digest.hex() for bank, digest in event.digests.items()},
                "description": event.description,
                "source": event.provenance.value,
                "origin": event.origin,
            }
            for event in events
        ],
    }


def _origins(events: list[MeasuredEvent], pcr: int) -> list[str]:
    return list(dict.fromkeys(event.origin for event in events if event.pcr == pcr))
