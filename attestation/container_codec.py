"""The evidence container as bytes: ``keyturn-evidence/2``.

One CBOR map in core deterministic encoding (RFC 8949 section 4.2.1), with nothing after it. All keys are
always there; what is absent is null, an empty list or an empty byte string, so a container has one form::

    "type"          "keyturn-evidence/2"
    "platform"      "tdx" | "sgx" | "snp" | "nitro" | "tpm" | "sim"
    "origin"        text, 1 to 64 printable ASCII characters: the importer
    "report"        bytes; empty exactly for platform "tpm"
    "certificates"  [bytes, …]                        DER, each once
    "tpm"           null | {"quote", "signature", "ak_public": bytes,
                            "pcrs": {bank: {register number: bytes}},
                            "ek_certificate", "ak_certificate", "hcl_report",
                            "nitro_document", "activated_secret": null | bytes}
    "logs"          [{"format": "tcg2" | "ccel" | "dstack" | "keyturn", "data": bytes}, …]
    "gpus"          [{"architecture": text, "report": bytes, "certificates": [bytes, …], "nonce": bytes}, …]
    "collateral"    structure of ``attestation.collateral_bundle``
    "app_manifest", "shape", "reference"              null | bytes

Limits are below: of the whole, of each part, of each list. A reader refuses anything that does not encode to
the same bytes again. ``attestation.container_json`` is the form for people; ``container_hash`` names evidence
in verdicts: ``SHA-256(lp("keyturn-evidence/2") ‖ CBOR)`` with ``lp(x) = u32be(len(x)) ‖ x``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NoReturn

from attestation.collateral_bundle import collateral_document, parse_collateral_document
from attestation.container import EvidenceContainer, EvidencePlatform, GpuPart, Log, LogFormat, TpmPart
from measurements.document_fields import DocumentFields
from measurements.errors import FormatError
from measurements.strict_cbor import encode_deterministic_cbor, parse_deterministic_cbor

TYPE = "keyturn-evidence/2"

MAX_CONTAINER = 4 << 20
"""Bytes of the whole."""
MAX_REPORT = 64 << 10
MAX_CERTIFICATE = 16 << 10
MAX_CERTIFICATES = 64
MAX_TPM_STRUCTURE = 4 << 10
"""Quote, signature and public area of a TPM, each."""
MAX_HCL_REPORT = 16 << 10
MAX_NITRO_DOCUMENT = 32 << 10
MAX_SECRET = 128
MAX_LOG = 1 << 20
MAX_LOGS = 8
MAX_GPUS = 32
MAX_GPU_CERTIFICATES = 16
MAX_NONCE = 64
MAX_APP_MANIFEST = 1 << 20
MAX_SHAPE = 64 << 10
MAX_REFERENCE = 256 << 10
MAX_REGISTER = 31
"""Highest number of a PCR."""
BANK_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
"""Bytes of a register by bank."""

KEYS = (
    "type",
    "platform",
    "origin",
    "report",
    "certificates",
    "tpm",
    "logs",
    "gpus",
    "collateral",
    "app_manifest",
    "shape",
    "reference",
)
TPM_KEYS = (
    "quote",
    "signature",
    "ak_public",
    "pcrs",
    "ek_certificate",
    "ak_certificate",
    "hcl_report",
    "nitro_document",
    "activated_secret",
)
_ORIGIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,62}[\x21-\x7e])?")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_-]{1,32}")


class ContainerError(FormatError):
    """Bytes or JSON that are no evidence container, or a container beyond a limit."""

    code = "evidence-container"


def encode_container(container: EvidenceContainer) -> bytes:
    """The one CBOR form; raises ``ContainerError`` (or ``BundleError`` for its collateral) for a container
    that the reader would refuse.
    """
    document = container_document(container)
    parse_container_document(document)
    data = encode_deterministic_cbor(document)
    if len(data) > MAX_CONTAINER:
        raise refusal(f"has {len(data)} bytes, more than {MAX_CONTAINER}")
    return data


def decode_container(data: bytes) -> EvidenceContainer:
    """Read the CBOR form; raises ``ContainerError``, ``BundleError`` or ``CborError`` for anything else."""
    item = parse_deterministic_cbor(data, limit=MAX_CONTAINER, subject="evidence container")
    return parse_container_document(item)


def container_hash(container: EvidenceContainer) -> bytes:
    """SHA-256 that names the evidence, 32 bytes."""
    domain = TYPE.encode("ascii")
    framed = len(domain).to_bytes(4, "big") + domain
    return hashlib.sha256(framed + encode_container(container)).digest()


def container_document(container: EvidenceContainer) -> dict[str, object]:
    """The structure of the module docstring: maps, lists, texts, integers, bytes and null."""
    return {
        "type": TYPE,
        "platform": container.platform.value,
        "origin": container.origin,
        "report": container.report,
        "certificates": list(container.certificates),
        "tpm": None if container.tpm is None else _tpm_document(container.tpm),
        "logs": [{"format": log.format.value, "data": log.data} for log in container.logs],
        "gpus": [_gpu_document(gpu) for gpu in container.gpus],
        "collateral": collateral_document(container.collateral),
        "app_manifest": container.app_manifest,
        "shape": container.shape,
        "reference": container.reference,
    }


def parse_container_document(value: object) -> EvidenceContainer:
    """The container from its structure; raises ``ContainerError`` naming the field, or ``BundleError``."""
    fields = DocumentFields(value, KEYS, path="", refuse=refusal)
    fields.constant("type", TYPE)
    platform = fields.choice("platform", EvidencePlatform)
    report = fields.octets("report", 0, MAX_REPORT)
    tpm = None if fields.is_null("tpm") else _parse_tpm(fields.fields("tpm", TPM_KEYS))
    if platform is EvidencePlatform.TPM:
        if report or tpm is None:
            fields.fail(
                "platform" if tpm is None else "report", "is tpm, so report is empty and tpm is there"
            )
    elif not report:
        fields.fail("report", f"is empty, and the platform is {platform.value}")
    return EvidenceContainer(
        platform=platform,
        origin=fields.text("origin", _ORIGIN),
        report=report,
        certificates=fields.octets_list("certificates", MAX_CERTIFICATES, 1, MAX_CERTIFICATE, unique=True),
        tpm=tpm,
        logs=fields.objects("logs", ("format", "data"), MAX_LOGS, _parse_log),
        gpus=fields.objects(
            "gpus", ("architecture", "report", "certificates", "nonce"), MAX_GPUS, _parse_gpu
        ),
        collateral=parse_collateral_document(fields.raw("collateral"), "collateral"),
        app_manifest=fields.optional_octets("app_manifest", 1, MAX_APP_MANIFEST),
        shape=fields.optional_octets("shape", 1, MAX_SHAPE),
        reference=fields.optional_octets("reference", 1, MAX_REFERENCE),
    )


def _tpm_document(part: TpmPart) -> dict[str, object]:
    return {
        "quote": part.quote,
        "signature": part.signature,
        "ak_public": part.ak_public,
        "pcrs": {bank: dict(registers) for bank, registers in part.pcrs.items()},
        "ek_certificate": part.ek_certificate,
        "ak_certificate": part.ak_certificate,
        "hcl_report": part.hcl_report,
        "nitro_document": part.nitro_document,
        "activated_secret": part.activated_secret,
    }


def _parse_tpm(fields: DocumentFields) -> TpmPart:
    return TpmPart(
        quote=fields.octets("quote", 1, MAX_TPM_STRUCTURE),
        signature=fields.octets("signature", 1, MAX_TPM_STRUCTURE),
        ak_public=fields.octets("ak_public", 1, MAX_TPM_STRUCTURE),
        pcrs=_parse_pcrs(fields, "pcrs"),
        ek_certificate=fields.optional_octets("ek_certificate", 1, MAX_CERTIFICATE),
        ak_certificate=fields.optional_octets("ak_certificate", 1, MAX_CERTIFICATE),
        hcl_report=fields.optional_octets("hcl_report", 1, MAX_HCL_REPORT),
        nitro_document=fields.optional_octets("nitro_document", 1, MAX_NITRO_DOCUMENT),
        activated_secret=fields.optional_octets("activated_secret", 1, MAX_SECRET),
    )


def _parse_pcrs(fields: DocumentFields, key: str) -> Mapping[str, Mapping[int, bytes]]:
    banks = fields.raw(key)
    if not isinstance(banks, dict) or not banks:
        fields.fail(key, "is not a map of one or more banks")
    found: dict[str, dict[int, bytes]] = {}
    for bank, registers in banks.items():
        if bank not in BANK_SIZES:
            fields.fail(key, f"has a bank {bank!r}; known are {', '.join(BANK_SIZES)}")
        if not isinstance(registers, dict) or not registers:
            fields.fail(f"{key}.{bank}", "is not a map of one or more registers")
        for number, content in registers.items():
            if type(number) is not int or not 0 <= number <= MAX_REGISTER:
                fields.fail(f"{key}.{bank}", f"has a register {number!r}, not 0 to {MAX_REGISTER}")
            if not isinstance(content, bytes) or len(content) != BANK_SIZES[bank]:
                fields.fail(f"{key}.{bank}.{number}", f"is not {BANK_SIZES[bank]} bytes")
        found[bank] = registers
    return found


def _parse_log(fields: DocumentFields) -> Log:
    return Log(format=fields.choice("format", LogFormat), data=fields.octets("data", 1, MAX_LOG))


def _gpu_document(part: GpuPart) -> dict[str, object]:
    return {
        "architecture": part.architecture,
        "report": part.report,
        "certificates": list(part.certificates),
        "nonce": part.nonce,
    }


def _parse_gpu(fields: DocumentFields) -> GpuPart:
    return GpuPart(
        architecture=fields.text("architecture", _ARCHITECTURE),
        report=fields.octets("report", 1, MAX_REPORT),
        certificates=fields.octets_list(
            "certificates", MAX_GPU_CERTIFICATES, 1, MAX_CERTIFICATE, unique=True
        ),
        nonce=fields.octets("nonce", 1, MAX_NONCE),
    )


def refusal(reason: str) -> ContainerError:
    """The error for a container that is not one."""
    return ContainerError(
        reason, subject="evidence container", advice="import the evidence again: keyturn evidence import"
    )


def refuse(reason: str) -> NoReturn:
    """Raise the error."""
    raise refusal(reason)
