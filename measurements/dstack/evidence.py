"""What a dstack guest gives to whoever asks what it is: a report, in the forms that dstack has.

JSON, one of (``GetQuoteResponse`` and the verifier's fixtures of dstack):

- ``quote`` (hex), ``event_log`` (a text with the JSON of ``event_log``), ``report_data`` (hex), ``vm_config``
  (a text with JSON; absent before 0.5); of the older ``tappd`` also ``hash_algorithm`` and ``prefix``;
- ``attestation``: hex of a versioned attestation of TDX or SEV-SNP (modules ``attestation`` and
  ``attestation_msgpack``).

The log of an attestation is stripped: of RTMR0 to RTMR2 it keeps only the three ACPI digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from measurements.dstack.attestation import DstackAttestation, DstackPlatform
from measurements.dstack.attestation_msgpack import parse_attestation
from measurements.dstack.event_log import LogEvent, parse_event_log
from measurements.dstack.json_documents import as_object, octets, parse_document, refuse, text
from measurements.dstack.runtime_events import RuntimeEvent
from measurements.dstack.vm_config import VmConfig, parse_vm_config

MAX_REPORT = 16 << 20
_SUBJECT = "dstack report"
_CONTAINER = "attestation"


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
    """Read a versioned attestation; raises ``DstackFormatError``."""
    return attestation_evidence(parse_attestation(data))


def attestation_evidence(found: DstackAttestation) -> TdxEvidence | SnpEvidence:
    """The evidence of an attestation of TDX or SEV-SNP; raises ``DstackFormatError`` for the others."""
    if found.platform is DstackPlatform.TDX:
        return TdxEvidence(
            quote=found.report,
            log=found.log,
            stripped=True,
            report_data=found.report_data,
            vm_config=parse_vm_config(found.config),
        )
    if found.platform is not DstackPlatform.SNP:
        refuse(_CONTAINER, f"is of platform {found.platform}; only TDX (0) and SEV-SNP (3) are judged here")
    return SnpEvidence(
        report=found.report,
        certificates=found.certificates,
        mr_config=found.mr_config,
        runtime=found.runtime,
        report_data=found.report_data,
        vm_config=parse_vm_config(found.config),
    )


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
