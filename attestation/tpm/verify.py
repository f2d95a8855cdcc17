"""Verification of the TPM part of a container: a quote, who signed it, and what the policy says of it.

A pure function of evidence, collateral, trust anchors, policy, time and the verified facts of the machine's
own TEE report, if it has one. Groups and checks in their order; the first group ends at its first failure,
and so does each proof:

======================  ==================================================================================
``tpm-quote``
``tpm-allowed``         the policy has a section for TPMs, the evidence a TPM part within its size limits
``ak-key``              the AK's public area is well formed
``ak-attributes``       restricted signing key that never left its TPM
``quote-signature``     the AK signed the quote: RSASSA, RSAPSS or ECDSA, SHA-256 or better
``quote-type``          it is a quote that a TPM made
``pcr-selection``       the registers shown are those selected, each bank once, none of SHA-1
``pcr-digest``          the digest is that of the registers shown
``ak-proof``            at least one proof that the policy allows is there
``quote-signer``        without a credential: the AK is a primary key of its TPM by the name in the quote
``tpm-<proof>``         one group for each proof: see ``attestation.tpm.ak_proofs``
``tpm-policy``
``pcr-coverage``        the quote covers the policy's registers in each of its banks
``platform-id``         SHA-256 of the proven EK's or AK's SubjectPublicKeyInfo is on the list
``measurements``        one of the policy's sets holds
``report-data``         the qualifying data is on the policy's list
``event-log-present``   a TCG event log is there, if the policy demands one
``tee-report``          a TEE report beside the TPM goes with it: by HCL report or NitroTPM document, or since
                        both bind the same data
======================  ==================================================================================

Registers are called ``sha256:4``. Report data of a TPM is the quote's qualifying data, up to 64 bytes. The
policy may list it as it is, or give the 64 bytes of report data whose SHA-256 keyturn's guest quotes. That a
log yields the registers is for ``attestation.event_logs``. Revocation lists count where they are given.

That report and TPM bind the same data (``tee-report``) shows that they answered one request, not that they
are in one machine: who controls two machines can pass the request on. Only an HCL report ties them by a key.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress

from attestation.anchors import Anchors
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform, LogFormat, TpmPart
from attestation.measurement_sets import check_measurements, check_report_data
from attestation.platform_verification import ChainLink, PlatformFacts, PlatformVerification
from attestation.policy import AkProof, Allowed, Policy, TpmPolicy
from attestation.tpm.ak_proofs import Proof, ak_id, proofs_of
from attestation.tpm.ak_public import hierarchy_of
from attestation.tpm.context import Context, ProofFindings, SignedQuote
from attestation.tpm.quote_checks import QUOTE_CHECKS, check_quote, describe, uncovered
from attestation.verdict import CheckFailedError, CheckList
from attestation.verdict_tree import Group, group_of

MAX_SIZES = {
    "quote": 4096,
    "signature": 1024,
    "ak_public": 1024,
    "ek_certificate": 8192,
    "ak_certificate": 8192,
    "hcl_report": 16 << 10,
    "nitro_document": 32 << 10,
    "activated_secret": 64,
}
"""Bytes of each field of a part."""
MAX_REGISTERS = 128
QUOTE_GROUP = ("tpm-allowed", *QUOTE_CHECKS, "ak-proof", "quote-signer")
POLICY_CHECKS = (
    "pcr-coverage",
    "platform-id",
    "measurements",
    "report-data",
    "event-log-present",
    "tee-report",
)

_REPORT_DATA = re.compile(r"[0-9a-f]{128}")


def verify_tpm(
    evidence: EvidenceContainer,
    *,
    collateral: Collateral,
    anchors: Anchors,
    policy: Policy,
    now: int,
    tee: PlatformFacts | None,
) -> PlatformVerification:
    """Make all checks on ``evidence.tpm``; never raises for bad evidence. ``tee`` are the facts of the same
    container's platform report, after its own verifier passed it.
    """
    form = CheckList()
    try:
        context = _context(form, evidence, collateral.joined(evidence.collateral), anchors, policy, now, tee)
        signed = check_quote(form, context.part)
        proofs = _proofs(form, context, signed)
    except CheckFailedError:
        return PlatformVerification(groups=(_quote_group(form), _policy_group(CheckList())), facts=None)
    groups, findings = [_quote_group(form)], []
    for proof in proofs:
        group, found = _prove(proof, context, signed)
        groups.append(group)
        findings += [found] if found else []
    rules = CheckList()
    _check_rules(rules, context, signed, findings)
    groups.append(_policy_group(rules))
    return PlatformVerification(
        groups=tuple(groups),
        facts=_facts(signed, proofs, findings, tee) if all(group.passed for group in groups) else None,
        windows=tuple(window for one in findings for window in one.windows),
        chain=tuple(link for one in findings for link in (*one.chain, _link(one))),
    )


def _context(
    checks: CheckList,
    evidence: EvidenceContainer,
    collateral: Collateral,
    anchors: Anchors,
    policy: Policy,
    now: int,
    tee: PlatformFacts | None,
) -> Context:
    section, part = policy.tpm, evidence.tpm
    wrong = _oversized(part) if part is not None else ["no TPM part"]
    checks.require(
        "tpm-allowed",
        section is not None and not wrong,
        expected="a policy with a section for TPMs, and a TPM part within its limits",
        found="no [tpm] section" if section is None else ", ".join(wrong) or "as expected",
        reason=f"the policy {policy.name} does not allow TPMs, or the part is missing or too large",
        advice="add a [tpm] section to the policy, or take the evidence again",
    )
    assert section is not None  # the check above has ended otherwise
    assert part is not None
    return Context(
        evidence=evidence,
        part=part,
        collateral=collateral,
        anchors=anchors,
        policy=policy,
        section=section,
        now=now,
        tee=tee,
    )


def _oversized(part: TpmPart) -> list[str]:
    wrong = [name for name, limit in MAX_SIZES.items() if len(getattr(part, name) or b"") > limit]
    if sum(len(values) for values in part.pcrs.values()) > MAX_REGISTERS:
        wrong.append("pcrs")
    return wrong


def _proofs(checks: CheckList, context: Context, signed: SignedQuote) -> tuple[Proof, ...]:
    proofs = proofs_of(context)
    allowed = ", ".join(sorted(context.section.ak_proofs)) or "none"
    checks.require(
        "ak-proof",
        bool(proofs),
        expected=f"one of: {allowed}",
        found=", ".join(proof.kind for proof in proofs) or "none",
        reason="nothing ties the attestation key to a real TPM",
        advice="send the EK certificate and the opened credential, or what the cloud says of the key",
    )
    bound = any(proof.kind is AkProof.CREDENTIAL for proof in proofs)
    hierarchy = hierarchy_of(signed.ak, signed.quote.qualified_signer)
    checks.require(
        "quote-signer",
        bound or hierarchy is not None,
        expected="the key's name, as a primary key of a hierarchy",
        found=f"primary key of the {hierarchy} hierarchy" if hierarchy else "another name",
        reason="the quote names another signer than this public area: its attributes are a mere claim",
        advice="show the key's own public area, as the TPM gives it",
    )
    return proofs


def _prove(proof: Proof, context: Context, signed: SignedQuote) -> tuple[Group, ProofFindings | None]:
    checks = CheckList()
    found = None
    with suppress(CheckFailedError):
        found = proof.check(checks, context, signed)
    return group_of(f"tpm-{proof.kind}", proof.title, proof.names, checks.verdict()), found


def _check_rules(
    checks: CheckList, context: Context, signed: SignedQuote, findings: list[ProofFindings]
) -> None:
    section = context.section
    _check_coverage(checks, section, signed)
    ids = [one.platform_id.hex() for one in findings]
    if ids:
        checks.note(
            "platform-id",
            any(section.platform_ids.holds(one) for one in ids),
            expected=str(section.platform_ids),
            found=", ".join(ids),
            reason="the policy does not list this machine's key",
            advice="list the platform id in the policy, if this is your machine",
        )
    check_measurements(checks, signed.registers, section.measurements)
    check_report_data(checks, signed.quote.extra_data, qualifying_values(context.policy.report_data))
    _check_tee_report(checks, context, signed)
    logged = any(log.format is LogFormat.TCG2 for log in context.evidence.logs)
    checks.note(
        "event-log-present",
        logged or not section.event_log,
        expected="a TCG event log" if section.event_log else "none demanded",
        found="a log" if logged else "none",
        reason="the policy demands an event log",
        advice="send /sys/kernel/security/tpm0/binary_bios_measurements as well",
    )


def _check_tee_report(checks: CheckList, context: Context, signed: SignedQuote) -> None:
    alone, tee = context.evidence.platform is EvidencePlatform.TPM, context.tee
    report_data = tee.report_data if tee is not None else b""
    checks.note(
        "tee-report",
        alone or _names_key(context) or _same_data(report_data, signed.quote.extra_data),
        expected="none" if alone else "a TEE report that goes with this TPM",
        found="none" if alone else report_data.hex() or "no verified report, or no report data",
        reason="nothing ties the TPM's quote to the TEE report: they may be of two machines",
        advice="ask both for evidence over the same data",
    )


def _names_key(context: Context) -> bool:
    """Whether a statement on the AK, which is judged as its proof, comes with the report."""
    part, allowed = context.part, context.section.ak_proofs
    hcl = AkProof.HCL_REPORT in allowed and part.hcl_report is not None
    nitro = AkProof.NITRO_DOCUMENT in allowed and part.nitro_document == context.evidence.report
    return hcl or (nitro and context.evidence.platform is EvidencePlatform.NITRO)


def _same_data(report_data: bytes, quoted: bytes) -> bool:
    """The TPM quotes what the report binds, or its hash as keyturn's guest does; zeros fill data up."""
    hashed = hashlib.sha256(report_data).digest()
    return any(report_data) and (
        quoted == hashed or (any(quoted) and quoted.ljust(len(report_data), b"\0") == report_data)
    )


