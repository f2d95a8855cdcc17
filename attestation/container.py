"""The evidence container: whatever a machine of any platform shows to prove what it is, in one structure.

Nothing in a container is trusted. Each part is one of the field's own formats, kept as the bytes that were
signed; ``attestation.container_codec`` gives the structure as deterministic CBOR and as JSON, with limits,
and ``attestation.importers`` makes it from what other software writes.

``report`` is the evidence of the platform itself:

==========  ==============================================================================
platform    report
==========  ==============================================================================
tdx, sgx    DCAP quote, version 3, 4 or 5 (zeros that pad a driver's buffer are cut off)
sim         the same bytes, under a test root
snp         attestation report, 1184 bytes
nitro       COSE_Sign1 document of the Nitro Security Module or of a NitroTPM
tpm         empty: the evidence is the ``tpm`` part
==========  ==============================================================================

A confidential VM with a virtual TPM has both its platform's report and a ``tpm`` part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from attestation.collateral import Collateral


class EvidencePlatform(StrEnum):
    """Who made the evidence. ``SIM`` is for development and has its own root."""

    TDX = "tdx"
    SGX = "sgx"
    SNP = "snp"
    NITRO = "nitro"
    TPM = "tpm"
    SIM = "sim"


class LogFormat(StrEnum):
    """Formats of event logs."""

    TCG2 = "tcg2"
    """Binary log of a TPM's firmware, crypto agile."""
    CCEL = "ccel"
    """Binary log of a trust domain's firmware: TCG2 records with measurement register indices."""
    DSTACK = "dstack"
    """JSON array of dstack, version 1 or 2."""
    KEYTURN = "keyturn"
    """Runtime events of keyturn's guest agent: canonical JSON array of {name, payload}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """One event log, as it was written."""

    format: LogFormat
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class TpmPart:
    """What a TPM shows. At least one proof of the attestation key goes with it: an EK certificate (and a
    credential that was activated), a certificate of the AK, Azure's HCL report or a NitroTPM document.

    ``quote`` is a TPMS_ATTEST, ``signature`` a TPMT_SIGNATURE, ``ak_public`` a TPMT_PUBLIC (of a cloud that
    shows the bare key: ``attestation.tpm.ak_public.standard_ak_public``), each without a size in front.
    ``pcrs`` holds register values by bank (``sha256``, ``sha384``) and index, as the quote selects them.
    """

    quote: bytes
    signature: bytes
    ak_public: bytes
    pcrs: Mapping[str, Mapping[int, bytes]]
    ek_certificate: bytes | None = None
    ak_certificate: bytes | None = None
    hcl_report: bytes | None = None
    nitro_document: bytes | None = None
    activated_secret: bytes | None = None
    """What the guest took out of the credential that the verifier had made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPart:
    """Evidence of one GPU or switch: the SPDM measurements exchange (request, then response), its chain of
    certificates (DER, leaf first), the nonce that was asked for.
    """

    architecture: str
    report: bytes
    certificates: tuple[bytes, ...]
    nonce: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceContainer:
    """One machine's evidence. ``origin`` names the importer; like all of it, it is a claim."""

    platform: EvidencePlatform
    report: bytes
    certificates: tuple[bytes, ...] = ()
    """DER, of any vendor, in any order: leaf keys (VCEK, VLEK), intermediates, roots."""
    tpm: TpmPart | None = None
    logs: tuple[Log, ...] = ()
    gpus: tuple[GpuPart, ...] = ()
    collateral: Collateral = field(default_factory=Collateral)
    app_manifest: bytes | None = None
    shape: bytes | None = None
    """Machine shape, canonical JSON."""
    reference: bytes | None = None
    """Declared reference values, canonical JSON."""
    origin: str = "keyturn"
