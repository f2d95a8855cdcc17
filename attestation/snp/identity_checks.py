"""Which machine a report may come from: chip and cloud provider.

A VCEK belongs to one chip, which its certificate names; a VLEK to one cloud provider (CSP), which loads it on
all its machines of one product and TCB. A host may mask the chip id in reports (``MASK_CHIP_ID``: 64 zeros).

==========  ===========================================================================================
key         passes if
==========  ===========================================================================================
VCEK        the chip is listed, or any is allowed; with a masked chip id only if any is
VLEK        the CSP is listed, or any is allowed; the chip, unless masked, is listed, or any is allowed. With
            a masked one, the CSP stands for it: it is listed by name, or any chip is allowed
Milan       VCEK: the chip is listed, also where any is allowed. VLEK: the CSP is listed by name
==========  ===========================================================================================

Milan, because software alone can take the seed of a chip's keys (arXiv 2605.12990): a report proves no more
than that whoever holds the chip wants it. So its holder has to be known, by the chip or, for a key that all
machines of a provider share and whose reports could be forged with any chip id, by the provider.
"""

from __future__ import annotations

from attestation.policy import SnpPolicy
from attestation.snp.endorsement_key import EndorsementKey
from attestation.snp.products import Product
from attestation.verdict import CheckList
from measurements.sev.report import SigningKey, SnpReport

IDENTITY_CHECKS = ("vlek", "chip-id", "csp-id")

MASKED = bytes(64)
_LIST_CHIP = "add the chip id to chip_ids of the policy's [snp] section, if the machine is known to you"
_LIST_CSP = "add the provider to csp_ids of the policy's [snp] section, if it is trusted with the machine"


def check_identity(checks: CheckList, report: SnpReport, key: EndorsementKey, policy: SnpPolicy) -> None:
    """The checks of ``IDENTITY_CHECKS``; none ends the list."""
    checks.note(
        "vlek",
        policy.vlek or key.kind is not SigningKey.VLEK,
        expected="VCEK or VLEK" if policy.vlek else "VCEK, the key of one chip",
        found=key.kind.name,
        reason="the report is signed by a key that a cloud provider loads on its machines",
        advice="allow VLEKs in the policy (vlek = true) if the provider is trusted with them",
    )
    if key.kind is SigningKey.VLEK:
        _check_provider(checks, report, key, policy)
    else:
        _check_chip(checks, report, key, policy)


def _check_chip(checks: CheckList, report: SnpReport, key: EndorsementKey, policy: SnpPolicy) -> None:
    milan = key.product is Product.MILAN
    if milan:
        reason = "Milan is accepted only from listed chips, since software can take the seed of its keys"
    else:
        reason = "the host masks the chip id" if report.chip_id == MASKED else "the chip is not listed"
    checks.note(
        "chip-id",
        _chip_listed(report, policy) or (policy.chip_ids.any and not milan),
        expected=_listed_chips(policy) if milan else _chips(policy),
        found=_chip(report),
        reason=reason,
        advice=_LIST_CHIP,
    )
    checks.note(
        "csp-id",
        key.csp_id is None,
        expected="none: the key is the chip's",
        found=key.csp_id or "none: the key is the chip's",
        reason="a chip's key names no provider",
        advice="take the certificate again",
    )


def _check_provider(checks: CheckList, report: SnpReport, key: EndorsementKey, policy: SnpPolicy) -> None:
    masked, milan = report.chip_id == MASKED, key.product is Product.MILAN
    named = key.csp_id in policy.csp_ids.values
    checks.note(
        "chip-id",
        policy.chip_ids.any or _chip_listed(report, policy) or (masked and named),
        expected=_chips(policy) + ("; masked: of a provider that is listed by name" if masked else ""),
        found=_chip(report),
        reason="the chip id is masked, and nothing else says which machines are meant"
        if masked
        else "the chip is not listed",
        advice=_LIST_CSP if masked else _LIST_CHIP,
    )
    checks.note(
        "csp-id",
        named or (policy.csp_ids.any and not milan),
        expected=_listed_providers(policy) if milan else str(policy.csp_ids),
        found=str(key.csp_id),
        reason="keys of Milan are accepted only from providers that are listed by name"
        if milan
        else "the provider is not listed",
        advice=_LIST_CSP,
    )


def _chip_listed(report: SnpReport, policy: SnpPolicy) -> bool:
    """Zeros on the list name no chip."""
    return report.chip_id != MASKED and report.chip_id.hex() in policy.chip_ids.values


def _chip(report: SnpReport) -> str:
    return "masked by the host" if report.chip_id == MASKED else report.chip_id.hex()


def _chips(policy: SnpPolicy) -> str:
    return "any chip" if policy.chip_ids.any else _listed_chips(policy)


def _listed_chips(policy: SnpPolicy) -> str:
    return f"one of {len(policy.chip_ids.values)} listed chips"


def _listed_providers(policy: SnpPolicy) -> str:
    return f"listed by name: {', '.join(sorted(policy.csp_ids.values)) or 'none'}"
