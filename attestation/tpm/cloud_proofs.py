"""Proofs of attestation keys that hang on a cloud's own statement about the machine.

``hcl-report`` (Azure). The paravisor runs below the guest, holds the vTPM, and puts a hash of the AK into the
report data of the machine's TEE report. That is worth as much as the paravisor: in a machine without it, the
guest itself chooses report data. So the TEE report must be that of a known paravisor.

=======================  =================================================================================
``hcl-form``             the report is well formed (``attestation.tpm.hcl_report``)
``hcl-tee-report``       the TEE report in it is the machine's own, which was verified (SEV-SNP: the same
                         bytes, VMPL 0; TDX: all that the quote says, ``attestation.tpm.td_report``)
``hcl-report-data``      its report data is the hash of the run-time data
``hcl-paravisor``        the policy pins the TEE's launch measurement (MRTD) in each of its sets, or lists id
                         keys without zeros, which no signer has; or the cloud certified the AK too
``hcl-key``              the AK is the run-time data's ``HCLAkPub``
=======================  =================================================================================

``nitro-document`` (AWS). The hypervisor signs the NitroTPM's SHA-384 registers; the AK in ``public_key`` is
what software in the instance handed in. A quote by that key proves no more than the document does, so each
quoted register must stand in the document. The quote adds that the software, which those registers
measured, answered this request.

=======================  =================================================================================
``document-…``           the document is AWS's (``attestation.nitro.document_checks``)
``document-nitrotpm``    it is a NitroTPM's, not an enclave's
``document-debug``       no register of the boot is zero
``document-key``         its public key is the AK's SubjectPublicKeyInfo
``document-registers``   each quoted register is of SHA-384 and as the document says
=======================  =================================================================================
"""

from __future__ import annotations

import hashlib
from typing import NoReturn

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.container import EvidencePlatform
from attestation.nitro.document_checks import DOCUMENT_CHECKS, check_document
from attestation.nitro.verify import check_debug
from attestation.platform_verification import PlatformFacts
from attestation.policy import AkProof, Allowed, Measurements
from attestation.tpm.context import Context, ProofFindings, SignedQuote
from attestation.tpm.hcl_report import HclReport, HclReportError, HclReportType, parse_hcl_report
from attestation.tpm.td_report import check_same_domain
from attestation.tpm_signature import public_key
from attestation.tpm_structures import RsaParameters
from attestation.verdict import CheckList
from measurements.nitro.document import NitroDocument, NitroModule
from measurements.sev.report import parse_report
from measurements.tdx.quote import parse_quote

HCL_CHECKS = ("hcl-form", "hcl-tee-report", "hcl-report-data", "hcl-paravisor", "hcl-key")
NITRO_CHECKS = (*DOCUMENT_CHECKS, "document-nitrotpm", "debug", "document-key", "document-registers")

_LAUNCH = {"measurement", "mrtd"}
_NO_ID_KEY = bytes(48).hex()
_AGAIN = "take all parts of the evidence from the same machine, anew"
_PLATFORMS = {
    HclReportType.SNP: (EvidencePlatform.SNP,),
    HclReportType.TDX: (EvidencePlatform.TDX, EvidencePlatform.SIM),
}


def check_hcl(checks: CheckList, context: Context, signed: SignedQuote) -> ProofFindings:
    """The checks of an HCL report."""
    data, tee = context.part.hcl_report, context.tee
    assert data is not None  # only then this proof is present
    with checks.step("hcl-form", expected="an HCL report"):
        report = parse_hcl_report(data)
    with checks.step("hcl-tee-report", expected=f"the machine's verified {report.kind.name} report"):
        _check_same_report(context, report)
    assert tee is not None  # the check above has ended otherwise
    checks.equal(
        "hcl-report-data",
        expected=report.report_data,
        found=tee.report_data,
        reason="the TEE report does not vouch for the run-time data, which names the key",
        advice=_AGAIN,
    )
    _check_paravisor(checks, context, tee)
    key = signed.ak.parameters
    checks.require(
        "hcl-key",
        isinstance(key, RsaParameters)
        and key.modulus == int.from_bytes(report.modulus, "big")
        and key.exponent == report.exponent,
        expected=f"RSA key {report.modulus[:8].hex()}…",
        found=f"RSA key {key.modulus:x}"[:24] + "…" if isinstance(key, RsaParameters) else "an ECC key",
        reason="the key that signed the quote is not the vTPM's",
        advice=_AGAIN,
    )
    names = {f"azure_{name.replace('-', '_')}": value for name, value in report.configuration.items()}
    return ProofFindings(platform_id=_key_id(signed), details={"hcl_version": str(report.version), **names})


