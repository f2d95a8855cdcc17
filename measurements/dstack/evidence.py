"""What a dstack guest gives to whoever asks what it is: a report, in the forms that dstack has.

JSON, one of (``GetQuoteResponse`` and the verifier's fixtures of dstack):

- ``quote`` (hex), ``event_log`` (a text with the JSON of ``event_log``), ``report_data`` (hex), ``vm_config``
  (a text with JSON; absent before 0.5); of the older ``tappd`` also ``hash_algorithm`` and ``prefix``;
- ``attestation``: hex of a SCALE container (``dstack/dstack-attest/src/attestation.rs``, version 0)::

      u8 0 | u8 platform | platform | list of runtime events | 64 bytes report data | text vm_config

  Platform 0 (TDX): byte string quote, list of (u32 register, u32 type, byte string digest, text name, byte
  string payload). Platform 3 (SEV-SNP): byte string report, list of byte strings (certificates, PEM), text
  mr_config. A runtime event is a text and a byte string, of digest version 1.

The log of a container is stripped: of RTMR0 to RTMR2 it keeps only the three ACPI digests. Containers that
start as a msgpack map are of a later form, which is not read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from measurements.dstack.errors import DstackInputError
from measurements.dstack.event_log import (
    MAX_EVENTS,
    MAX_LOG,
    LogEvent,
    log_event,
    parse_event_log,
    runtime_events,
)
from measurements.dstack.json_documents import as_object, octets, parse_document, refuse, text
from measurements.dstack.runtime_events import RuntimeEvent
from measurements.dstack.scale_reader import ScaleReader
from measurements.dstack.vm_config import MAX_DOCUMENT, VmConfig, parse_vm_config

MAX_REPORT = 16 << 20
REPORT_DATA_SIZE = 64
SNP_REPORT_SIZE = 1184
_SUBJECT = "dstack report"
_CONTAINER = "attestation"
_TDX, _SNP = 0, 3
_MAX_QUOTE, _MAX_NAME, _MAX_CERTIFICATES = 1 << 16, 256, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxEvidence:
    """A TDX guest's report. ``log`` is whole, or ``stripped`` of what RTMR0 to RTMR2 hold beside ACPI."""

    quote: bytes
    log: tuple[LogEvent, ...]
    stripped: bool
    report_data: bytes
    vm_config: VmConfig | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpEvidence:
    """An SEV-SNP guest's report. ``runtime`` is in no register: the guest only says so."""

    report: bytes
    certificates: tuple[bytes, ...]
    mr_config: bytes
    runtime: tuple[RuntimeEvent, ...]
    report_data: bytes
    vm_config: VmConfig


def parse_report(data: bytes) -> TdxEvidence | SnpEvidence:
    """Read a report in any of the forms above; raises ``DstackFormatError``."""
    fields = as_object(parse_document(data, subject=_SUBJECT, limit=MAX_REPORT), subject=_SUBJECT)
    if _CONTAINER in fields and "quote" not in fields:
        container = octets(fields[_CONTAINER], subject=f"{_SUBJECT}, {_CONTAINER}")
        return parse_container(container)
    return _quote_response(fields)


def parse_container(data: bytes) -> TdxEvidence | SnpEvidence:
    """Read a SCALE container; raises ``DstackFormatError``."""
    reader = ScaleReader(data, subject=_CONTAINER)
    version, platform = reader.number(1), reader.number(1)
    if version != 0:
        refuse(_CONTAINER, f"starts with {version:#04x}: it is of a later form than version 0")
    if platform not in (_TDX, _SNP):
        refuse(_CONTAINER, f"is of platform {platform}; only TDX (0) and SEV-SNP (3) are judged here")
    return _tdx(reader) if platform == _TDX else _snp(reader)


def _quote_response(fields: Mapping[str, object]) -> TdxEvidence:
    for key in ("quote", "event_log", "report_data"):
        if key not in fields:
            if key == "report_data" and "prefix" in fields:
                continue
            refuse(_SUBJECT, f"has no {key}")
    quote = octets(fields["quote"], subject=f"{_SUBJECT}, quote")
    log = text(fields["event_log"], subject=f"{_SUBJECT}, event_log")
    config = text(fields.get("vm_config", ""), subject=f"{_SUBJECT}, vm_config")
    return TdxEvidence(
        quote=quote,
        log=parse_event_log(log.encode("utf-8")),
        stripped=False,
        report_data=octets(fields.get("report_data", ""), subject=f"{_SUBJECT}, report_data"),
        vm_config=parse_vm_config(config.encode("utf-8")) if config else None,
    )


def _tdx(reader: ScaleReader) -> TdxEvidence:
    quote = reader.octets(most=_MAX_QUOTE)
    log = tuple(_log_event(reader, number) for number in range(reader.length(most=MAX_EVENTS)))
    runtime, report_data, config = _tail(reader)
    if runtime != runtime_events(log):
        refuse(_CONTAINER, "has other runtime events in its log than beside it")
    return TdxEvidence(
        quote=quote, log=log, stripped=True, report_data=report_data, vm_config=parse_vm_config(config)
    )


def _snp(reader: ScaleReader) -> SnpEvidence:
    report = reader.octets(most=SNP_REPORT_SIZE)
    if len(report) != SNP_REPORT_SIZE:
        refuse(_CONTAINER, f"has a report of {len(report)} bytes, not {SNP_REPORT_SIZE}")
    count = reader.length(most=_MAX_CERTIFICATES)
    certificates = tuple(reader.octets(most=_MAX_QUOTE) for _ in range(count))
    mr_config = reader.octets(most=_MAX_QUOTE)
    runtime, report_data, config = _tail(reader)
    return SnpEvidence(
        report=report,
        certificates=certificates,
        mr_config=mr_config,
        runtime=runtime,
        report_data=report_data,
        vm_config=parse_vm_config(config),
    )


def _tail(reader: ScaleReader) -> tuple[tuple[RuntimeEvent, ...], bytes, bytes]:
    """Runtime events, report data and configuration, which end every container."""
    events = tuple(
        _runtime_event(reader.text(most=_MAX_NAME), reader.octets(most=MAX_LOG))
        for _ in range(reader.length(most=MAX_EVENTS))
    )
    report_data = reader.take(REPORT_DATA_SIZE)
    config = reader.octets(most=MAX_DOCUMENT)
    reader.end()
    return events, report_data, config


def _log_event(reader: ScaleReader, number: int) -> LogEvent:
    register, event_type = reader.number(4), reader.number(4)
    digest = reader.octets(most=_MAX_NAME)
    name, payload = reader.text(most=_MAX_NAME), reader.octets(most=MAX_LOG)
    return log_event(
        register=register,
        event_type=event_type,
        stated=digest,
        name=name,
        payload=payload,
        subject=f"{_CONTAINER}, event {number}",
    )


def _runtime_event(name: str, payload: bytes) -> RuntimeEvent:
    try:
        return RuntimeEvent(name=name, payload=payload)
    except DstackInputError as error:
        refuse(_CONTAINER, error.reason)
