"""``keyturn verify FILE --policy POLICY``: evidence of any platform, judged by a policy."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attestation.evidence import TYPE
from keyturn.input_files import read_limited
from keyturn.output import Output, escape
from keyturn.verdict_output import require_tree, show_tree
from keyturn.verify_inputs import VerifyUsageError
from measurements.canonical import parse_json
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from attestation.collateral import Collateral
    from attestation.container import EvidenceContainer
    from attestation.evidence_verdict import EvidenceVerdict
    from attestation.forecast import Forecast, Turn
    from attestation.platform_verification import PlatformFacts
    from attestation.policy import Policy

_ACTIVATION = re.compile(r"[0-9a-f]{64}")
_SHORT = 64
"""Characters of a value that a line shows whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyInputs:
    """What was given beside the evidence; None is not given."""

    policy: Path | None
    collateral: tuple[Path, ...]
    now: str | None
    offline: bool
    html: Path | None
    pccs: str | None
    kds: str | None
    cache: Path | None
    report_data: str | None
    activation: str | None

    def refuse_unused(self, *, rule: bool) -> None:
        """Raises ``VerifyUsageError`` where options were given that nothing of this kind uses. ``rule`` says
        that a policy has a use: as the app's rule on chain.
        """
        given = {
            "--policy": self.policy if not rule else None,
            "--collateral": self.collateral or None,
            "--now": self.now,
            "--offline": self.offline or None,
            "--html": self.html,
            "--pccs": self.pccs,
            "--kds": self.kds,
            "--cache": self.cache,
            "--activation": self.activation,
        }
        for option, value in given.items():
            if value is not None:
                raise VerifyUsageError(
                    "goes with a file of evidence and --policy only",
                    subject=option,
                    advice="leave it out, or judge evidence: keyturn verify FILE --policy POLICY",
                )


def read_own_document(path: Path) -> Any:
    """Keyturn's own evidence, or a receipt: what is verified without a policy. Raises ``VerifyUsageError``
    for anything else.
    """
    try:
        document = parse_json(read_limited(path), subject=str(path))
    except KeyturnError:
        document = None
    if _is_receipt(document) or (isinstance(document, dict) and document.get("type") == TYPE):
        return document
    raise VerifyUsageError(
        "is neither evidence of a keyturn guest nor a receipt",
        subject=str(path),
        advice="to judge evidence of any other kind give --policy POLICY (keyturn policy init writes one)",
    )


def is_judged_file(name: str) -> bool:
    """Whether a policy judges this file itself: it is neither a service nor a receipt of a KMS, whose app
    names its policy on chain.
    """
    from keyturn.service_client import is_url

    if is_url(name):
        return False
    data = read_limited(Path(name))
    if data.lstrip()[:1] != b"{":
        return True
    try:
        document = parse_json(data, subject=name)
    except KeyturnError:
        return True
    return not _is_receipt(document)


def _is_receipt(document: Any) -> bool:
    """Whether it is a signed receipt, alone or as a KMS shows it with its place in a batch."""
    return isinstance(document, dict) and ("receipt" in document or "payloadType" in document)


def verify_with_policy(out: Output, path: Path, inputs: PolicyInputs) -> None:
    """Verify, show the tree and the forecast, and end with exit status 1 unless the evidence passes."""
    from attestation.anchors import anchors_for
    from attestation.forecast import forecast
    from attestation.importers import import_evidence
    from attestation.verify import verify_evidence
    from keyturn.policy_inputs import parse_moment

    now = int(time.time()) if inputs.now is None else parse_moment(inputs.now)
    policy = _policy(inputs)
    anchors = anchors_for(policy)
    evidence = import_evidence(read_limited(path))
    collateral = _collateral(out, evidence, inputs, now)
    evaluate = partial(_evaluate, verify_evidence, evidence, policy, anchors)
    verdict = evaluate(collateral, now)
    ahead = forecast(
        verdict, collateral=evidence.collateral.joined(collateral), policy=policy, evaluate=evaluate
    )
    if inputs.html is not None:
        from attestation.verdict_page import render_page

        inputs.html.write_text(render_page(verdict, ahead), encoding="utf-8")
    _show(out, verdict, ahead)
    out.result({**verdict.as_json(), "forecast": ahead.as_json()})
    require_tree(verdict.tree)


def _evaluate(
    verify: Any, evidence: EvidenceContainer, policy: Policy, anchors: Any, collateral: Collateral, now: int
) -> EvidenceVerdict:
    verdict: EvidenceVerdict = verify(
        evidence, collateral=collateral, anchors=anchors, policy=policy, now=now
    )
    return verdict