def qualifying_values(allowed: Allowed) -> Allowed:
    """The list with, for each report data of 64 bytes, the qualifying data of keyturn's guest as well."""
    hashes = {
        hashlib.sha256(bytes.fromhex(value)).hexdigest()
        for value in allowed.values
        if _REPORT_DATA.fullmatch(value)
    }
    return Allowed(values=allowed.values | hashes, any=allowed.any)


def _check_coverage(checks: CheckList, section: TpmPolicy, signed: SignedQuote) -> None:
    missing = uncovered(section, signed.registers)
    checks.note(
        "pcr-coverage",
        not missing,
        expected=f"PCR {','.join(map(str, sorted(section.pcrs))) or 'of any number'} "
        f"of {', '.join(sorted(section.banks)) or 'each bank quoted'}",
        found=describe(signed.quote.selections),
        reason=f"the quote does not cover {', '.join(missing)}",
        advice="quote all registers of the policy, in each of its banks",
    )


def _quote_group(checks: CheckList) -> Group:
    return group_of("tpm-quote", "TPM quote", QUOTE_GROUP, checks.verdict())


def _policy_group(checks: CheckList) -> Group:
    return group_of("tpm-policy", "TPM policy", POLICY_CHECKS, checks.verdict())


def _link(found: ProofFindings) -> ChainLink:
    issuer = found.chain[0].subject if found.chain else "TEE report"
    return ChainLink(subject="TPM quote", issuer=issuer, detail=found.platform_id.hex())


def _facts(
    signed: SignedQuote, proofs: tuple[Proof, ...], findings: list[ProofFindings], tee: PlatformFacts | None
) -> PlatformFacts:
    quote = signed.quote
    details = {
        "ak_proofs": ", ".join(proof.kind for proof in proofs),
        "ak_hierarchy": hierarchy_of(signed.ak, quote.qualified_signer) or "below another key",
        "reset_count": str(quote.reset_count),
        "restart_count": str(quote.restart_count),
        "clock_ms": str(quote.clock),
        "tpm_firmware_version": f"{quote.firmware_version:016x}",
    }
    identity = {"platform_id": findings[0].platform_id.hex(), "ak_id": ak_id(signed).hex()}
    for one in findings:
        identity |= one.identity
        details |= one.details
    return PlatformFacts(
        platform=EvidencePlatform.TPM,
        development=tee is not None and tee.development,
        report_data=quote.extra_data,
        registers=signed.registers,
        identity=identity,
        details=details,
    )
