"""What an evidence container holds, for people: its parts, and the fields that they claim.

Nothing here is verified: whoever made the evidence chose every field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from attestation.container import EvidenceContainer, EvidencePlatform, GpuPart, TpmPart
from attestation.container_codec import container_hash
from attestation.tpm_structures import parse_quote as parse_tpm_quote
from attestation.x509_chain import load_certificate
from measurements.errors import KeyturnError
from measurements.nitro.document import parse_document
from measurements.sev.report import parse_report
from measurements.tdx.quote import parse_quote

_SGX_BODY = 48
_SGX_FIELDS = {"mrenclave": (64, 32), "mrsigner": (128, 32), "report_data": (320, 64)}


class Claim(NamedTuple):
    """One line: the part, the field, what it says."""

    part: str
    field: str
    value: str


def container_claims(container: EvidenceContainer) -> tuple[Claim, ...]:
    """All lines, in the order of the container."""
    return (
        Claim("container", "hash", container_hash(container).hex()),
        Claim("container", "platform", container.platform.value),
        Claim("container", "origin", container.origin),
        *_report(container),
        *(_certificate(der, f"certificate {place}") for place, der in enumerate(container.certificates)),
        *(() if container.tpm is None else _tpm(container.tpm)),
        *(
            Claim("log", log.format.value, f"{len(log.data)} bytes, sha256 {_sha256(log.data)}")
            for log in container.logs
        ),
        *(claim for place, gpu in enumerate(container.gpus) for claim in _gpu(gpu, f"gpu {place}")),
        *_collateral(container),
        *(
            Claim("document", name, f"{len(data)} bytes, sha256 {_sha256(data)}")
            for name, data in (
                ("app manifest", container.app_manifest),
                ("shape", container.shape),
                ("reference", container.reference),
            )
            if data is not None
        ),
    )


def _report(container: EvidenceContainer) -> Iterator[Claim]:
    data = container.report
    if not data:
        return
    yield Claim("report", "size", f"{len(data)} bytes, sha256 {_sha256(data)}")
    try:
        fields = _READERS[container.platform](data)
    except KeyturnError as error:
        yield Claim("report", "unreadable", error.reason)
        return
    for name, value in fields.items():
        yield Claim("report", name, value)


def _td_fields(data: bytes) -> Mapping[str, str]:
    quote = parse_quote(data)
    body = quote.body
    return {
        "version": str(quote.version),
        "tee_tcb_svn": body.tee_tcb_svn.hex(),
        "td_attributes": body.td_attributes.hex(),
        "debug": str(body.debug).lower(),
        **{name: value.hex() for name, value in body.registers().items()},
        "mrseam": body.mrseam.hex(),
        "report_data": body.report_data.hex(),
    }


def _sgx_fields(data: bytes) -> Mapping[str, str]:
    body = data[_SGX_BODY:]
    return {
        "version": str(int.from_bytes(data[:2], "little")),
        **{name: body[at : at + size].hex() for name, (at, size) in _SGX_FIELDS.items()},
    }


def _quote_fields(data: bytes) -> Mapping[str, str]:
    return _td_fields(data) if data[4:8] == b"\x81\0\0\0" else _sgx_fields(data)


def _snp_fields(data: bytes) -> Mapping[str, str]:
    report = parse_report(data)
    return {
        "version": str(report.version),
        "policy": f"{report.policy:#x}",
        "vmpl": str(report.vmpl),
        "signing_key": report.signing_key.name,
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "report_data": report.report_data.hex(),
        "chip_id": report.chip_id.hex(),
        "reported_tcb": str(report.reported_tcb),
        "committed_tcb": str(report.committed_tcb),
        "launch_tcb": str(report.launch_tcb),
    }


def _nitro_fields(data: bytes) -> Mapping[str, str]:
    document = parse_document(data)
    moment = datetime.fromtimestamp(min(document.timestamp // 1000, 1 << 36), UTC)
    return {
        "module": document.module,
        "timestamp": moment.isoformat(),
        **{f"pcr{number}": value.hex() for number, value in sorted(document.pcrs.items()) if any(value)},
        **{
            name: value.hex()
            for name, value in (("user_data", document.user_data), ("nonce", document.nonce))
            if value is not None
        },
    }


_READERS: Mapping[EvidencePlatform, Callable[[bytes], Mapping[str, str]]] = {
    EvidencePlatform.TDX: _quote_fields,
    EvidencePlatform.SGX: _quote_fields,
    EvidencePlatform.SIM: _quote_fields,
    EvidencePlatform.SNP: _snp_fields,
    EvidencePlatform.NITRO: _nitro_fields,
    EvidencePlatform.TPM: lambda _data: {},
}


def _tpm(part: TpmPart) -> Iterator[Claim]:
    try:
        quote = parse_tpm_quote(part.quote)
    except KeyturnError as error:
        yield Claim("tpm", "quote", f"unreadable: {error.reason}")
    else:
        yield Claim("tpm", "qualifying data", quote.extra_data.hex())
        yield Claim("tpm", "resets", f"{quote.reset_count}, restarts {quote.restart_count}")
    for bank, registers in part.pcrs.items():
        for number, value in sorted(registers.items()):
            if any(value):
                yield Claim("tpm", f"{bank}:{number}", value.hex())
    for name, der in (("EK certificate", part.ek_certificate), ("AK certificate", part.ak_certificate)):
        if der is not None:
            yield _certificate(der, name)
    for name, data in (
        ("HCL report", part.hcl_report),
        ("Nitro document", part.nitro_document),
        ("activated secret", part.activated_secret),
    ):
        if data is not None:
            yield Claim("tpm", name, f"{len(data)} bytes")


def _gpu(part: GpuPart, place: str) -> Iterator[Claim]:
    yield Claim(place, "architecture", part.architecture)
    yield Claim(place, "nonce", part.nonce.hex())
    yield Claim(place, "report", f"{len(part.report)} bytes, {len(part.certificates)} certificates")


def _collateral(container: EvidenceContainer) -> Iterator[Claim]:
    held = container.collateral
    for name, count in (
        ("DCAP sets", len(held.dcap)),
        ("early DCAP sets", len(held.early)),
        ("certificates", len(held.certificates)),
        ("revocation lists", len(held.crls)),
        ("RIMs", len(held.rims)),
        ("OCSP answers", len(held.ocsp)),
    ):
        if count:
            yield Claim("collateral", name, str(count))


def _certificate(der: bytes, place: str) -> Claim:
    try:
        certificate = load_certificate(der)
    except KeyturnError as error:
        return Claim(place, "unreadable", error.reason)
    until = certificate.not_valid_after_utc.date().isoformat()
    return Claim(place, "subject", f"{certificate.subject.rfc4514_string()}, valid until {until}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
