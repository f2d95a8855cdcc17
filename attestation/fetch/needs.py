"""What evidence needs: a pure function of the evidence, none of which is verified at this point.

Every value that ends up in an address is of a closed set, a fixed number of hexadecimal digits, or capitals,
digits, dots and underscores, so evidence can choose neither host nor path; the worst that it can do is to ask
for a machine that does not exist.

Which product of AMD made a report stands in it from version 3 on; in version 2 it stands only in its
certificate, and without one each product of that time is asked. Of a chip's id, Turin uses the first 8 bytes
(virtee/snpguest, ``fetch.rs``).

Manifests of NVIDIA are named after chip, board and versions, as NVIDIA/attestation-sdk does it
(``gpu/evidence.cpp``, ``switch/evidence.cpp``): those of switches always name the same board.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NoReturn, TypeAlias

import dcap_qvl

from attestation.container import EvidenceContainer, EvidencePlatform, GpuPart
from attestation.fetch.errors import FetchError
from attestation.nvidia.device import Architecture, claimed_architecture
from attestation.nvidia.spdm import Opaque
from attestation.nvidia.spdm import parse_report as parse_gpu_report
from attestation.snp.products import Product, product_of_cpu
from attestation.x509_chain import CertificateError, common_name, load_certificate
from measurements.sev.cpu_models import CpuModel
from measurements.sev.report import SigningKey, SnpReport, TcbVersion, parse_report

_FMSPC = re.compile(r"[0-9a-f]{12}")
_CHIP_ID = re.compile(r"(?:[0-9a-f]{16}|[0-9a-f]{128})")
_RIM_NAME = re.compile(r"NV_(?:GPU|SWITCH)_[0-9A-Z_]{4,64}(?:\.[0-9]{1,4}){0,4}")
_SWITCH_BOARD = "5612_0002_890"
_BLACKWELL_CHIP = "GB100"
_TURIN_CHIP_ID = 8
_VERSION_2 = (Product.MILAN, Product.GENOA)


class Tee(StrEnum):
    """What the quote is of, as the paths of Intel's API name it."""

    SGX = "sgx"
    TDX = "tdx"


class PckCa(StrEnum):
    """Which authority issued the PCK certificate."""

    PLATFORM = "platform"
    PROCESSOR = "processor"


