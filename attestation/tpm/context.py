"""What the checks of one TPM part share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attestation.anchors import Anchors
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, TpmPart
from attestation.platform_verification import ChainLink, PlatformFacts, Window
from attestation.policy import Policy, TpmPolicy
from attestation.tpm_structures import Public, Quote


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The question: one part, with all that it is judged by. ``collateral`` has the evidence's own in it."""

    evidence: EvidenceContainer
    part: TpmPart
    collateral: Collateral
    anchors: Anchors
    policy: Policy
    section: TpmPolicy
    now: int
    tee: PlatformFacts | None

    @property
    def pool(self) -> tuple[bytes, ...]:
        """DER of all certificates at hand."""
        return (*self.evidence.certificates, *self.collateral.certificates)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedQuote:
    """A quote whose signature and registers hold; nothing is known yet of who signed it. ``registers`` has
    the names of policies.
    """

    ak: Public
    quote: Quote
    registers: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofFindings:
    """What one proof of an attestation key found; ``platform_id`` is SHA-256 of a SubjectPublicKeyInfo."""

    platform_id: bytes
    identity: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    windows: Sequence[Window] = ()
    chain: Sequence[ChainLink] = ()
