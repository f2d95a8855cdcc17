"""Writes TCG event logs, so that tests can render a prediction as the log that a machine would have kept."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from measurements.eventlog import SPEC_ID, Algorithm
from measurements.events import Bank, MeasuredEvent

BANK_ALGORITHMS = {Bank.SHA256: Algorithm.SHA256, Bank.SHA384: Algorithm.SHA384}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record to write."""

    pcr: int
    event_type: int
    digests: Mapping[Algorithm, bytes]
    data: bytes = b""


def spec_id_record(algorithms: Sequence[Algorithm], *, vendor_info: bytes = b"") -> bytes:
    """The first record, which names the algorithms."""
    entries = b"".join(struct.pack("<HH", algorithm, algorithm.digest_size) for algorithm in algorithms)
    body = (
        SPEC_ID
        + struct.pack("<IBBBBI", 0, 0, 2, 106, 2, len(algorithms))
        + entries
        + bytes([len(vendor_info)])
        + vendor_info
    )
    return struct.pack("<II20sI", 0, 3, bytes(20), len(body)) + body


def write_record(record: Record) -> bytes:
    """One ``TCG_PCR_EVENT2``."""
    digests = b"".join(struct.pack("<H", number) + digest for number, digest in record.digests.items())
    head = struct.pack("<III", record.pcr, record.event_type, len(record.digests))
    return head + digests + struct.pack("<I", len(record.data)) + record.data


def write_log(records: Iterable[Record], *, algorithms: Sequence[Algorithm], padding: bytes = b"") -> bytes:
    """A whole log."""
    return spec_id_record(algorithms) + b"".join(write_record(record) for record in records) + padding


def write_predicted(events: Iterable[MeasuredEvent], *, data: Mapping[int, bytes] | None = None) -> bytes:
    """The log of a machine that measured exactly ``events``; ``data`` gives event data by position."""
    given = data or {}
    records = [
        Record(
            pcr=event.pcr,
            event_type=event.event_type,
            digests={BANK_ALGORITHMS[bank]: digest for bank, digest in event.digests.items()},
            data=given.get(position, b""),
        )
        for position, event in enumerate(events)
    ]
    return write_log(records, algorithms=list(BANK_ALGORITHMS.values()))
