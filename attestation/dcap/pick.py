"""Which of the collateral at hand fits a quote: that of its platform, the newest that holds now.

======================  =================================================================================
check                   passes if
======================  =================================================================================
``collateral-found``    TCB info of the quote's FMSPC and kind of TEE is at hand; ends the list
======================  =================================================================================

Of several sets that fit, whole ones come before broken ones, those whose windows hold before others, and the
higher evaluation number before the lower. If none holds, the nearest in time is taken, so that the checks
that follow say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attestation.collateral import DcapCollateral
from attestation.dcap.collateral_set import VerifiedSet, check_set, tcb_info_of
from attestation.dcap.kept import Kept
from attestation.platform_verification import Window
from attestation.verdict import CheckList
from measurements.errors import KeyturnError

PICK_CHECKS = ("collateral-found",)
MAX_SETS = 64
"""Most sets among which one is picked."""


def pick_set(
    checks: CheckList,
    sets: Sequence[DcapCollateral],
    *,
    tee: str,
    fmspc: bytes,
    roots: frozenset[bytes],
    now: int,
) -> tuple[DcapCollateral, Kept[VerifiedSet]]:
    """The set to use and its checks; ``tee`` is ``TDX`` or ``SGX``."""
    fitting = [one for one in sets[:MAX_SETS] if _fits(one, tee, fmspc)]
    checks.require(
        "collateral-found",
        bool(fitting) and len(sets) <= MAX_SETS,
        expected=f"TCB info of {tee} for FMSPC {fmspc.hex()}, among at most {MAX_SETS} sets",
        found="found" if fitting else _summary(sets),
        reason="the collateral at hand is of other platforms, is none, or is too much to look through",
        advice="fetch it for this evidence: keyturn collateral fetch",
    )
    if len(fitting) == 1:
        return fitting[0], check_set(fitting[0], roots)
    judged = [(one, check_set(one, roots)) for one in fitting]
    return max(judged, key=lambda pair: _rank(pair[1], now))


def _rank(kept: Kept[VerifiedSet], now: int) -> tuple[bool, int, int, int]:
    found = kept.value
    if found is None:
        return (False, 0, 0, 0)
    return (True, -_distance(found.windows, now), found.evaluation_number, found.oldest_issue)


def _distance(windows: Iterable[Window], now: int) -> int:
    """Seconds by which ``now`` is outside of the windows; 0 inside of all."""
    return max((max(one.start - now, now - one.end, 0) for one in windows), default=0)


def _fits(given: DcapCollateral, tee: str, fmspc: bytes) -> bool:
    try:
        info = tcb_info_of(given.tcb_info)
    except KeyturnError:
        return False
    return info.tee == tee and info.fmspc == fmspc


def _summary(sets: Sequence[DcapCollateral]) -> str:
    return "; ".join(dict.fromkeys(_named(one) for one in sets[:8])) or "no DCAP collateral"


def _named(given: DcapCollateral) -> str:
    try:
        info = tcb_info_of(given.tcb_info)
    except KeyturnError as error:
        return f"TCB info that cannot be read ({error.reason[:80]})"
    return f"{info.tee} {info.fmspc.hex()}"
