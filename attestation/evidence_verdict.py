"""The verdict on one machine's evidence: all checks, and what they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attestation.container import EvidenceContainer
from attestation.container_codec import container_hash
from attestation.platform_verification import ChainLink, Component, PlatformFacts, Window
from attestation.policy import Policy
from attestation.policy_document import policy_digest
from attestation.verdict_tree import Group, Tree


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceVerdict:
    """The verdict on one machine. ``facts`` has one entry for each verified report (platform, TPM, GPUs) and
    is empty unless all passed; ``now`` is in seconds since 1970.
    """

    groups: tuple[Group, ...]
    facts: tuple[PlatformFacts, ...]
    evidence: EvidenceContainer
    policy: Policy
    development: bool
    """Whether trust is for development only: policy or machine."""
    now: int
    windows: tuple[Window, ...]
    components: tuple[Component, ...]
    chain: tuple[ChainLink, ...]
    versions: tuple[tuple[str, str], ...]

    @property
    def tree(self) -> Tree:
        """All checks, in groups."""
        return Tree(groups=self.groups)

    @property
    def evidence_hash(self) -> bytes:
        """Hash of the container, 32 bytes."""
        return container_hash(self.evidence)

    @property
    def policy_digest(self) -> bytes:
        """Digest of the policy as it stands on chain, 32 bytes."""
        return policy_digest(self.policy)

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return self.tree.passed

    @property
    def failed_checks(self) -> frozenset[str]:
        """``group/check`` of everything that did not pass."""
        return frozenset(
            f"{group.name}/{check.name}"
            for group in self.groups
            for check in group.checks
            if not check.passed
        )

    def __bool__(self) -> bool:
        raise TypeError("ask for .passed")

    def as_json(self) -> dict[str, Any]:
        """The verdict as ``--json`` shows it."""
        return {
            **self.tree.as_json(),
            "evidence": self.evidence_hash.hex(),
            "policy": {"name": self.policy.name, "digest": self.policy_digest.hex()},
            "development": self.development,
            "now": self.now,
            "facts": [_facts_json(one) for one in self.facts],
            "windows": [one.as_json() for one in self.windows],
            "components": [one.as_json() for one in self.components],
            "versions": dict(self.versions),
        }


def _facts_json(facts: PlatformFacts) -> dict[str, Any]:
    return {
        "platform": facts.platform.value,
        "development": facts.development,
        "report_data": facts.report_data.hex(),
        "registers": {name: value.hex() for name, value in facts.registers.items()},
        "identity": dict(facts.identity),
        "details": dict(facts.details),
    }
