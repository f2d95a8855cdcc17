"""A service that answers now, as named checks: it signs with a released key, in the machine of the release.

The fresh evidence is checked like that of a release, with the whole log (groups ``fresh-…``); then these:

======================  ================================================================================
``service-form``        nonce, key and quote are well formed
``service-nonce``       they are about the nonce that the verifier made
``service-signature``   the key signed that nonce
``service-key``         the receipt names that key, with this public half
``same-machine``        TPM and attestation key are those of the release
``same-boot``           so is the boot: the TPM was not reset in between, and its clock has not gone back
``same-app``            so are app and app hash
``same-instance``       so is the instance
``same-configuration``  so is the configuration disk
``same-documents``      so are certificate, firmware log and all else that a boot does not change, to the byte
======================  ================================================================================

A proof that is read from a bundle is about the nonce in that bundle: that it was fresh then is the word of
whoever kept it. What the service says later is its own only where the key signs it: no connection is bound.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from attestation.evidence import Evidence
from attestation.evidence_tree import AppFacts, EvidenceAnchors, evidence_groups, verify_evidence_tree
from attestation.tpm_structures import Quote, parse_quote
from attestation.verdict import CheckFailedError, CheckList, Verdict
from attestation.verdict_tree import Group, group_of, renamed
from kms.receipt import Receipt
from kms.service_proof import FreshPart, parse_fresh, service_report_data, signature_holds
from measurements.reference import Reference

PREFIX = "fresh-"
SERVICE_CHECKS = ("service-form", "service-nonce", "service-signature", "service-key")
SAME_CHECKS = (
    "same-machine",
    "same-boot",
    "same-app",
    "same-instance",
    "same-configuration",
    "same-documents",
)
SAME_DOCUMENTS = ("ak_public", "ek_certificate", "event_log", "app_manifest", "reference")
"""Parts of evidence that do not change within a boot; the receipt's evidence hash binds them to the byte."""

_ELSEWHERE = "the service runs elsewhere than where its keys were released to"
_RESTART = "let the service show the release of this boot, and ask again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """A verified release, from bundle and receipt."""

    receipt: Receipt
    evidence: Evidence
    facts: AppFacts
    reference: Reference


def service_groups(
    document: object, released: Released | None, anchors: EvidenceAnchors, *, nonce: bytes | None
) -> tuple[Group, ...]:
    """The groups of a service; without a verified release nothing more than its form can be checked.

    ``anchors`` are those of the release, for the whole log; their report data is not used. ``nonce`` is the
    one that the verifier made; None where the proof was kept.
    """
    service, same = CheckList(), CheckList()
    evidence = evidence_groups(Verdict(checks=()))
    with suppress(CheckFailedError):
        fresh = _check_nonce(service, document, nonce)
        if released is not None:
            _check_key(service, fresh, released.receipt)
            tree = verify_evidence_tree(
                fresh.quote, released.reference, replace(anchors, report_data=service_report_data(fresh))
            )
            evidence = tree.groups
            if tree.facts is not None:
                _check_same(same, released, fresh, tree.facts)
    return (
        group_of("service", "service", SERVICE_CHECKS, service.verdict()),
        *renamed(evidence, prefix=PREFIX, when="now"),
        group_of("same", "the machine of the release", SAME_CHECKS, same.verdict()),
    )


def _check_nonce(checks: CheckList, document: object, nonce: bytes | None) -> FreshPart:
    with checks.step("service-form", expected="nonce, key and quote of a service"):
        fresh = parse_fresh(document)
    kept = "a nonce that is kept with the proof: that it was fresh is the word of whoever kept it"
    checks.require(
        "service-nonce",
        nonce in (None, fresh.nonce),
        expected=kept if nonce is None else nonce.hex(),
        found=fresh.nonce.hex(),
        reason="the proof is about another nonce than was asked about: it may be an old one",
        advice="ask the service again, with a nonce of your own",
    )
    holds = signature_holds(fresh)
    checks.require(
        "service-signature",
        holds,
        expected=f"a signature by {fresh.key.path} ({fresh.key.kind.value}) over the nonce",
        found="it holds" if holds else "it does not hold",
        reason="whoever answers does not have the key that it shows",
        advice="do not trust what this service says",
    )
    return fresh


def _check_key(checks: CheckList, fresh: FreshPart, receipt: Receipt) -> None:
    key = fresh.key
    named = [one.public for one in receipt.outcome.keys if (one.path, one.kind) == (key.path, key.kind)]
    checks.require(
        "service-key",
        named == [key.public],
        expected=", ".join("no public half" if one is None else one.hex() for one in named)
        or f"a key {key.path} in the receipt",
        found=key.public.hex(),
        reason="the key that signs was not released with this receipt",
        advice="let the service sign with a key of its app, and show the receipt of its own boot",
    )


def _check_same(checks: CheckList, released: Released, fresh: FreshPart, facts: AppFacts) -> None:
    then, now = released.facts.tpm, facts.tpm
    checks.equal(
        "same-machine",
        expected=then.ek.platform_id + then.ak_name,
        found=now.ek.platform_id + now.ak_name,
        reason=_ELSEWHERE,
        advice=_RESTART,
    )
    _check_boot(checks, parse_quote(released.evidence.quote), parse_quote(fresh.quote.quote))
    for name, before, after in (
        (
            "same-app",
            then.release.app_id + then.release.app_hash,
            now.release.app_id + now.release.app_hash,
        ),
        ("same-instance", then.release.instance_id, now.release.instance_id),
        ("same-configuration", then.release.config_hash, now.release.config_hash),
    ):
        checks.equal(name, expected=before, found=after, reason=_ELSEWHERE, advice=_RESTART)
    other = [one for one in SAME_DOCUMENTS if getattr(released.evidence, one) != getattr(fresh.quote, one)]
    checks.require(
        "same-documents",
        not other,
        expected=", ".join(SAME_DOCUMENTS),
        found=f"another {', '.join(other)}" if other else "the same",
        reason="the fresh evidence shows another document than the KMS saw",
        advice=_RESTART,
    )


def _check_boot(checks: CheckList, then: Quote, now: Quote) -> None:
    """Reset and restart counters of the TPM (TPMS_CLOCK_INFO) are those of the release."""
    counters = (then.reset_count, then.restart_count), (now.reset_count, now.restart_count)
    checks.require(
        "same-boot",
        counters[0] == counters[1] and then.clock <= now.clock,
        expected=f"reset {then.reset_count}, restart {then.restart_count}, clock from {then.clock} on",
        found=f"reset {now.reset_count}, restart {now.restart_count}, clock {now.clock}",
        reason="the machine was started again after its keys were released",
        advice=_RESTART,
    )
