"""dcap-qvl (Phala, MIT), the kept library that verifies quotes beside our own checks: what it says, in our
terms.

``VERSION`` goes into every verdict, since verdicts depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import dcap_qvl

from attestation.collateral import DcapCollateral

VERSION = version("dcap-qvl")
PREFIX = "Verification failed: "
POLICY_REFUSALS = {
    "migratable": ("TD migration is enabled",),
    "service-td": ("Invalid MR service TD", "SERVTD_EXT is enabled"),
}
"""What the library refuses as its last step, with no way to allow it (0.7.0, ``src/verify.rs``,
``validate_attrs``), by our name for the check.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryVerdict:
    """What the library says of a quote; ``refusal`` is empty if it accepts it. ``date`` is in seconds since
    1970, of the platform's level with its module.
    """

    refusal: str = ""
    status: str = ""
    advisories: frozenset[str] = frozenset()
    date: int = 0
    evaluation_number: int = 0

    @property
    def accepted(self) -> bool:
        """Whether signatures, chains and TCB are good, whatever the status is."""
        return not self.refusal

    def __str__(self) -> str:
        if not self.accepted:
            return f"refused ({self.refusal})"
        advisories = ", ".join(sorted(self.advisories)) or "none"
        date = datetime.fromtimestamp(self.date, tz=UTC).strftime("%Y-%m-%d")
        return f"{self.status}, advisories {advisories}, {date}, evaluation {self.evaluation_number}"


@dataclass(slots=True)
class _Level:
    """What the library says of the level that a platform reaches, once it was asked."""

    date: int | None = None
    evaluation_number: int = 0


def library_verdict(
    quote: bytes, given: DcapCollateral, root: bytes, now: int, *, platform: Hashable
) -> LibraryVerdict:
    """Verify with the library under ``root`` (DER); ``now`` is in seconds since 1970.

    The library is asked for every quote; for date and evaluation number, which take it longer to tell, once
    for a ``platform``: everything on which the level depends besides collateral.
    """
    level = _level(given, root, platform)
    try:
        found = dcap_qvl.verify_with_root_ca(quote, _collateral(given), root, now)
        if level.date is None:
            _ask(level, quote, given, root, now)
    except (ValueError, OverflowError, KeyError, TypeError) as error:
        return LibraryVerdict(refusal=_reason(error))
    assert level.date is not None
    return LibraryVerdict(
        status=found.status,
        advisories=frozenset(found.advisory_ids),
        date=level.date,
        evaluation_number=level.evaluation_number,
    )


def _ask(level: _Level, quote: bytes, given: DcapCollateral, root: bytes, now: int) -> None:
    policy = dcap_qvl.QuotePolicy.claims_only(now)
    claims = dcap_qvl.QuoteVerifier(root).verify_with_policy(quote, _collateral(given), now, policy)
    found = json.loads(claims.to_json())
    level.evaluation_number = int(found["tcb"]["eval_data_number"])
    level.date = int(found["platform"]["tcb_date_tag"])


@lru_cache(maxsize=256)
def _level(given: DcapCollateral, root: bytes, platform: Hashable) -> _Level:
    return _Level()


def _reason(error: Exception) -> str:
    """The first line: the library puts a list of causes after it."""
    return str(error).removeprefix(PREFIX).split("\n", 1)[0] or "no reason given"


@lru_cache(maxsize=64)
def _collateral(given: DcapCollateral) -> Any:
    return dcap_qvl.QuoteCollateralV3(**{name: getattr(given, name) for name in DcapCollateral.__slots__})
