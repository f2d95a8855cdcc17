"""The checks from a report's signature to AMD's root: see ``attestation.snp.verify`` for their list."""

from __future__ import annotations

from attestation.anchors import Anchors
from attestation.collateral import Collateral
from attestation.platform_verification import ChainLink
from attestation.policy import SnpPolicy
from attestation.snp.chain import check_roles, find_endorsement_key, names_chip, signed_by
from attestation.snp.endorsement_key import EndorsementKey
from attestation.snp.findings import Findings
from attestation.snp.identity_checks import MASKED
from attestation.snp.products import Product, product_of_cpu
from attestation.snp.revocation import check_revocation
from attestation.verdict import CheckList
from attestation.x509_chain import CertificateError, Chain, build_chain, check_windows
from measurements.sev.report import SigningKey, SnpReport

CHAIN_CHECKS = (
    "key-certificate",
    "product",
    "chain",
    "chain-roles",
    "chain-validity",
    "crl",
    "key-tcb",
    "key-chip",
    "report-signature",
)

_FETCH = "fetch it with `keyturn collateral fetch` and give it along"


def check_chain(
    checks: CheckList,
    findings: Findings,
    *,
    data: bytes,
    report: SnpReport,
    material: Collateral,
    anchors: Anchors,
    policy: SnpPolicy,
    now: int,
) -> EndorsementKey:
    """The checks of ``CHAIN_CHECKS``; returns the key that signed ``data``, the bytes of ``report``.
    ``material`` holds all certificates and lists. Raises ``CheckFailedError``.
    """
    key = _find_key(checks, data, report, material)
    product = key.product
    _check_product(checks, report, key)
    chain = _build(checks, key, product, material, anchors)
    findings.links += [ChainLink(subject="attestation report", issuer=f"SEV-{key.kind.name}"), *chain.links]
    findings.windows += chain.windows
    _check_now(checks, findings, chain, key, material, policy, now)
    _check_key(checks, report, key)
    _check_signature(checks, data, report, key)
    return key


def _find_key(checks: CheckList, data: bytes, report: SnpReport, material: Collateral) -> EndorsementKey:
    kind = report.signing_key
    found, reason = None, ""
    try:
        found = find_endorsement_key(material.certificates, data, report)
    except CertificateError as error:
        reason = error.reason
    checks.require(
        "key-certificate",
        found is not None,
        expected=f"a {kind.name} certificate",
        found=found.product_name if found else "none",
        reason=reason,
        advice=_key_advice(report),
    )
    assert found is not None
    return found


def _key_advice(report: SnpReport) -> str:
    if report.signing_key is SigningKey.VLEK:
        return (
            "take the certificate table of the extended report along: only the host has its VLEK certificate"
        )
    return f"the certificate of this chip for {report.reported_tcb}: {_FETCH}"


def _check_product(checks: CheckList, report: SnpReport, key: EndorsementKey) -> None:
    cpu = report.cpu
    if cpu is None:
        checks.require(
            "product",
            key.product is not Product.TURIN,
            expected="Milan or Genoa, by the certificate",
            found=key.product_name,
            reason="a report of version 2 does not say which layout its TCB has, and Turin has another",
            advice="update the host's firmware, so that it writes reports of version 3 or later",
        )
        return
    product = product_of_cpu(cpu.family, cpu.model)
    checks.require(
        "product",
        product is key.product,
        expected=f"{product.label if product else 'a known product'}, by CPU {cpu.name}",
        found=key.product_name,
        reason="CPU and certificate are of different products" if product else "the CPU is not known",
        advice="take the certificate for the chip that made the report",
    )


def _build(
    checks: CheckList, key: EndorsementKey, product: Product, material: Collateral, anchors: Anchors
) -> Chain:
    issuer, root = product.issuer_name(key.kind), product.root_name
    chain, reason = None, ""
    try:
        chain = build_chain(
            key.der,
            material.certificates,
            roots=anchors.fingerprints(product.purpose),
            what=f"the {key.kind.name} certificate",
        )
    except CertificateError as error:
        reason = error.reason
    checks.require(
        "chain",
        chain is not None,
        expected=f"SEV-{key.kind.name} ← {issuer} ← {root}, whose fingerprint is pinned",
        found="a chain to a pinned root" if chain else "no such chain",
        reason=reason,
        advice=f"give {issuer} and {root} along ({product.source(key.kind)}/cert_chain): {_FETCH}",
    )
    assert chain is not None
    with checks.step("chain-roles", expected=f"SEV-{key.kind.name} ← {issuer} ← {root}"):
        check_roles(chain, product, key.kind)
    return chain


def _check_now(
    checks: CheckList,
    findings: Findings,
    chain: Chain,
    key: EndorsementKey,
    material: Collateral,
    policy: SnpPolicy,
    now: int,
) -> None:
    """Time and revocation: they say nothing about the signature, so it is checked in any case."""
    reason = ""
    try:
        check_windows(chain.windows, now)
    except CertificateError as error:
        reason = error.reason
    checks.note(
        "chain-validity",
        not reason,
        expected="all certificates valid now",
        found=reason or "all certificates valid now",
        reason=reason,
        advice=f"check the clock; if the certificate was renewed, {_FETCH}",
    )
    source = f"{key.product.source(key.kind)}/crl"
    revocation, reason = None, ""
    try:
        revocation = check_revocation(
            chain, material.crls, max_age=policy.max_crl_age, now=now, source=source
        )
    except CertificateError as error:
        reason = error.reason
    if revocation is not None:
        findings.windows += revocation.windows
        findings.links.append(revocation.link)
        findings.crl_number = revocation.number
    checks.note(
        "crl",
        revocation is not None,
        expected=f"not revoked, by a list of {key.product.root_name} that is at most "
        f"{policy.max_crl_age / 86400:g} days old",
        found=reason or "not revoked",
        reason=reason,
        advice=f"the list of {key.product.root_name} from {source}: {_FETCH}",
    )


def _check_key(checks: CheckList, report: SnpReport, key: EndorsementKey) -> None:
    checks.note(
        "key-tcb",
        key.tcb == report.reported_tcb,
        expected=f"the reported TCB: {report.reported_tcb}",
        found=str(key.tcb),
        reason=f"the {key.kind.name} certificate is of another TCB than the report says",
        advice=_key_advice(report),
    )
    vlek, masked = key.kind is SigningKey.VLEK, report.chip_id == MASKED
    checks.note(
        "key-chip",
        vlek or masked or names_chip(key, report),
        expected="no chip: the key is a provider's"
        if vlek
        else "the host masks the chip id"
        if masked
        else f"the report's chip: {report.chip_id.hex()}",
        found=key.hardware_id.hex() if key.hardware_id else f"provider {key.csp_id}",
        reason="the VCEK certificate is of another chip",
        advice=_key_advice(report),
    )


def _check_signature(checks: CheckList, data: bytes, report: SnpReport, key: EndorsementKey) -> None:
    checks.require(
        "report-signature",
        signed_by(data, report, key.public_key),
        expected=f"ECDSA P-384 with SHA-384 by the {key.kind.name}",
        found="signature",
        reason="the report is not signed by the key of the certificate",
        advice="take the report and the certificate of its chip and TCB again",
    )
