"""The files that needs come down to: where each stands at its source, and how its answer is read.

Paths (Intel PCS API version 4; AMD 57230 revision 1.00; NVIDIA RIM service version 1)::

    /sgx/certification/v4/pckcrl?ca=platform|processor&encoding=der
    /sgx|tdx/certification/v4/tcb?fmspc=…&update=standard|early        or &tcbEvaluationDataNumber=…
    /sgx|tdx/certification/v4/qe/identity?update=…                      or ?tcbEvaluationDataNumber=…
    /IntelSGXRootCA.der at the host of certificates, /sgx/certification/v4/rootcacrl at a PCCS
    /vcek|vlek/v1/{product}/cert_chain, /vcek|vlek/v1/{product}/crl
    /vcek/v1/{product}/{chip id}?[fmcSPL=…&]blSPL=…&teeSPL=…&snpSPL=…&ucodeSPL=…
    /v1/rim/{name}
    POST / of a request with SHA-384 identifiers (RFC 6960, appendix A.1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.collateral_bundle import MAX_OCSP, MAX_RIM, MAX_SIGNED_JSON
from attestation.fetch.bodies import (
    Content,
    certificate_chain,
    chip_certificate,
    manifest,
    ocsp_answer,
    revocation_list,
    signed_json,
)
from attestation.fetch.http import Answer
from attestation.fetch.needs import DcapNeed, OcspNeed, PckCa, RimNeed, SnpNeed, Tee
from attestation.fetch.sources import Source
from attestation.snp.products import Product
from attestation.x509_chain import MAX_CERTIFICATE, MAX_CRL, common_name, load_certificate
from measurements.sev.report import SigningKey, TcbVersion

HOUR, DAY = 3600, 24 * 3600
LIST_AGE = 12 * HOUR
"""Seconds after which what can be withdrawn is asked for again, inside of its window too."""
CERTIFICATE_AGE = 30 * DAY
"""The same for certificates, which do not change."""

_SGX = "/sgx/certification/v4"
_CHAIN_HEADER = "Issuer-Chain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One file. ``limit`` is in bytes, ``max_age`` in seconds; ``read`` takes the answer apart and raises one
    of ``bodies.UNEXPECTED``.
    """

    what: str
    source: Source
    target: str
    limit: int
    max_age: int
    read: Callable[[Answer], Content]
    question: bytes | None = None
    """What is sent; None asks without."""


def dcap_resources(
    need: DcapNeed, *, pccs: bool, early: bool = False, evaluation_number: int | None = None
) -> tuple[Resource, Resource, Resource, Resource]:
    """TCB info, QE identity, the list of the PCK authority, the list of the root."""
    edition = f"update={'early' if early else 'standard'}"
    if evaluation_number is not None:
        edition = f"tcbEvaluationDataNumber={evaluation_number:d}"
    return (
        _tcb_info(need, edition),
        _qe_identity(need.tee, edition),
        _pck_crl(need.ca),
        _root_crl(pccs=pccs),
    )


def snp_resources(product: Product, *, vlek: bool) -> tuple[Resource, Resource]:
    """Chain and revocation list of a product."""
    key = "vlek" if vlek else "vcek"
    signer = product.issuer_name(SigningKey.VLEK if vlek else SigningKey.VCEK)
    return (
        Resource(
            what=f"certificates of {product.label}",
            source=Source.AMD,
            target=f"/{key}/v1/{product.label}/cert_chain",
            limit=4 * MAX_CERTIFICATE,
            max_age=CERTIFICATE_AGE,
            read=partial(certificate_chain, names=frozenset({product.root_name, signer})),
        ),
        Resource(
            what=f"revocation list of {product.label}",
            source=Source.AMD,
            target=f"/{key}/v1/{product.label}/crl",
            limit=MAX_CRL,
            max_age=LIST_AGE,
            read=partial(revocation_list, issuer=product.root_name),
        ),
    )