def _check_same_report(context: Context, report: HclReport) -> None:
    tee, own = context.tee, context.evidence.report
    if tee is None or tee.platform not in _PLATFORMS[report.kind]:
        _refuse(f"no {report.kind.name} report of this machine was verified")
    if report.kind is HclReportType.TDX:
        check_same_domain(report.tee_report, parse_quote(own).body)
        return
    if report.tee_report != own:
        _refuse("it holds another report than the machine's own")
    # From VMPL 1 up the guest's own software asks for reports, with data of its choice.
    if parse_report(own).vmpl != 0:
        _refuse("the report was made for software above the paravisor")


def _refuse(reason: str) -> NoReturn:
    raise HclReportError(
        reason, subject="HCL report", advice="give the machine's own TEE report; see why it failed, if it did"
    )


def _check_paravisor(checks: CheckList, context: Context, tee: PlatformFacts) -> None:
    certified = (
        context.part.ak_certificate is not None and AkProof.AK_CERTIFICATE in context.section.ak_proofs
    )
    sections = {
        EvidencePlatform.SNP: context.policy.snp,
        EvidencePlatform.TDX: context.policy.tdx,
        EvidencePlatform.SIM: context.policy.sim,
    }
    section, snp = sections[tee.platform], context.policy.snp
    measured = section is not None and _pins_launch(section.measurements)
    signed_image = tee.platform is EvidencePlatform.SNP and snp is not None and _pins_signer(snp.id_keys)
    checks.require(
        "hcl-paravisor",
        certified or measured or signed_image,
        expected="measurements or id keys of the paravisor in the policy, or an AK certificate",
        found="as expected" if certified or measured or signed_image else f"any {tee.platform.value} machine",
        reason="any machine of this kind could show such a report for a key of its own making",
        advice="list the measurement of Azure's paravisor in the policy, or demand the AK certificate",
    )


def _pins_launch(measurements: Measurements) -> bool:
    """Other registers are the choice of whoever starts a machine."""
    names = [set(one.registers) for one in measurements.sets]
    return not measurements.any and bool(names) and all(one & _LAUNCH for one in names)


def _pins_signer(id_keys: Allowed) -> bool:
    return not id_keys.any and bool(id_keys.values) and _NO_ID_KEY not in id_keys.values


def check_nitro(checks: CheckList, context: Context, signed: SignedQuote) -> ProofFindings:
    """The checks of a NitroTPM document."""
    data = context.part.nitro_document
    assert data is not None  # only then this proof is present
    document, chain = check_document(checks, data, anchors=context.anchors, now=context.now)
    checks.require(
        "document-nitrotpm",
        document.kind is NitroModule.TPM,
        expected="a document of a NitroTPM",
        found=document.module,
        reason="an enclave's document says nothing of a TPM",
        advice="take the document with nitro-tpm-attest, inside the instance",
    )
    check_debug(checks, document)
    checks.equal(
        "document-key",
        expected=_key_info(signed),
        found=document.public_key or b"",
        reason="the document is for another key than the one that signed the quote",
        advice="pass the AK's SubjectPublicKeyInfo (DER) to nitro-tpm-attest as --public-key",
    )
    _check_document_registers(checks, document, signed)
    return ProofFindings(
        platform_id=_key_id(signed),
        identity={"module_id": document.module, "instance_id": document.instance},
        details={"document_time": str(document.timestamp // 1000)},
        windows=chain.windows,
        chain=chain.links,
    )


def _check_document_registers(checks: CheckList, document: NitroDocument, signed: SignedQuote) -> None:
    said = {f"sha384:{number}": value for number, value in document.pcrs.items()}
    wrong = [name for name, value in signed.registers.items() if said.get(name) != value]
    checks.require(
        "document-registers",
        not wrong,
        expected="SHA-384 registers as in the document",
        found=f"another value, or none, for {', '.join(wrong)}" if wrong else "as expected",
        reason="the key in a document is software's choice: only registers in the document are proven",
        advice="quote the SHA-384 bank, and take document and quote one after the other",
    )


def _key_info(signed: SignedQuote) -> bytes:
    return public_key(signed.ak).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_id(signed: SignedQuote) -> bytes:
    return hashlib.sha256(_key_info(signed)).digest()
