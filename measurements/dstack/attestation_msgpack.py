"""Version 1 of dstack's attestations: MessagePack (``dstack/dstack-attest/src/v1.rs``)::

    {"version": 1,
     "platform": {"kind": kind, "data": {...}},
     "stack": {"kind": "dstack" | "dstack-pod",
               "data": {"report_data", "runtime_events", "config" (, "report_data_payload")}}}

    kind "tdx"            {"quote", "event_log"}
    kind "gcp-tdx"        {"quote", "event_log", "tpm_quote"}
    kind "nitro-enclave"  {"nsm_quote"}
    kind "sev-snp"        {"report", "cert_chain", "mr_config"}
    kind "aws-nitro-tpm"  {"attestation_doc"}

Byte strings are written as such or as arrays of numbers. An event is {"imr", "event_type", "digest", "event",
"event_payload" (, "version", "preimage")}, a runtime event {"event", "payload" (, "version")}, a TPM quote
{"message", "signature", "pcr_values": [{"index", "algorithm", "value"}], "ak_cert", "platform",
"event_log"}, of which the last two are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from measurements.dstack.attestation import (
    MAX_ATTESTATION,
    MAX_CERTIFICATES,
    MAX_PCRS,
    REPORT_DATA_SIZE,
    SUBJECT,
    DstackAttestation,
    DstackPlatform,
    DstackTpmQuote,
    checked,
    parse_scale_attestation,
    pcr_table,
    runtime_event,
)
from measurements.dstack.event_log import MAX_EVENTS, LogEvent, log_event
from measurements.dstack.json_documents import closed_object, integer, refuse, text
from measurements.dstack.msgpack_reader import MsgpackReader
from measurements.dstack.runtime_events import LogVersion, RuntimeEvent

_REPORTS = {
    "tdx": (DstackPlatform.TDX, "quote"),
    "gcp-tdx": (DstackPlatform.GCP_TDX, "quote"),
    "nitro-enclave": (DstackPlatform.NITRO_ENCLAVE, "nsm_quote"),
    "sev-snp": (DstackPlatform.SNP, "report"),
    "aws-nitro-tpm": (DstackPlatform.NITRO_TPM, "attestation_doc"),
}
_OTHERS = {
    DstackPlatform.TDX: {"event_log"},
    DstackPlatform.GCP_TDX: {"event_log", "tpm_quote"},
    DstackPlatform.SNP: {"cert_chain", "mr_config"},
}
_STACK = frozenset({"report_data", "runtime_events", "config"})
_EVENT = frozenset({"imr", "event_type", "event", "event_payload"})
_TPM = frozenset({"message", "signature", "pcr_values", "ak_cert", "platform", "event_log"})
_Item = TypeVar("_Item")


def is_map(first: int) -> bool:
    """Whether this first byte begins a map, as attestations of version 1 do."""
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)


def parse_attestation(data: bytes) -> DstackAttestation:
    """Read an attestation of version 0 or 1; raises ``DstackFormatError``."""
    if not data or not is_map(data[0]):
        return parse_scale_attestation(data)
    if len(data) > MAX_ATTESTATION:
        refuse(SUBJECT, f"has {len(data)} bytes, more than {MAX_ATTESTATION}")
    document = MsgpackReader(data, subject=SUBJECT).document()
    fields = _closed(document, {"version", "platform", "stack"}, "")
    if fields["version"] != 1:
        refuse(SUBJECT, f"has version {fields['version']!r}, not 1")
    platform = _closed(fields["platform"], {"kind", "data"}, "platform")
    kind = text(platform["kind"], subject=f"{SUBJECT}, platform.kind")
    if kind not in _REPORTS:
        refuse(SUBJECT, f"is of platform {kind[:32]!r}; known are {', '.join(_REPORTS)}")
    return _attestation(kind, platform["data"], fields["stack"])


def _attestation(kind: str, data: object, stack: object) -> DstackAttestation:
    number, report = _REPORTS[kind]
    evidence = _closed(data, {report, *_OTHERS.get(number, ())}, "platform.data")
    outer = _closed(stack, {"kind", "data"}, "stack")
    pod = {"report_data_payload"} if outer["kind"] == "dstack-pod" else set()
    if outer["kind"] not in ("dstack", "dstack-pod"):
        refuse(SUBJECT, "has a stack that is neither dstack nor dstack-pod")
    inner = _closed(outer["data"], _STACK | pod, "stack.data")
    report_data = _octets(inner["report_data"], "report_data")
    if len(report_data) != REPORT_DATA_SIZE:
        refuse(SUBJECT, f"has {len(report_data)} bytes of report data, not {REPORT_DATA_SIZE}")
    return checked(
        DstackAttestation(
            platform=number,
            report=_octets(evidence[report], report),
            report_data=report_data,
            config=text(inner["config"], subject=f"{SUBJECT}, config").encode("utf-8"),
            runtime=_items(inner["runtime_events"], MAX_EVENTS, _runtime, "runtime_events"),
            log=_items(evidence.get("event_log", []), MAX_EVENTS, _event, "event_log"),
            certificates=_items(evidence.get("cert_chain", []), MAX_CERTIFICATES, _octets, "cert_chain"),
            mr_config=text(evidence.get("mr_config", ""), subject=f"{SUBJECT}, mr_config").encode("utf-8"),
            tpm=_tpm_quote(evidence["tpm_quote"]) if "tpm_quote" in evidence else None,
        )
    )


def _tpm_quote(value: object) -> DstackTpmQuote:
    fields = _closed(value, _TPM, "tpm_quote")
    return DstackTpmQuote(
        message=_octets(fields["message"], "message"),
        signature=_octets(fields["signature"], "signature"),
        pcrs=pcr_table(list(_items(fields["pcr_values"], MAX_PCRS, _pcr, "pcr_values"))),
        ak_certificate=_octets(fields["ak_cert"], "ak_cert"),
    )


def _pcr(value: object, path: str) -> tuple[int, str, bytes]:
    fields = _closed(value, {"index", "algorithm", "value"}, path)
    return (
        integer(fields["index"], subject=f"{SUBJECT}, {path}", highest=31),
        text(fields["algorithm"], subject=f"{SUBJECT}, {path}"),
        _octets(fields["value"], path),
    )


def _event(value: object, path: str) -> LogEvent:
    subject = f"{SUBJECT}, {path}"
    fields = closed_object(
        value, required=_EVENT, optional=frozenset({"digest", "version", "preimage"}), subject=subject
    )
    event = log_event(
        register=integer(fields["imr"], subject=subject, highest=(1 << 32) - 1),
        event_type=integer(fields["event_type"], subject=subject, highest=(1 << 32) - 1),
        stated=_octets(fields.get("digest", b""), path),
        name=text(fields["event"], subject=subject),
        payload=_octets(fields["event_payload"], path),
        subject=subject,
        version=_version(fields, path),
    )
    preimage = fields.get("preimage")
    if preimage is not None and (
        event.runtime is None or _octets(preimage, path) != event.runtime.preimage()
    ):
        refuse(subject, "has a preimage that is not that of its name, payload and version")
    return event


def _runtime(value: object, path: str) -> RuntimeEvent:
    fields = closed_object(
        value,
        required=frozenset({"event", "payload"}),
        optional=frozenset({"version"}),
        subject=f"{SUBJECT}, {path}",
    )
    name = text(fields["event"], subject=f"{SUBJECT}, {path}")
    return runtime_event(name, _octets(fields["payload"], path), _version(fields, path))


def _version(fields: Mapping[str, object], path: str) -> LogVersion:
    number = integer(fields.get("version", 1), subject=f"{SUBJECT}, {path}", lowest=1, highest=2)
    return LogVersion(number)


def _closed(value: object, keys: set[str] | frozenset[str], path: str) -> Mapping[str, object]:
    subject = f"{SUBJECT}, {path}" if path else SUBJECT
    return closed_object(value, required=frozenset(keys), optional=frozenset(), subject=subject)


def _octets(value: object, path: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 256 for item in value):
        refuse(SUBJECT, f"has at {path} neither bytes nor a list of them")
    return bytes(value)


def _items(value: object, most: int, read: Callable[[object, str], _Item], path: str) -> tuple[_Item, ...]:
    if not isinstance(value, list) or len(value) > most:
        refuse(SUBJECT, f"has at {path} no list of up to {most} items")
    return tuple(read(item, f"{path}[{index}]") for index, item in enumerate(value))
