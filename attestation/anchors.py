"""Trust anchors: the vendors' root certificates, pinned by SHA-256 in ``anchors.toml``, and the user's own.

Only fingerprints are kept: the certificates come with evidence or collateral, and count if their DER has a
pinned fingerprint for the purpose in question.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NoReturn

from attestation.policy import Environment, Policy, RootPurpose, TrustAnchor
from measurements.errors import KeyturnError

_KEYS = {"purpose", "fingerprint", "subject", "source", "date"}
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class AnchorError(KeyturnError):
    """A trust anchor that is not well formed or not allowed."""

    code = "trust-anchor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchors:
    """All roots that a verification trusts."""

    anchors: tuple[TrustAnchor, ...]

    def fingerprints(self, purpose: RootPurpose) -> frozenset[bytes]:
        """Fingerprints that are trusted for ``purpose``."""
        return frozenset(one.fingerprint for one in self.anchors if one.purpose is purpose)

    def find(self, der: bytes, purpose: RootPurpose) -> TrustAnchor | None:
        """The anchor that ``der`` is, for ``purpose``."""
        fingerprint = hashlib.sha256(der).digest()
        return next(
            (one for one in self.anchors if one.purpose is purpose and one.fingerprint == fingerprint), None
        )


@cache
def vendor_anchors() -> tuple[TrustAnchor, ...]:
    """The roots of the data file; none of them is a test root."""
    document = tomllib.loads(files("attestation").joinpath("anchors.toml").read_text())
    return tuple(parse_anchor(entry, subject="anchors.toml") for entry in document["anchor"])


def anchors_for(policy: Policy) -> Anchors:
    """The vendors' roots and those of the policy. Raises ``AnchorError`` for a root of simulated TEEs in a
    policy that is not for development.
    """
    for one in policy.roots:
        if one.purpose is RootPurpose.SIM and policy.environment is not Environment.DEV:
            raise AnchorError(
                f"is the root of a simulated TEE ({one.subject}), which a release policy never trusts",
                subject=f"policy {policy.name}, roots",
                advice='remove the root, or make it a policy for development: environment = "dev"',
            )
    return Anchors(anchors=_once((*vendor_anchors(), *policy.roots)))


def parse_anchor(entry: Any, *, subject: str) -> TrustAnchor:
    """One anchor of the data file or of a policy; raises ``AnchorError``."""
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        _refuse(subject, f"an anchor needs exactly {', '.join(sorted(_KEYS))}")
    values = {key: str(value) for key, value in entry.items()}
    if not _FINGERPRINT.fullmatch(values["fingerprint"]):
        _refuse(subject, f"fingerprint {values['fingerprint']!r} is not SHA-256 in lower-case hex")
    if values["purpose"] not in set(RootPurpose):
        _refuse(subject, f"purpose {values['purpose']!r} is none of {', '.join(RootPurpose)}")
    if not _DATE.fullmatch(values["date"]):
        _refuse(subject, f"date {values['date']!r} is not YYYY-MM-DD")
    return TrustAnchor(
        purpose=RootPurpose(values["purpose"]),
        fingerprint=bytes.fromhex(values["fingerprint"]),
        subject=values["subject"],
        source=values["source"],
        date=values["date"],
    )


def _once(anchors: Iterable[TrustAnchor]) -> tuple[TrustAnchor, ...]:
    return tuple(dict.fromkeys(anchors))


def _refuse(subject: str, reason: str) -> NoReturn:
    raise AnchorError(reason, subject=subject, advice="correct the entry")
