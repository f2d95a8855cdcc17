"""The KMS of a receipt, as named checks: its own evidence, and that the registry admitted exactly that.

Names are those of ``kms.node.verify_node`` with ``kms-`` before them, in one group, and these:

========================  ===============================================================================
``kms-reference-values``  the reference values of the KMS's machine are there
``kms-same-id``           it is the KMS that signed the receipt
``kms-app-hash``          the registry admitted this KMS app, proven at the receipt's block
``kms-evidence-hash``     and this evidence
========================  ===============================================================================

The evidence is of the moment when the KMS was admitted, not of now.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from attestation.evidence_tree import ExpectedAppId
from attestation.verdict import CheckFailedError, CheckList, Verdict
from attestation.verdict_tree import Group, group_of, renamed
from contracts import layout
from kms.bundle import parse_reference_part
from kms.node import KmsNode, NodeAnchors, parse_node, verify_node
from kms.receipt import Receipt

PREFIX = "kms-"
REGISTERED_CHECKS = ("kms-reference-values", "kms-same-id", "kms-app-hash", "kms-evidence-hash")


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A verified receipt and the registry's entry of its KMS, proven at the receipt's block."""

    receipt: Receipt
    entry: layout.KmsNode


def node_group(
    document: object,
    reference: object,
    registered: Registered | None,
    *,
    roots: Sequence[bytes],
    intermediates: Sequence[bytes],
    development: bool,
) -> Group:
    """The group; ``document`` and ``reference`` are JSON. Without a verified policy nothing holds."""
    checks, evidence = CheckList(), Verdict(checks=())
    names: tuple[str, ...] = ()
    with suppress(CheckFailedError):
        with checks.step("kms-reference-values", expected="reference values of the KMS's machine"):
            values = parse_reference_part(reference)
        if registered is not None:
            groups = verify_node(
                document,
                NodeAnchors(
                    roots=roots,
                    intermediates=intermediates,
                    reference=values,
                    app=ExpectedAppId(app_id=_contract(registered.receipt)),
                    now=registered.receipt.time,
                    development=development,
                ),
            )
            made = [check for group in renamed(groups, prefix=PREFIX, when="") for check in group.checks]
            evidence, names = Verdict(checks=tuple(made)), tuple(check.name for check in made)
            if all(group.passed for group in groups):
                _check_registered(checks, parse_node(document), registered)
    verdict = Verdict(checks=(*evidence.checks, *checks.verdict().checks))
    return group_of("kms", "KMS, when it was admitted", (*names, *REGISTERED_CHECKS), verdict)


def _check_registered(checks: CheckList, node: KmsNode, registered: Registered) -> None:
    entry = registered.entry
    for name, expected, found in (
        ("kms-same-id", registered.receipt.kms_id, node.kms_id),
        ("kms-app-hash", entry.app_hash, node.app_hash),
        ("kms-evidence-hash", entry.evidence_hash, node.evidence_hash),
    ):
        checks.equal(
            name,
            expected=expected,
            found=found,
            reason="the registry admitted another KMS than this evidence is of",
            advice="take the file that the KMS was admitted with",
        )


def _contract(receipt: Receipt) -> bytes:
    chain = receipt.outcome.chain
    assert chain is not None  # every release has it
    return chain.contract
