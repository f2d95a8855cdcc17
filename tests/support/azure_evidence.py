"""Real Azure evidence of the vectors, as containers: TEE report, HCL report, quote of the vTPM, registers.

The vectors are what Trustee's attesters write; registers are those of the SHA-256 bank, 0 to 23.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from attestation.platform_verification import PlatformFacts
from attestation.tpm.hcl_report import parse_hcl_report
from measurements.sev.report import parse_report
from measurements.tdx.quote import parse_quote
from tests.support.vectors import vector

SNP_MILAN = "attestation/snp/azure-evidence-v1.json"
SNP_GENOA = "attestation/snp/azure-evidence-genoa.json"
TDX = "azure-vtpm/az-tdx-vtpm/evidence-v0.json"
SNP_QUOTE = "attestation/tpm/azure-tpm-quote-v1.json"
"""A quote of the machine whose HCL report is ``SNP_HCL``."""
SNP_HCL = "attestation/snp/azure-hcl-report.bin"
AZURE = (SNP_MILAN, SNP_GENOA, SNP_QUOTE, TDX)


def azure_container(name: str) -> EvidenceContainer:
    """The evidence of one vector, its own TEE report included."""
    document = json.loads(vector(name).read_bytes())
    if name == SNP_QUOTE:
        document = {"report": list(vector(SNP_HCL).read_bytes()), "quote": document}
    hcl = _bytes(document.get("hcl_report") or document["report"])
    quote = document.get("tpm_quote") or document["quote"]
    report = parse_hcl_report(hcl)
    tdx = "td_quote" in document
    return EvidenceContainer(
        platform=EvidencePlatform.TDX if tdx else EvidencePlatform.SNP,
        report=_bytes(document["td_quote"]) if tdx else report.tee_report,
        tpm=TpmPart(
            quote=_bytes(quote["message"]),
            signature=rsassa(_bytes(quote["signature"])),
            ak_public=report.ak_public,
            pcrs=registers(quote["pcrs"]),
            hcl_report=hcl,
        ),
    )


def unverified_facts(evidence: EvidenceContainer) -> PlatformFacts:
    """What the TEE report says, taken as facts: the tests of its own verifier are elsewhere."""
    if evidence.platform is EvidencePlatform.TDX:
        body = parse_quote(evidence.report).body
        data, found = body.report_data, dict(body.registers())
    else:
        report = parse_report(evidence.report)
        data, found = report.report_data, {"measurement": report.measurement}
    return PlatformFacts(
        platform=evidence.platform,
        development=False,
        report_data=data,
        registers=found,
        identity={},
        details={},
    )


def rsassa(signature: bytes) -> bytes:
    """TPMT_SIGNATURE of a bare RSASSA signature with SHA-256."""
    return b"\x00\x14\x00\x0b" + len(signature).to_bytes(2, "big") + signature


def registers(values: Sequence[Any]) -> Mapping[str, Mapping[int, bytes]]:
    """The SHA-256 bank from a list."""
    return {"sha256": {number: _bytes(value) for number, value in enumerate(values)}}


def _bytes(value: Any) -> bytes:
    """Trustee writes bytes as arrays of integers, hexadecimal digits or base64url."""
    if isinstance(value, list):
        return bytes(value)
    try:
        return bytes.fromhex(value)
    except ValueError:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
