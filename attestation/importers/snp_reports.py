"""SEV-SNP reports: raw, with a certificate table behind them (go-sev-guest, snpguest), from configfs-tsm.

A raw report has 1184 bytes, ``u32`` version at 0 and signature algorithm at 0x34 (AMD 56860). The table is
that of ``attestation.snp.certificate_table``. Linux' configfs-tsm (Documentation/ABI/testing/configfs-tsm)
gives ``outblob`` (report or quote), ``auxblob`` (the table) and ``provider`` (``sev_guest``, ``tdx_guest``).
"""

from __future__ import annotations

from dataclasses import replace

from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.importers.source import SideFile, SideFiles, refuse
from attestation.snp.certificate_table import CertificateTable, parse_certificate_table, split_extended_report
from measurements.sev.report import REPORT_SIZE, VERSIONS

_ALGORITHM = slice(0x34, 0x38)
_ECDSA_P384 = b"\x01\0\0\0"
_PROVIDERS = {
    EvidencePlatform.SNP: {"sev_guest", "sev-guest"},
    EvidencePlatform.TDX: {"tdx_guest", "tdx-guest"},
}


def looks_like_report(data: bytes) -> bool:
    """Whether it starts as a report of a known version."""
    version = int.from_bytes(data[:4], "little")
    return len(data) >= REPORT_SIZE and version in VERSIONS and data[_ALGORITHM] == _ECDSA_P384


def import_report(data: bytes) -> EvidenceContainer:
    """A report of exactly 1184 bytes."""
    if len(data) != REPORT_SIZE:
        refuse(f"has {len(data)} bytes, not {REPORT_SIZE}", what="SNP report")
    return EvidenceContainer(platform=EvidencePlatform.SNP, report=data, origin="snp-report")


def import_extended_report(data: bytes) -> EvidenceContainer:
    """A report and its certificate table."""
    report, table = split_extended_report(data)
    container = replace(import_report(report), origin="snp-extended-report")
    return with_table(container, table)


def with_tsm_files(container: EvidenceContainer, files: SideFiles) -> EvidenceContainer:
    """The container with what configfs-tsm has beside its ``outblob``; refuses files of another platform."""
    if SideFile.PROVIDER in files:
        name = files[SideFile.PROVIDER].strip().decode("utf-8", "replace")
        if name not in _PROVIDERS.get(container.platform, ()):
            refuse(f"is {name[:32]!r}, and the evidence is of {container.platform.value}", what="provider")
    auxblob = files.get(SideFile.AUXBLOB, b"")
    if not auxblob:
        return container
    if container.platform is not EvidencePlatform.SNP:
        refuse(f"goes with an SNP report, and the evidence is of {container.platform.value}", what="auxblob")
    return with_table(container, parse_certificate_table(auxblob, name="auxblob"))


def with_table(container: EvidenceContainer, table: CertificateTable) -> EvidenceContainer:
    """The container with the certificates and lists of a table; contents of unknown GUIDs are left out."""
    return replace(
        container,
        certificates=tuple(dict.fromkeys(container.certificates + table.certificates)),
        collateral=container.collateral.joined(Collateral(crls=table.crls)),
    )
