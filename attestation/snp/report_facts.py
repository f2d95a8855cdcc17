"""What a verified report says, in the words of policies and for people."""

from __future__ import annotations

from functools import lru_cache

from attestation.container import EvidencePlatform
from attestation.platform_verification import PlatformFacts
from attestation.snp.endorsement_key import EndorsementKey
from attestation.snp.findings import Findings
from attestation.snp.identity_checks import MASKED
from measurements.sev.guest_policy import GuestPolicy
from measurements.sev.report import PlatformInfo, SnpReport

REGISTERS = (
    "measurement",
    "host_data",
    "id_key_digest",
    "author_key_digest",
    "family_id",
    "image_id",
    "guest_policy",
)
"""Names in measurement sets; sizes are 48, 32, 48, 48, 16, 16 and 8 bytes."""


def registers_of(report: SnpReport) -> dict[str, bytes]:
    """The registers of ``REGISTERS``. ``guest_policy`` is big endian: its digits are the number."""
    return {
        "measurement": report.measurement,
        "host_data": report.host_data,
        "id_key_digest": report.id_key_digest,
        "author_key_digest": report.author_key_digest,
        "family_id": report.family_id,
        "image_id": report.image_id,
        "guest_policy": report.policy.to_bytes(8),
    }


def report_facts(report: SnpReport, key: EndorsementKey, findings: Findings) -> PlatformFacts:
    """Facts of a report all of whose checks passed. ``chip_id`` (64 bytes) is there unless it is masked,
    ``csp_id`` for a VLEK.
    """
    identity = {}
    if report.chip_id != MASKED:
        identity["chip_id"] = report.chip_id.hex()
    if key.csp_id is not None:
        identity["csp_id"] = key.csp_id
    return PlatformFacts(
        platform=EvidencePlatform.SNP,
        development=False,
        report_data=report.report_data,
        registers=registers_of(report),
        identity=identity,
        details=_details(report, key, findings),
    )


def _details(report: SnpReport, key: EndorsementKey, findings: Findings) -> dict[str, str]:
    details = {
        "report_version": str(report.version),
        "product": key.product.value,
        "product_name": key.product_name,
        "signing_key": key.kind.name,
        "vmpl": str(report.vmpl),
        "guest_svn": str(report.guest_svn),
        "guest_policy": _guest_policy_names(report.policy),
        "platform_info": _platform_info_names(report.platform_info),
        "reported_tcb": str(report.reported_tcb),
        "committed_tcb": str(report.committed_tcb),
        "launch_tcb": str(report.launch_tcb),
        "current_tcb": str(report.current_tcb),
        "current_firmware": str(report.current_firmware),
        "committed_firmware": str(report.committed_firmware),
        "report_id": report.report_id.hex(),
    }
    optional = {
        "hardware_id": None if key.hardware_id is None else key.hardware_id.hex(),
        "launch_mitigations": _bits(report.launch_mitigations),
        "current_mitigations": _bits(report.current_mitigations),
        "crl_number": None if findings.crl_number is None else str(findings.crl_number),
    }
    return details | {name: value for name, value in optional.items() if value is not None}


@lru_cache(maxsize=64)
def _guest_policy_names(word: int) -> str:
    return ", ".join(GuestPolicy.parse(word).names).lower() or "none"


@lru_cache(maxsize=64)
def _platform_info_names(word: int) -> str:
    return ", ".join(str(one.name).lower() for one in PlatformInfo if one & word) or "none"


def _bits(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"
