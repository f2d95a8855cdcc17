"""Whether Intel's quoting enclave vouches for the attestation key. Kept, since a machine's key lasts for many
quotes.

========================  ===============================================================================
check                     passes if (each ends the list if it fails)
========================  ===============================================================================
``qe-report-signature``   the PCK signed the quoting enclave's report
``attestation-key``       report data is SHA-256 of key ‖ authentication data and 32 zeros; the key is a point
``qe-identity-kind``      identity ``TD_QE`` for TDX, ``QE`` for SGX
``qe-identity``           signer, product id, attributes and MISCSELECT (under their masks) are Intel's; no
                          debug
========================  ===============================================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from attestation.dcap.collateral_set import qe_identity_of
from attestation.dcap.enclave_report import EnclaveReport, parse_enclave_report
from attestation.dcap.kept import Kept, keep
from attestation.dcap.qe_identity import QeIdentity
from attestation.dcap.quote import DcapQuote, TeeType
from attestation.dcap.signatures import is_point, signed_by_certificate
from attestation.verdict import CheckList
from attestation.x509_chain import load_certificate

QE_CHECKS = ("qe-report-signature", "attestation-key", "qe-identity-kind", "qe-identity")

_IDENTITIES = {TeeType.SGX: "QE", TeeType.TDX: "TD_QE"}
_TAKE_AGAIN = "take a new quote; if it happens again, the platform's quoting enclave is not Intel's"


@dataclass(frozen=True, slots=True)
class Certified:
    """The parts of a quote that certify its attestation key."""

    tee: int
    attestation_key: bytes
    qe_report: bytes
    signature: bytes
    authentication: bytes

    @classmethod
    def of(cls, quote: DcapQuote) -> Certified:
        """Those of ``quote``."""
        return cls(
            quote.header.tee_type,
            quote.attestation_key,
            quote.qe_report,
            quote.qe_report_signature,
            quote.qe_authentication,
        )


@lru_cache(maxsize=256)
def check_qe(certified: Certified, pck_leaf: bytes, identity: str) -> Kept[EnclaveReport]:
    """Check the quoting enclave under the PCK certificate (DER) and a verified identity (its text)."""
    return keep(lambda checks: _check(checks, certified, pck_leaf, qe_identity_of(identity)))


def _check(checks: CheckList, certified: Certified, pck_leaf: bytes, identity: QeIdentity) -> EnclaveReport:
    signed = signed_by_certificate(load_certificate(pck_leaf), certified.signature, certified.qe_report)
    checks.require(
        "qe-report-signature",
        signed,
        expected="signed by the PCK",
        found="signed" if signed else "no valid signature",
        reason="the platform's key did not sign the quoting enclave's report",
        advice=_TAKE_AGAIN,
    )
    report = parse_enclave_report(certified.qe_report)
    bound = hashlib.sha256(certified.attestation_key + certified.authentication).digest() + bytes(32)
    checks.require(
        "attestation-key",
        report.report_data == bound and is_point(certified.attestation_key),
        expected=bound.hex(),
        found=report.report_data.hex(),
        reason="the quoting enclave did not make this attestation key",
        advice=_TAKE_AGAIN,
    )
    wanted = _IDENTITIES[TeeType(certified.tee)]
    checks.require(
        "qe-identity-kind",
        identity.id == wanted,
        expected=wanted,
        found=identity.id,
        reason="the identity is that of another kind of quoting enclave",
        advice="fetch collateral for this quote: keyturn collateral fetch",
    )
    differences = _differences(report, identity)
    checks.require(
        "qe-identity",
        not differences,
        expected="Intel's quoting enclave",
        found="; ".join(differences) or "Intel's quoting enclave",
        reason="the enclave that made the attestation key is not Intel's quoting enclave",
        advice=_TAKE_AGAIN,
    )
    return report


def _differences(report: EnclaveReport, identity: QeIdentity) -> list[str]:
    found = []
    if report.mrsigner != identity.mrsigner:
        found.append(f"MRSIGNER is {report.mrsigner.hex()}, expected {identity.mrsigner.hex()}")
    if report.product_id != identity.product_id:
        found.append(f"product id is {report.product_id}, expected {identity.product_id}")
    if not _equal_under(report.misc_select, identity.misc_select, identity.misc_select_mask):
        found.append(f"MISCSELECT is {report.misc_select.hex()}")
    if not _equal_under(report.attributes, identity.attributes, identity.attributes_mask):
        found.append(f"attributes are {report.attributes.hex()}")
    if report.debug:
        found.append("it runs in debug mode")
    return found


def _equal_under(value: bytes, expected: bytes, mask: bytes) -> bool:
    return all(one & bits == other & bits for one, other, bits in zip(value, expected, mask, strict=True))