def vcek_resource(product: Product, need: SnpNeed) -> Resource:
    """The certificate of a chip's key at the TCB that the report names."""
    return Resource(
        what=f"VCEK of a {product.label} chip",
        source=Source.AMD,
        target=f"/vcek/v1/{product.label}/{need.chip_id}?{_levels(need.tcb)}",
        limit=MAX_CERTIFICATE,
        max_age=CERTIFICATE_AGE,
        read=chip_certificate,
    )


def rim_resource(need: RimNeed) -> Resource:
    """A reference manifest."""
    return Resource(
        what=f"reference manifest {need.name}",
        source=Source.NVIDIA,
        target=f"/v1/rim/{need.name}",
        limit=2 * MAX_RIM,
        max_age=DAY,
        read=manifest,
    )


def ocsp_resource(need: OcspNeed) -> Resource:
    """What the responder says of one certificate."""
    certificate, issuer = load_certificate(need.certificate), load_certificate(need.issuer)
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, SHA384()).build()
    return Resource(
        what=f"OCSP answer for {common_name(certificate)}",
        source=Source.OCSP,
        target="/",
        limit=MAX_OCSP,
        max_age=HOUR,
        read=partial(ocsp_answer, serial=certificate.serial_number),
        question=request.public_bytes(Encoding.DER),
    )


def _tcb_info(need: DcapNeed, edition: str) -> Resource:
    return Resource(
        what=f"TCB info of FMSPC {need.fmspc}",
        source=Source.INTEL,
        target=f"/{need.tee}/certification/v4/tcb?fmspc={need.fmspc.upper()}&{edition}",
        limit=2 * MAX_SIGNED_JSON,
        max_age=LIST_AGE,
        read=partial(
            signed_json,
            key="tcbInfo",
            kind=need.tee.name,
            fmspc=need.fmspc,
            header=f"TCB-Info-{_CHAIN_HEADER}",
        ),
    )


def _qe_identity(tee: Tee, edition: str) -> Resource:
    return Resource(
        what=f"QE identity of {tee.name}",
        source=Source.INTEL,
        target=f"/{tee}/certification/v4/qe/identity?{edition}",
        limit=2 * MAX_SIGNED_JSON,
        max_age=LIST_AGE,
        read=partial(
            signed_json,
            key="enclaveIdentity",
            kind="TD_QE" if tee is Tee.TDX else "QE",
            fmspc=None,
            header=f"SGX-Enclave-Identity-{_CHAIN_HEADER}",
        ),
    )


def _pck_crl(ca: PckCa) -> Resource:
    return Resource(
        what=f"revocation list of the PCK {ca} CA",
        source=Source.INTEL,
        target=f"{_SGX}/pckcrl?ca={ca}&encoding=der",
        limit=2 * MAX_CRL,
        max_age=LIST_AGE,
        read=partial(revocation_list, issuer=f"PCK {ca.title()} CA", header=f"SGX-PCK-CRL-{_CHAIN_HEADER}"),
    )


def _root_crl(*, pccs: bool) -> Resource:
    return Resource(
        what="revocation list of Intel's root",
        source=Source.ROOT_CRL,
        target=f"{_SGX}/rootcacrl" if pccs else "/IntelSGXRootCA.der",
        limit=2 * MAX_CRL,
        max_age=LIST_AGE,
        read=partial(revocation_list, issuer="Root CA"),
    )


def _levels(tcb: TcbVersion) -> str:
    """A TCB as the service wants it: two digits each, first the part that only Turin has."""
    parts = {
        "fmcSPL": tcb.fmc,
        "blSPL": tcb.boot_loader,
        "teeSPL": tcb.tee,
        "snpSPL": tcb.snp,
        "ucodeSPL": tcb.microcode,
    }
    return "&".join(f"{name}={value:02d}" for name, value in parts.items() if value is not None)
