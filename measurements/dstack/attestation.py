"""dstack's versioned attestations (``dstack/dstack-attest/src/attestation.rs``, ``v1.rs``).

Version 0 is SCALE::

    u8 0 | u8 platform | platform | list of runtime events | 64 bytes report data | text config

    platform 0 (TDX)            byte string quote, list of events
    platform 1 (TDX at GCP)     the same, and a TPM quote
    platform 2 (Nitro enclave)  byte string document
    platform 3 (SEV-SNP)        byte string report, list of byte strings (certificates, PEM), text mr_config
    platform 4 (NitroTPM)       byte string document

An event is u32 register, u32 type, byte string digest, text name, byte string payload; a runtime event a text
and a byte string, of digest version 1. A TPM quote (``dstack/tpm-types/src/lib.rs``) is byte strings
TPMS_ATTEST and TPMT_SIGNATURE, list of (u32 index, text bank, byte string value), byte string AK certificate,
u8 platform, list of (u32 index, byte string digest), which is passed over.

Version 1 is MessagePack, which starts with a map: ``attestation_msgpack``.

The log of an attestation is stripped: of RTMR0 to RTMR2 it keeps only the three ACPI digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from measurements.dstack.errors import DstackInputError
from measurements.dstack.event_log import MAX_EVENTS, MAX_LOG, LogEvent, log_event, runtime_events
from measurements.dstack.json_documents import refuse
from measurements.dstack.runtime_events import LogVersion, RuntimeEvent
from measurements.dstack.scale_reader import ScaleReader
from measurements.dstack.vm_config import MAX_DOCUMENT

SUBJECT = "attestation"
MAX_ATTESTATION = 10 << 20
"""dstack's own limit in bytes."""
MAX_QUOTE, MAX_NAME, MAX_CERTIFICATES = 1 << 16, 256, 8
MAX_PCRS = 128
REPORT_DATA_SIZE = 64
SNP_REPORT_SIZE = 1184


class DstackPlatform(IntEnum):
    """Platforms, in the numbers of version 0."""

    TDX = 0
    GCP_TDX = 1
    NITRO_ENCLAVE = 2
    SNP = 3
    NITRO_TPM = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DstackTpmQuote:
    """A TPM's quote with its AK's certificate (DER) and the registers, by bank and index."""

    message: bytes
    signature: bytes
    pcrs: Mapping[str, Mapping[int, bytes]]
    ak_certificate: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DstackAttestation:
    """One attestation as it is; ``report`` is the quote, report or document. ``config`` is ``vm_config``."""

    platform: DstackPlatform
    report: bytes
    report_data: bytes
    config: bytes
    runtime: tuple[RuntimeEvent, ...]
    log: tuple[LogEvent, ...] = ()
    certificates: tuple[bytes, ...] = ()
    mr_config: bytes = b""
    tpm: DstackTpmQuote | None = None


def parse_scale_attestation(data: bytes) -> DstackAttestation:
    """Read version 0; raises ``DstackFormatError``."""
    if len(data) > MAX_ATTESTATION:
        refuse(SUBJECT, f"has {len(data)} bytes, more than {MAX_ATTESTATION}")
    reader = ScaleReader(data, subject=SUBJECT)
    version, number = reader.number(1), reader.number(1)
    if version != 0:
        refuse(SUBJECT, f"starts with {version:#04x}: it is of a later form than version 0")
    if number not in set(DstackPlatform):
        refuse(SUBJECT, f"is of platform {number}; known are 0 to {max(DstackPlatform)}")
    platform = DstackPlatform(number)
    report = reader.octets(most=MAX_QUOTE)
    log: tuple[LogEvent, ...] = ()
    certificates: tuple[bytes, ...] = ()
    mr_config, tpm = b"", None
    if platform in (DstackPlatform.TDX, DstackPlatform.GCP_TDX):
        log = tuple(_log_event(reader, place) for place in range(reader.length(most=MAX_EVENTS)))
        tpm = _tpm_quote(reader) if platform is DstackPlatform.GCP_TDX else None
    elif platform is DstackPlatform.SNP:
        certificates = tuple(
            reader.octets(most=MAX_QUOTE) for _ in range(reader.length(most=MAX_CERTIFICATES))
        )
        mr_config = reader.octets(most=MAX_QUOTE)
    runtime = tuple(
        runtime_event(reader.text(most=MAX_NAME), reader.octets(most=MAX_LOG))
        for _ in range(reader.length(most=MAX_EVENTS))
    )
    report_data = reader.take(REPORT_DATA_SIZE)
    config = reader.octets(most=MAX_DOCUMENT)
    reader.end()
    return checked(
        DstackAttestation(
            platform=platform,
            report=report,
            report_data=report_data,
            config=config,
            runtime=runtime,
            log=log,
            certificates=certificates,
            mr_config=mr_config,
            tpm=tpm,
        )
    )


def checked(found: DstackAttestation) -> DstackAttestation:
    """``found``, whose parts must fit each other."""
    if found.platform is DstackPlatform.SNP and len(found.report) != SNP_REPORT_SIZE:
        refuse(SUBJECT, f"has a report of {len(found.report)} bytes, not {SNP_REPORT_SIZE}")
    has_log = found.platform in (DstackPlatform.TDX, DstackPlatform.GCP_TDX)
    if has_log and tuple(_content(found.runtime)) != tuple(_content(runtime_events(found.log))):
        refuse(SUBJECT, "has other runtime events in its log than beside it")
    return found


def pcr_table(values: list[tuple[int, str, bytes]]) -> Mapping[str, Mapping[int, bytes]]:
    """Registers by bank; refuses one that is there twice."""
    found: dict[str, dict[int, bytes]] = {}
    for index, bank, value in values:
        registers = found.setdefault(bank, {})
        if index in registers:
            refuse(SUBJECT, f"has PCR {index} of bank {bank} twice")
        registers[index] = value
    return found


def runtime_event(name: str, payload: bytes, version: LogVersion = LogVersion.V1) -> RuntimeEvent:
    """An event; raises ``DstackFormatError`` for a name that is none."""
    try:
        return RuntimeEvent(name=name, payload=payload, version=version)
    except DstackInputError as error:
        refuse(SUBJECT, error.reason)


def _content(events: tuple[RuntimeEvent, ...]) -> list[tuple[str, bytes]]:
    return [(event.name, event.payload) for event in events]


def _log_event(reader: ScaleReader, place: int) -> LogEvent:
    register, event_type = reader.number(4), reader.number(4)
    digest = reader.octets(most=MAX_NAME)
    name, payload = reader.text(most=MAX_NAME), reader.octets(most=MAX_LOG)
    return log_event(
        register=register,
        event_type=event_type,
        stated=digest,
        name=name,
        payload=payload,
        subject=f"{SUBJECT}, event {place}",
    )


def _tpm_quote(reader: ScaleReader) -> DstackTpmQuote:
    message, signature = reader.octets(most=MAX_QUOTE), reader.octets(most=MAX_QUOTE)
    values = [
        (reader.number(4), reader.text(most=MAX_NAME), reader.octets(most=MAX_NAME))
        for _ in range(reader.length(most=MAX_PCRS))
    ]
    certificate = reader.octets(most=MAX_QUOTE)
    reader.number(1)
    for _ in range(reader.length(most=MAX_EVENTS)):
        reader.number(4)
        reader.octets(most=MAX_NAME)
    return DstackTpmQuote(
        message=message, signature=signature, pcrs=pcr_table(values), ak_certificate=certificate
    )
