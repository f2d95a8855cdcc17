"""Fuzz target: event logs of every format. The first byte of an input chooses the format."""

from __future__ import annotations

import hashlib
import json

from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat
from attestation.event_logs import judge_logs, parse_log
from measurements.canonical import encode_canonical
from measurements.errors import KeyturnError
from measurements.eventlog import Algorithm
from measurements.events import EventType
from tests.support.event_log_writer import Record, write_log
from tests.support.vectors import vectors_folder

NAME = "event-logs"

_FORMATS = tuple(LogFormat)
_SMALL = {
    LogFormat.TCG2: "tpm-eventlogs/go-tpm-tools/debian-10.bin",
    LogFormat.CCEL: "tdx-ccel-logs/trustee/CCEL_data_ovmf",
}
_MAX_SEED = 1 << 15


def seeds() -> list[bytes]:
    """A generated log of each format, and two real ones."""
    found = [bytes([_FORMATS.index(kind)]) + data for kind, data in _generated().items()]
    folder = vectors_folder()
    for kind, name in _SMALL.items():
        path = folder and folder / name
        if path and path.exists():
            found.append(bytes([_FORMATS.index(kind)]) + path.read_bytes()[:_MAX_SEED])
    return found


def target(data: bytes) -> None:
    """What parses is accepted with the registers that it yields, or for a digest that is not of its data;
    and what a record is said to cover has the digests of the record.
    """
    if not data:
        return
    log = Log(format=_FORMATS[data[0] % len(_FORMATS)], data=data[1:])
    evidence = EvidenceContainer(platform=EvidencePlatform.TDX, report=b"report", logs=(log,))
    nothing = judge_logs(evidence, {})
    assert not nothing.passed
    try:
        parsed = parse_log(log)
        registers = parsed.replay()
    except KeyturnError:
        return
    for record in parsed.records:
        if record.covered is not None and log.format in (LogFormat.TCG2, LogFormat.CCEL):
            for bank, digest in record.digests.items():
                assert bank == "sm3_256" or hashlib.new(bank, record.covered).digest() == digest
    failed = {check.name for check in judge_logs(evidence, registers).checks if not check.passed}
    name = f"log-{log.format.value}"
    assert failed <= {f"{name}-digests"} or not registers or failed <= {f"{name}-registers"}


def _generated() -> dict[LogFormat, bytes]:
    text = b"Exit Boot Services Invocation"
    banks = (Algorithm.SHA256, Algorithm.SHA384)
    records = [
        Record(
            pcr=pcr,
            event_type=EventType.EV_EFI_ACTION,
            digests={bank: hashlib.new(bank.bank, text).digest() for bank in banks},
            data=text,
        )
        for pcr in (1, 4)
    ]
    cc = [
        Record(pcr=1, event_type=one.event_type, digests={banks[1]: one.digests[banks[1]]}, data=text)
        for one in records
    ]
    entry = {"imr": 3, "event_type": 0x08000001, "digest": "", "event": "app-id", "event_payload": "aa"}
    return {
        LogFormat.TCG2: write_log(records, algorithms=banks),
        LogFormat.CCEL: write_log(cc, algorithms=banks[1:]),
        LogFormat.DSTACK: json.dumps([entry]).encode(),
        LogFormat.KEYTURN: encode_canonical([{"name": "keyturn-boot", "payload": "31"}]),
    }
