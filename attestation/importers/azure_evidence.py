"""Confidential VMs at Azure: an HCL report, which holds the TEE's report and the vTPM's key, and a TPM quote.

Evidence of Confidential Containers (confidential-containers/trustee, deps/verifier/src/az_snp_vtpm/compat.rs,
az_tdx_vtpm/compat.rs), bytes in base64 for URLs; in version 0, which says no version, lists of numbers::

    SEV-SNP  {"version": 1 | 2, "tpm_quote", "hcl_report", "vcek": DER}
             {"quote", "report": HCL report, "vcek": PEM}
    TDX      {"version": 1, "tpm_quote", "hcl_report", "td_quote"}
             {"tpm_quote", "hcl_report", "td_quote"}

A bare TPM quote {"message", "signature", "pcrs"} needs the HCL report as a second file, and for TDX the trust
domain's quote. An HCL report alone gives an SEV-SNP report; of TDX it holds only a TDREPORT, which proves
nothing outside of its machine.
"""

from __future__ import annotations

from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from attestation.importers.dcap_quotes import exact_quote
from attestation.importers.source import (
    JsonObject,
    SideFile,
    SideFiles,
    base64_octets,
    closed,
    octet_list,
    refuse,
    text,
)
from attestation.importers.tpm_quotes import JsonQuote, azure_quote
from attestation.tpm.hcl_report import HclReport, HclReportType, parse_hcl_report
from attestation.x509_chain import load_pem_certificates

_MAGIC = b"HCLA"
_WHAT = "Azure evidence"


def looks_like_hcl_report(data: bytes) -> bool:
    """Whether it starts as an HCL report."""
    return data.startswith(_MAGIC)


def import_hcl_report(data: bytes) -> EvidenceContainer:
    """The SEV-SNP report inside; refuses TDX."""
    report = parse_hcl_report(data)
    if report.kind is not HclReportType.SNP:
        refuse(
            "holds a TDREPORT, which only its own machine can check: give the trust domain's quote and the "
            "TPM quote as well",
            what="HCL report",
        )
    return EvidenceContainer(
        platform=EvidencePlatform.SNP, report=report.tee_report, origin="azure-hcl-report"
    )


def is_azure_snp(keys: set[str]) -> bool:
    """Whether JSON with these keys is evidence of SEV-SNP at Azure."""
    return {"tpm_quote", "hcl_report", "vcek"} <= keys or {"quote", "report", "vcek"} <= keys


def import_azure_snp(value: JsonObject) -> EvidenceContainer:
    """Evidence of SEV-SNP, in all versions."""
    if "hcl_report" in value:
        fields = closed(value, "version tpm_quote hcl_report vcek", what=_WHAT)
        _check_version(fields, 1, 2)
        hcl = base64_octets(fields["hcl_report"], what=f"{_WHAT}, hcl_report", url=True)
        certificates: tuple[bytes, ...] = (base64_octets(fields["vcek"], what=f"{_WHAT}, vcek", url=True),)
        quote = azure_quote(fields["tpm_quote"])
    else:
        fields = closed(value, "quote report vcek", what=_WHAT)
        hcl = octet_list(fields["report"], what=f"{_WHAT}, report")
        vcek = text(fields["vcek"], what=f"{_WHAT}, vcek").encode("utf-8")
        certificates = load_pem_certificates(vcek, what=f"{_WHAT}, vcek")
        quote = azure_quote(fields["quote"])
    report = parse_hcl_report(hcl)
    _require_kind(report, HclReportType.SNP)
    return EvidenceContainer(
        platform=EvidencePlatform.SNP,
        report=report.tee_report,
        certificates=certificates,
        tpm=_part(quote, hcl, report),
        origin="azure-snp-vtpm",
    )


def import_azure_tdx(value: JsonObject) -> EvidenceContainer:
    """Evidence of TDX, in both versions."""
    fields = closed(value, "tpm_quote hcl_report td_quote", "version", what=_WHAT)
    if "version" in fields:
        _check_version(fields, 1)
        hcl = base64_octets(fields["hcl_report"], what=f"{_WHAT}, hcl_report", url=True)
        td_quote = base64_octets(fields["td_quote"], what=f"{_WHAT}, td_quote", url=True)
    else:
        hcl = octet_list(fields["hcl_report"], what=f"{_WHAT}, hcl_report")
        td_quote = octet_list(fields["td_quote"], what=f"{_WHAT}, td_quote")
    return _azure_tdx(azure_quote(fields["tpm_quote"]), hcl, td_quote)


def import_azure_quote(value: JsonObject, files: SideFiles) -> EvidenceContainer:
    """A bare TPM quote, with the HCL report (and the trust domain's quote) as files beside it."""
    quote = azure_quote(value)
    if SideFile.HCL_REPORT not in files:
        refuse("says nothing about whose key signed it: give the HCL report beside it", what="TPM quote")
    hcl = files[SideFile.HCL_REPORT]
    report = parse_hcl_report(hcl)
    if report.kind is HclReportType.TDX:
        if SideFile.TD_QUOTE not in files:
            refuse("is of a trust domain: give the trust domain's quote as well", what="HCL report")
        return _azure_tdx(quote, hcl, files[SideFile.TD_QUOTE])
    return EvidenceContainer(
        platform=EvidencePlatform.SNP,
        report=report.tee_report,
        tpm=_part(quote, hcl, report),
        origin="azure-snp-vtpm",
    )


def _azure_tdx(quote: JsonQuote, hcl: bytes, td_quote: bytes) -> EvidenceContainer:
    report = parse_hcl_report(hcl)
    _require_kind(report, HclReportType.TDX)
    return EvidenceContainer(
        platform=EvidencePlatform.TDX,
        report=exact_quote(td_quote),
        tpm=_part(quote, hcl, report),
        origin="azure-tdx-vtpm",
    )


def _part(quote: JsonQuote, hcl: bytes, report: HclReport) -> TpmPart:
    return TpmPart(
        quote=quote.message,
        signature=quote.signature,
        ak_public=report.ak_public,
        pcrs=quote.pcrs,
        hcl_report=hcl,
    )


def _require_kind(report: HclReport, kind: HclReportType) -> None:
    if report.kind is not kind:
        refuse(f"holds a report of {report.kind.name}, not of {kind.name}", what="HCL report")


def _check_version(fields: JsonObject, *versions: int) -> None:
    version = fields["version"]
    if type(version) is not int or version not in versions:
        refuse(f"has version {version!r}", what=_WHAT)
