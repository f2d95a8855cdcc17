"""dstack: answers of its guest agent and its versioned attestations.

- ``GetQuote`` and ``quote-report.json``: ``quote`` (hex), ``event_log`` (a text with JSON), ``report_data``,
  ``vm_config``; of the older ``tappd`` also ``hash_algorithm`` and ``prefix``;
- ``Attest``: ``attestation``, hex of a versioned attestation;
- a versioned attestation as bytes (``measurements.dstack.attestation``), of TDX, TDX at Google, SEV-SNP,
  Nitro enclaves and NitroTPMs.

The event log becomes a dstack log, as it was or written as the JSON that dstack would write of it. The host's
``vm_config``, which nothing signs, becomes the shape. A TPM quote names no public area of its key: that
follows from the AK's certificate, by the template of ``attestation.tpm.ak_public``. Not kept are the digests
without data that go with it as its log, and the runtime events beside a log (for SEV-SNP and Nitro no
register holds them).
"""

from __future__ import annotations

import json

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat, TpmPart
from attestation.importers.dcap_quotes import exact_quote, import_quote
from attestation.importers.nitro_documents import import_document
from attestation.importers.source import JsonObject, closed, hex_octets, refuse, text
from attestation.tpm.ak_public import standard_ak_public
from attestation.x509_chain import MALFORMED, load_pem_certificates
from measurements.dstack.attestation import DstackAttestation, DstackPlatform, DstackTpmQuote
from measurements.dstack.attestation_msgpack import is_map, parse_attestation
from measurements.dstack.event_log import LogEvent, parse_event_log
from measurements.dstack.runtime_events import LogVersion

_REPORT_KEYS = "report_data vm_config hash_algorithm prefix"
_PEM = b"-----BEGIN"


def looks_like_attestation(data: bytes) -> bool:
    """Whether it starts as a versioned attestation: 0 and a platform, or a map of three with ``version``."""
    scale = len(data) > 2 and data[0] == 0 and data[1] in set(DstackPlatform)
    return scale or (len(data) > 2 and is_map(data[0]) and b"version" in data[:16])


def import_attestation(data: bytes) -> EvidenceContainer:
    """A versioned attestation; raises ``KeyturnError``."""
    found = parse_attestation(data)
    if found.platform in (DstackPlatform.NITRO_ENCLAVE, DstackPlatform.NITRO_TPM):
        base = import_document(found.report)
    elif found.platform is DstackPlatform.SNP:
        base = EvidenceContainer(platform=EvidencePlatform.SNP, report=found.report)
    else:
        base = import_quote(found.report)
    return EvidenceContainer(
        platform=base.platform,
        report=base.report,
        certificates=_certificates(found),
        tpm=None if found.tpm is None else _tpm_part(found.tpm),
        logs=_log(_written_log(found.log)) if found.log else (),
        shape=found.config or None,
        origin="dstack-attestation",
    )


def import_attest(fields: JsonObject) -> EvidenceContainer:
    """The answer of ``Attest``."""
    closed(fields, "attestation", what="dstack report")
    return import_attestation(hex_octets(fields["attestation"], what="dstack report, attestation"))


def import_quote_report(fields: JsonObject) -> EvidenceContainer:
    """The answer of ``GetQuote``."""
    closed(fields, "quote event_log", _REPORT_KEYS, what="dstack report")
    quote = exact_quote(hex_octets(fields["quote"], what="dstack report, quote"))
    log = text(fields["event_log"], what="dstack report, event_log").encode("utf-8")
    if log:
        parse_event_log(log)
    config = text(fields.get("vm_config", ""), what="dstack report, vm_config")
    return EvidenceContainer(
        platform=import_quote(quote).platform,
        report=quote,
        logs=_log(log) if log else (),
        shape=config.encode("utf-8") or None,
        origin="dstack-quote",
    )


def _certificates(found: DstackAttestation) -> tuple[bytes, ...]:
    """DER, of certificates in PEM or DER; each once."""
    certificates: list[bytes] = []
    for one in found.certificates:
        pem = one.lstrip().startswith(_PEM)
        certificates += load_pem_certificates(one, what="dstack attestation") if pem else [one]
    return tuple(dict.fromkeys(certificates))


def _tpm_part(quote: DstackTpmQuote) -> TpmPart:
    return TpmPart(
        quote=quote.message,
        signature=quote.signature,
        ak_public=certificate_ak_public(quote.ak_certificate),
        pcrs=quote.pcrs,
        ak_certificate=quote.ak_certificate,
    )


def certificate_ak_public(certificate: bytes) -> bytes:
    """TPMT_PUBLIC of the key that a certificate (DER) is for; raises ``KeyturnError``."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except MALFORMED:
        refuse("is no certificate in DER", what="AK certificate")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        refuse("is for a key that is neither RSA nor ECC", what="AK certificate")
    return standard_ak_public(key.public_numbers())


def _log(data: bytes) -> tuple[Log, ...]:
    return (Log(format=LogFormat.DSTACK, data=data),)


def _written_log(events: tuple[LogEvent, ...]) -> bytes:
    """The JSON array of the events (``measurements.dstack.event_log``)."""
    return json.dumps([_written(event) for event in events], separators=(",", ":")).encode("utf-8")


def _written(event: LogEvent) -> dict[str, object]:
    written: dict[str, object] = {
        "imr": event.register,
        "event_type": event.event_type,
        "digest": event.stated.hex() if event.stated else "",
        "event": event.name,
        "event_payload": event.payload.hex(),
    }
    if event.runtime is not None and event.runtime.version is not LogVersion.V1:
        written["version"] = int(event.runtime.version)
    return written
