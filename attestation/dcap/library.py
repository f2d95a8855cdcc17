"""dcap-qvl (Phala, MIT), the kept library that verifies quotes beside our own checks: what it says, in our
terms.

``VERSION`` goes into every verdict, since verdicts depend on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
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
    """What the library says; ``refusal`` is empty if it accepts the quote. ``date`` is ISO 8601, of the
    platform's level with its module.
    """

    refusal: str = ""
    status: str = ""
    advisories: frozenset[str] = frozenset()
    date: str = ""
    evaluation_number: int = 0

    @property
    def accepted(self) -> bool:
        """Whether signatures, chains and TCB are good, whatever the status is."""
        return not self.refusal


def library_verdict(quote: bytes, given: DcapCollateral, root: bytes, now: int) -> LibraryVerdict:
    """Verify with the library under ``root`` (DER); ``now`` is in seconds since 1970."""
    try:
        policy = dcap_qvl.QuotePolicy.claims_only(now)
        claims = _verifier(root).verify_with_policy(quote, _collateral(given), now, policy)
        found = json.loads(claims.to_json())
        return _verdict(found["tcb"], found["platform"]["tcb_level"]["tcbDate"])
    except (ValueError, OverflowError) as error:
        return LibraryVerdict(refusal=str(error).removeprefix(PREFIX) or "no reason given")


def _verdict(tcb: dict[str, Any], date: str) -> LibraryVerdict:
    return LibraryVerdict(
        status=str(tcb["status"]),
        advisories=frozenset(tcb["advisory_ids"]),
        date=date,
        evaluation_number=int(tcb["eval_data_number"]),
    )


@lru_cache(maxsize=16)
def _verifier(root: bytes) -> Any:
    return dcap_qvl.QuoteVerifier(root)


@lru_cache(maxsize=64)
def _collateral(given: DcapCollateral) -> Any:
    return dcap_qvl.QuoteCollateralV3(**{name: getattr(given, name) for name in DcapCollateral.__slots__})
