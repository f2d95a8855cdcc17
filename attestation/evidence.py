"""Evidence: what a guest shows to prove what it is, one JSON object in canonical form.

Layout (docs/formats.md, "Evidence"; PCR 0 to 14 of both banks)::

    {"type": "keyturn-evidence/1", "platform": "tpm",
     "quote": b64 TPMS_ATTEST, "signature": b64 TPMT_SIGNATURE,
     "ak_public": b64 TPMT_PUBLIC, "ek_certificate": b64 DER,
     "pcrs": {"sha256": {"0": hex, ... "14": hex}, "sha384": {...}},
     "event_log": b64 of the TCG log, "runtime_events": [{"name": text, "payload": hex}, ...],
     "app_manifest": b64, "reference": {"platform", "shape", "banks"}}

Reading checks form and sizes, no meaning. The module ships in the guest: standard library only, no data
classes.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from measurements.canonical import Json, encode_canonical, parse_canonical
from measurements.errors import FormatError
from measurements.reference_digest import (
    PLATFORM,
    Banks,
    ReferenceValues,
    banks_document,
    parse_banks,
    parse_reference_values,
    reference_values_document,
)
from measurements.runtime_events import RUNTIME_BANKS, RuntimeEvent
from measurements.strict_fields import Fields

TYPE = "keyturn-evidence/1"
MAX_EVIDENCE = 4 << 20
"""Largest evidence in bytes, as JSON."""

MAX_SIZES = {
    "quote": 2048,
    "signature": 2048,
    "ak_public": 2048,
    "ek_certificate": 8192,
    "event_log": 1 << 20,
    "app_manifest": 1 << 20,
}
"""Largest size of each binary part, in bytes."""

MAX_RUNTIME_EVENTS = 256
MAX_PAYLOAD = 4096
"""Largest payload of a runtime event in bytes."""

KEYS = (
    "type",
    "platform",
    "quote",
    "signature",
    "ak_public",
    "ek_certificate",
    "pcrs",
    "event_log",
    "runtime_events",
    "app_manifest",
    "reference",
)
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_HEX = re.compile(r"([0-9a-f]{2})*")


class EvidenceError(FormatError):
    """Bytes or JSON that are no evidence."""

    code = "evidence"


class Evidence(NamedTuple):
    """Parsed evidence; binary parts are raw bytes."""

    quote: bytes
    signature: bytes
    ak_public: bytes
    ek_certificate: bytes
    pcrs: Banks
    event_log: bytes
    runtime_events: tuple[RuntimeEvent, ...]
    app_manifest: bytes
    reference: ReferenceValues


def evidence_document(evidence: Evidence) -> dict[str, Json]:
    """The JSON object of ``evidence``."""
    return {
        "type": TYPE,
        "platform": PLATFORM,
        "quote": _base64(evidence.quote),
        "signature": _base64(evidence.signature),
        "ak_public": _base64(evidence.ak_public),
        "ek_certificate": _base64(evidence.ek_certificate),
        "pcrs": banks_document(evidence.pcrs),
        "event_log": _base64(evidence.event_log),
        "runtime_events": [{"name": e.name, "payload": e.payload.hex()} for e in evidence.runtime_events],
        "app_manifest": _base64(evidence.app_manifest),
        "reference": reference_values_document(evidence.reference),
    }


def encode_evidence(evidence: Evidence) -> bytes:
    """The canonical bytes."""
    return encode_canonical(evidence_document(evidence), subject="evidence")


def decode_evidence(data: bytes) -> Evidence:
    """Read canonical bytes. Raises ``EvidenceError`` or another ``FormatError`` for anything else."""
    check_size(data)
    return parse_evidence(parse_canonical(data, subject="evidence"))


def check_size(data: bytes) -> None:
    """Raises ``EvidenceError`` for more than ``MAX_EVIDENCE`` bytes, before anything is parsed."""
    if len(data) > MAX_EVIDENCE:
        raise _error(f"is larger than {MAX_EVIDENCE} bytes")


def parse_evidence(document: Json) -> Evidence:
    """Read the object, for instance from inside a request; refuses unknown, missing and oversized parts."""
    fields = Fields(document, KEYS, path="", refuse=_error)
    fields.constant("type", TYPE)
    fields.constant("platform", PLATFORM)
    return Evidence(
        quote=_binary(fields, "quote"),
        signature=_binary(fields, "signature"),
        ak_public=_binary(fields, "ak_public"),
        ek_certificate=_binary(fields, "ek_certificate"),
        pcrs=parse_banks(fields.object("pcrs", RUNTIME_BANKS)),
        event_log=_binary(fields, "event_log"),
        runtime_events=_runtime_events(fields),
        app_manifest=_binary(fields, "app_manifest"),
        reference=parse_reference_values(fields.raw("reference"), path="reference"),
    )


def _binary(fields: Fields, key: str) -> bytes:
    """Bytes in standard base64, in the one form that has no spare bits."""
    text, limit = fields.raw(key), MAX_SIZES[key]
    if not isinstance(text, str) or not 0 < len(text) <= (limit + 2) // 3 * 4:
        fields.fail(key, f"is not base64 of 1 to {limit} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        fields.fail(key, "is not base64")
    if _base64(data) != text or len(data) > limit:
        fields.fail(key, f"is not base64 of 1 to {limit} bytes in its canonical form")
    return data


def _runtime_events(fields: Fields) -> tuple[RuntimeEvent, ...]:
    events = fields.objects("runtime_events", ("name", "payload"), _runtime_event)
    if len(events) > MAX_RUNTIME_EVENTS:
        fields.fail("runtime_events", f"are more than {MAX_RUNTIME_EVENTS}")
    return events


def _runtime_event(fields: Fields) -> RuntimeEvent:
    payload = fields.text("payload", _HEX)
    if len(payload) > 2 * MAX_PAYLOAD:
        fields.fail("payload", f"is larger than {MAX_PAYLOAD} bytes")
    return RuntimeEvent(fields.text("name", _NAME), bytes.fromhex(payload))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _error(reason: str) -> EvidenceError:
    return EvidenceError(
        reason, subject="evidence", advice="take the evidence again from the guest; it cannot be mended"
    )
