"""keyturn's own evidence of version 1 becomes a container with the same content."""

from __future__ import annotations

import json

import pytest

from attestation.container import EvidencePlatform, LogFormat
from attestation.evidence import encode_evidence
from attestation.importers import import_evidence
from measurements.canonical import parse_canonical
from measurements.errors import KeyturnError
from measurements.reference_digest import parse_reference_values
from measurements.runtime_events import RuntimeEvent
from tests.support.paper_tpm import Authority, PaperTpm

EVENTS = (RuntimeEvent("app-id", b"\x11" * 20), RuntimeEvent("system-ready", b""))
EVIDENCE = PaperTpm(Authority("root")).evidence(
    report_data=bytes(64), runtime_events=EVENTS, app_manifest=b'{"type":"keyturn-app/1"}'
)


def test_every_part_is_there() -> None:
    found = import_evidence(encode_evidence(EVIDENCE))
    assert (found.platform, found.report, found.origin) == (EvidencePlatform.TPM, b"", "keyturn-evidence/1")
    part = found.tpm
    assert part is not None
    assert (part.quote, part.signature, part.ak_public) == (
        EVIDENCE.quote,
        EVIDENCE.signature,
        EVIDENCE.ak_public,
    )
    assert part.ek_certificate == EVIDENCE.ek_certificate
    assert {bank: dict(registers) for bank, registers in part.pcrs.items()} == {
        bank: dict(registers) for bank, registers in EVIDENCE.pcrs.items()
    }
    assert [log.format for log in found.logs] == [LogFormat.TCG2, LogFormat.KEYTURN]
    assert found.logs[0].data == EVIDENCE.event_log
    assert json.loads(found.logs[1].data) == [
        {"name": event.name, "payload": event.payload.hex()} for event in EVENTS
    ]
    assert found.app_manifest == EVIDENCE.app_manifest
    assert found.reference is not None
    assert parse_reference_values(parse_canonical(found.reference), path="") == EVIDENCE.reference


def test_bytes_that_are_not_canonical_are_refused() -> None:
    with pytest.raises(KeyturnError, match="canonical"):
        import_evidence(encode_evidence(EVIDENCE) + b"\n")
    with pytest.raises(KeyturnError):
        import_evidence(encode_evidence(EVIDENCE)[:-1])
