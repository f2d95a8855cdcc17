"""Forecasts: every date at which a verdict turns, and what turns it."""

from __future__ import annotations

from dataclasses import replace

from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidencePlatform
from attestation.evidence_verdict import EvidenceVerdict
from attestation.forecast import Turn, forecast
from attestation.platform_verification import Window
from attestation.policy import GraceWindow, TcbStatus
from tests.attestation.verdicts import NOW, check, verdict_of
from tests.support.policies import permissive_dcap, permissive_policy

DAY = 86_400
FIRST = Window(name="TCB info", start=NOW - DAY, end=NOW + 10 * DAY)
LAST = Window(name="PCK CRL", start=NOW + 2 * DAY, end=NOW + 20 * DAY)
POLICY = permissive_policy(EvidencePlatform.TDX)
EARLY = DcapCollateral(
    pck_crl_issuer_chain="",
    root_ca_crl=b"",
    pck_crl=b"",
    tcb_info_issuer_chain="",
    tcb_info="early",
    tcb_info_signature=b"",
    qe_identity_issuer_chain="",
    qe_identity="",
    qe_identity_signature=b"",
)


def judge(collateral: Collateral, now: int) -> EvidenceVerdict:
    """Fresh while both windows hold; refused under early collateral, which begins after 30 days."""
    if collateral.dcap == (EARLY,):
        window = Window(name="TCB info", start=NOW + 30 * DAY, end=NOW + 60 * DAY)
        return verdict_of(check("status", passed=False, text="OutOfDate"), now=now, windows=(window,))
    fresh = all(one.start <= now <= one.end for one in (FIRST, LAST))
    return verdict_of(check("fresh", passed=fresh, text="a window"), now=now, windows=(FIRST, LAST))


def turns_of(now: int, collateral: Collateral | None = None) -> tuple[int | None, list[Turn]]:
    given = collateral or Collateral()
    found = forecast(judge(given, now), collateral=given, policy=POLICY, evaluate=judge)
    return found.valid_until, list(found.turns)


def test_a_verdict_holds_until_the_first_window_ends() -> None:
    until, turns = turns_of(NOW + 3 * DAY)
    assert until == FIRST.end
    assert [(turn.at, turn.passes, turn.causes) for turn in turns] == [
        (FIRST.end + 1, False, ("TCB info ends",))
    ]
    assert turns[0].failing == ("quote/fresh",)
    assert judge(Collateral(), until).passed
    assert not judge(Collateral(), until + 1).passed


def test_a_refusal_that_time_will_mend() -> None:
    until, turns = turns_of(NOW)
    assert until is None
    assert [(turn.at, turn.passes) for turn in turns] == [(LAST.start, True), (FIRST.end + 1, False)]
    assert turns[0].mended == ("quote/fresh",)


def test_early_collateral_is_judged_from_its_own_date() -> None:
    until, turns = turns_of(NOW + 3 * DAY, Collateral(early=(EARLY,)))
    assert until == FIRST.end
    assert turns[-1].early
    assert (turns[-1].at, turns[-1].passes) == (NOW + 30 * DAY, False)
    assert turns[-1].reasons == ("status: OutOfDate",)


def test_a_grace_window_of_the_policy_ends() -> None:
    end = NOW + 5 * DAY
    grace = GraceWindow(statuses=frozenset({TcbStatus.OUT_OF_DATE}), until=end)
    policy = replace(POLICY, tdx=replace(permissive_dcap(), grace=(grace,)))

    def gracious(_: Collateral, now: int) -> EvidenceVerdict:
        return verdict_of(check("status", passed=now <= end, text="OutOfDate"), now=now)

    found = forecast(gracious(Collateral(), NOW), collateral=Collateral(), policy=policy, evaluate=gracious)
    assert found.valid_until == end
    assert found.turns[0].causes == ("grace for OutOfDate ends",)


def test_a_verdict_that_nothing_ends() -> None:
    def constant(_: Collateral, now: int) -> EvidenceVerdict:
        return verdict_of(check("fresh"), now=now, windows=(FIRST,))

    found = forecast(constant(Collateral(), NOW), collateral=Collateral(), policy=POLICY, evaluate=constant)
    assert found.as_json() == {"valid_until": None, "turns": []}