def _policy(inputs: PolicyInputs) -> Policy:
    from attestation.policy import Allowed
    from keyturn.policy_inputs import read_policy

    assert inputs.policy is not None
    policy = read_policy(inputs.policy)
    if inputs.activation is not None:
        policy = _with_activation(policy, inputs.activation.lower())
    if inputs.report_data is None:
        return policy
    value = inputs.report_data.lower()
    try:
        bytes.fromhex(value)
    except ValueError:
        raise VerifyUsageError(
            "is not hex", subject="--report-data", advice="give the bytes that the evidence must bind, in hex"
        ) from None
    return replace(policy, report_data=Allowed(values=frozenset({value})))


def _with_activation(policy: Policy, value: str) -> Policy:
    """The policy with this activation value instead of those that it lists."""
    from attestation.policy import AkProof, Allowed

    if not _ACTIVATION.fullmatch(value):
        raise VerifyUsageError(
            "is no activation value",
            subject="--activation",
            advice="give the 64 hex digits that keyturn tpm challenge showed",
        )
    if policy.tpm is None or AkProof.CREDENTIAL not in policy.tpm.ak_proofs:
        raise VerifyUsageError(
            "the policy asks no TPM for a credential" if policy.tpm else "the policy has no [tpm]",
            subject="--activation",
            advice='write ak-proofs = ["credential"] under [tpm] in the policy, or leave the option out',
        )
    return replace(policy, tpm=replace(policy.tpm, activation_secrets=Allowed(values=frozenset({value}))))


def _collateral(out: Output, evidence: EvidenceContainer, inputs: PolicyInputs, now: int) -> Collateral:
    """What is given, and unless ``--offline`` what vendors publish about this evidence's platform."""
    from keyturn.collateral_inputs import fetch_missing, read_collateral

    given = read_collateral(inputs.collateral)
    if inputs.offline:
        if inputs.pccs or inputs.kds or inputs.cache:
            raise VerifyUsageError(
                "asks no network", subject="--offline", advice="leave out --pccs, --kds and --cache"
            )
        return given
    return given.joined(
        fetch_missing(
            out, evidence, given=given, pccs=inputs.pccs, kds=inputs.kds, cache=inputs.cache, now=now
        )
    )


def _show(out: Output, verdict: EvidenceVerdict, ahead: Forecast) -> None:
    if verdict.development:
        out.warn("development only: this trust means nothing in production")
    show_tree(out, verdict.tree, title=f"evidence under policy {escape(verdict.policy.name)}")
    short = [one for one in verdict.components if one.short]
    if short:
        rows = [(escape(one.name), str(one.have), str(one.need)) for one in short]
        out.table("Components behind the newest level", ("component", "the platform has", "it needs"), rows)
    for facts in verdict.facts:
        _show_facts(out, facts)
    for turn in ahead.turns:
        _show_turn(out, turn)
    if ahead.valid_until is not None:
        out.line(f"valid until {_date(ahead.valid_until)}")
    versions = ", ".join(f"{name} {version}" for name, version in verdict.versions)
    out.line(f"[dim]evidence {verdict.evidence_hash.hex()}, policy {verdict.policy_digest.hex()}[/dim]")
    out.line(f"[dim]judged for {_date(verdict.now)} with {escape(versions)}[/dim]")


def _show_facts(out: Output, facts: PlatformFacts) -> None:
    rows: list[tuple[str, str]] = []
    for part in (facts.identity, facts.details, _hex(facts.registers)):
        rows += [(escape(name), escape(value)) for name, value in part.items()]
    rows.append(("report data", facts.report_data.hex()))
    out.table(f"Facts of {facts.platform.value}", ("what", "value"), rows)


def _hex(registers: Mapping[str, bytes]) -> dict[str, str]:
    return {name: value.hex() for name, value in registers.items()}


def _show_turn(out: Output, turn: Turn) -> None:
    outcome = "[green]it passes[/green]" if turn.passes else "[red]it is refused[/red]"
    why = f" ({escape(' '.join(turn.reasons))})" if turn.reasons else ""
    out.line(f"from {_date(turn.at)}: {escape('; '.join(turn.causes))}: {outcome}{why}")


def _date(seconds: int) -> str:
    """Certificates without an end of their own say 9999-12-31, after which calendars here have no date."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds after 1970"