@dataclass(frozen=True, kw_only=True, slots=True)
class DcapNeed:
    """One collateral set of Intel. ``fmspc`` is 12 lower-case hex digits."""

    tee: Tee
    fmspc: str
    ca: PckCa

    def __post_init__(self) -> None:
        if not _FMSPC.fullmatch(self.fmspc):
            _refuse("evidence", "its FMSPC is not 12 hexadecimal digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpNeed:
    """Chain and revocation list of one product of AMD, and the certificate of a chip's key. ``products`` are
    tried in their order; ``chip_id`` (16 or 128 lower-case hex digits) is None where evidence brings the
    certificate.
    """

    products: tuple[Product, ...]
    vlek: bool
    chip_id: str | None
    tcb: TcbVersion

    def __post_init__(self) -> None:
        if self.chip_id is not None and not _CHIP_ID.fullmatch(self.chip_id):
            _refuse("evidence", "its chip id is not 16 or 128 hexadecimal digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class RimNeed:
    """One reference manifest of NVIDIA by its name in the service."""

    name: str

    def __post_init__(self) -> None:
        if not _RIM_NAME.fullmatch(self.name):
            _refuse("evidence", "its GPU's versions make no name of a manifest")


@dataclass(frozen=True, kw_only=True, slots=True)
class OcspNeed:
    """What NVIDIA says of one certificate (DER), which ``issuer`` (DER) signed, or claims to have."""

    certificate: bytes
    issuer: bytes

    def __post_init__(self) -> None:
        for der in (self.certificate, self.issuer):
            load_certificate(der, what="a certificate of the GPU")


Need: TypeAlias = DcapNeed | SnpNeed | RimNeed | OcspNeed


def needs(evidence: EvidenceContainer) -> tuple[Need, ...]:
    """What has to be fetched to verify the evidence, each once; raises ``FetchError``, or ``FormatError`` for
    a report that is none. Nitro documents and TPMs bring all their certificates themselves.
    """
    found: list[Need] = []
    if evidence.platform in (EvidencePlatform.TDX, EvidencePlatform.SGX, EvidencePlatform.SIM):
        found.append(_dcap_need(evidence.report))
    if evidence.platform is EvidencePlatform.SNP:
        certificates = (*evidence.certificates, *evidence.collateral.certificates)
        found.append(_snp_need(parse_report(evidence.report), certificates))
    for gpu in evidence.gpus:
        found += _gpu_needs(gpu)
    return tuple(dict.fromkeys(found))


def _dcap_need(quote: bytes) -> DcapNeed:
    try:
        parsed = dcap_qvl.Quote.parse(quote)
        fmspc, ca, tdx = str(parsed.fmspc()), str(parsed.ca()), bool(parsed.is_tdx())
    except ValueError as error:
        _refuse("quote", f"does not say which platform made it: {error}")
    if ca not in set(PckCa):
        _refuse("quote", "has a PCK certificate that neither the platform nor the processor CA issued")
    return DcapNeed(tee=Tee.TDX if tdx else Tee.SGX, fmspc=fmspc.lower(), ca=PckCa(ca))


def _snp_need(report: SnpReport, certificates: Iterable[bytes]) -> SnpNeed:
    if report.signing_key is SigningKey.NONE:
        _refuse("SNP report", "is not signed")
    vlek = report.signing_key is SigningKey.VLEK
    issuers = _issuers(certificates, "SEV-VLEK" if vlek else "SEV-VCEK")
    products = _products(report.cpu, issuers)
    if vlek and not issuers:
        _refuse(
            "SNP report", "is signed with a VLEK, whose certificate only the cloud can give to its guests"
        )
    if not issuers and not any(report.chip_id):
        _refuse("SNP report", "hides the chip's id, and no certificate of its key comes with it")
    size = _TURIN_CHIP_ID if products == (Product.TURIN,) else len(report.chip_id)
    return SnpNeed(
        products=products,
        vlek=vlek,
        chip_id=None if issuers else report.chip_id[:size].hex(),
        tcb=report.reported_tcb,
    )


def _products(cpu: CpuModel | None, issuers: Iterable[str]) -> tuple[Product, ...]:
    if cpu is None:
        named = tuple(one for one in _VERSION_2 if any(one.label in issuer for issuer in issuers))
        return named or _VERSION_2
    product = product_of_cpu(cpu.family, cpu.model)
    if product is None:
        _refuse("SNP report", f"is of a CPU that is not known: {cpu.name} (family/model/stepping)")
    return (product,)


def _issuers(certificates: Iterable[bytes], name: str) -> tuple[str, ...]:
    """Names of the issuers of those certificates whose own name is ``name``."""
    found = []
    for der in certificates:
        try:
            certificate = load_certificate(der)
        except CertificateError:
            continue
        if common_name(certificate) == name:
            found.append(certificate.issuer.rfc4514_string())
    return tuple(found)


def _gpu_needs(part: GpuPart) -> list[Need]:
    """Manifests of a GPU's driver and VBIOS, or of a switch's BIOS, and the state of the certificates that
    NVIDIA issued: all but the first, which the device made, and the root.
    """
    chain = part.certificates[1:]
    asked = [OcspNeed(certificate=one, issuer=above) for one, above in pairwise(chain)]
    return [*_manifest_needs(part), *asked]


def _manifest_needs(part: GpuPart) -> list[Need]:
    report = parse_gpu_report(part.report)
    bios = report.vbios_version.replace(".", "")
    architecture = claimed_architecture(part.certificates[0]) if part.certificates else None
    if architecture is None:
        _refuse("GPU evidence", "comes without the device's certificates")
    if architecture is Architecture.LS10:
        return [RimNeed(name=f"NV_SWITCH_BIOS_{_SWITCH_BOARD}_{bios}")]
    chip = report.text(Opaque.CHIP_INFO) or _BLACKWELL_CHIP
    driver = "DRIVER_GH100" if architecture is Architecture.HOPPER else f"CC_DRIVER_{chip}"
    board = "_".join(report.text(one) for one in (Opaque.PROJECT, Opaque.PROJECT_SKU, Opaque.CHIP_SKU))
    return [
        RimNeed(name=f"NV_GPU_{driver}_{report.driver_version}"),
        RimNeed(name=f"NV_GPU_VBIOS_{board}_{bios}"),
    ]


def _refuse(subject: str, reason: str) -> NoReturn:
    raise FetchError(reason, subject=subject, advice="give the evidence as the platform's own tool wrote it")
