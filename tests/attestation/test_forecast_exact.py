"""``valid_until`` is exact for every platform: evidence passes in that second and is refused in the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from attestation.collateral import Collateral
from attestation.container import EvidencePlatform
from attestation.dcap.platform_checks import AGE_WINDOW
from attestation.evidence_verdict import EvidenceVerdict
from attestation.forecast import MAX_MOMENTS, Forecast, forecast
from attestation.platform_verification import Window
from attestation.policy import GraceWindow, TcbStatus
from attestation.snp.products import Product
from tests.attack.test_mixed_machines import beside, quoting
from tests.attestation.test_policy_enforced import domain, enclave, gpu, vlek
from tests.attestation.test_policy_enforced import nitro as generated_nitro
from tests.attestation.verdicts import NOW, check, verdict_of
from tests.support.policies import permissive_policy
from tests.support.snp_pki import DAY, pki
from tests.support.tpm_containers import REPORT_DATA
from tests.support.whole_cases import WholeCase, dstack_case, nitro_case, snp_case, tpm_case

HOUR = 3600


def tdx_collateral_age() -> WholeCase:
    """One hour before the collateral is too old."""
    case = dstack_case()
    assert case.policy.tdx is not None
    (issued,) = [one.start for one in case.verify().windows if one.name == AGE_WINDOW]
    aged = replace(case.policy.tdx, max_collateral_age=case.now + HOUR - issued)
    return replace(case, policy=replace(case.policy, tdx=aged))


def tdx_grace() -> WholeCase:
    """UpToDate counts for one more hour only."""
    case = dstack_case()
    assert case.policy.tdx is not None
    grace = GraceWindow(statuses=frozenset({TcbStatus.UP_TO_DATE}), until=case.now + HOUR)
    section = replace(case.policy.tdx, statuses=frozenset(), grace=(grace,))
    return replace(case, policy=replace(case.policy, tdx=section))


def snp_list_age() -> WholeCase:
    case = snp_case()
    assert case.policy.snp is not None
    return replace(case, policy=replace(case.policy, snp=replace(case.policy.snp, max_crl_age=40 * DAY)))


def nitro_age() -> WholeCase:
    case = nitro_case()
    assert case.policy.nitro is not None
    return replace(case, policy=replace(case.policy, nitro=replace(case.policy.nitro, max_age=300)))


CASES: dict[str, Callable[[], WholeCase]] = {
    "tdx": dstack_case,
    "tdx, age of collateral": tdx_collateral_age,
    "tdx, end of grace": tdx_grace,
    "snp": snp_case,
    "snp, age of the list": snp_list_age,
    "nitro": nitro_case,
    "nitro, age of the document": nitro_age,
    "tpm": lambda: tpm_case(3),
    "simulated domain, end of grace": domain,
    "simulated enclave": enclave,
    "vlek": vlek,
    "gpu beside a simulated domain": gpu,
    "generated nitro": generated_nitro,
    "tpm beside a simulated domain": lambda: beside(REPORT_DATA, quoting(REPORT_DATA)),
}


def ahead_of(case: WholeCase) -> Forecast:
    """As the command line asks for it: with all collateral, in the evidence too."""
    return forecast(
        case.verify(),
        collateral=case.evidence.collateral.joined(case.collateral),
        policy=case.policy,
        evaluate=lambda collateral, now: case.verify(collateral=collateral, now=now),
    )


def require_exact(case: WholeCase) -> int:
    assert case.verify().passed
    until = ahead_of(case).valid_until
    assert until is not None
    assert case.verify(now=until).passed
    assert not case.verify(now=until + 1).passed
    for part in range(1, 40):  # nor does it fail before
        assert case.verify(now=case.now + (until - case.now) * part // 40).passed
    return until


@pytest.mark.parametrize("name", CASES)
def test_valid_until_is_exact(name: str) -> None:
    require_exact(CASES[name]())


@pytest.mark.parametrize("name", CASES)
def test_windows_begin_with_their_first_second(name: str) -> None:
    case = CASES[name]()
    begins = max(one.start for one in case.verify().windows)
    assert case.verify(now=begins).passed
    assert not case.verify(now=begins - 1).passed


def test_the_age_of_a_document_ends_a_verdict() -> None:
    case = nitro_age()
    short = require_exact(case)
    assert short < require_exact(nitro_case())
    assert 0 <= case.now + 300 - short <= 300


def test_a_second_list_that_takes_over_ends_as_well() -> None:
    """The newer list ends first; then the older one counts, until it ends."""
    case, made = snp_case(), pki(Product.GENOA)
    newer = made.crl(start=case.now - DAY, days=11)
    older = made.crl(start=case.now - 2 * DAY, days=22)
    two = replace(case, collateral=replace(case.collateral, crls=(newer, older)))
    assert require_exact(two) == case.now + 20 * DAY


def test_a_list_that_begins_later_can_turn_a_verdict() -> None:
    """Nothing that the verdict rests on changes at that moment, and yet the verdict does."""
    begins = NOW + 5 * DAY
    at_hand = Collateral(crls=(pki(Product.GENOA).crl(start=begins),))

    def judge(_: Collateral, now: int) -> EvidenceVerdict:
        return verdict_of(check("crl", passed=now < begins, text="revoked"), now=now)

    policy = permissive_policy(EvidencePlatform.SNP)
    ahead = forecast(judge(at_hand, NOW), collateral=at_hand, policy=policy, evaluate=judge)
    assert ahead.valid_until == begins - 1
    assert ahead.turns[0].causes == ("revocation list ARK-Genoa begins",)


def test_more_moments_than_are_looked_at_promise_nothing() -> None:
    """Decoys in the evidence do not push the end of a verdict out of sight."""
    steps = tuple(
        Window(name=f"step {step}", start=NOW - DAY, end=NOW + step) for step in range(MAX_MOMENTS + 40)
    )

    def judge(_: Collateral, now: int) -> EvidenceVerdict:
        return verdict_of(
            check("fresh", passed=now < NOW + MAX_MOMENTS + 20, text=""), now=now, windows=steps
        )

    ahead = forecast(
        judge(Collateral(), NOW),
        collateral=Collateral(),
        policy=permissive_policy(EvidencePlatform.TDX),
        evaluate=judge,
    )
    assert ahead.valid_until == NOW + MAX_MOMENTS


@pytest.mark.parametrize("name", ["tdx", "snp", "nitro", "tpm"])
@pytest.mark.parametrize(
    "now", [0, -1, -(10**12), 253402300799, 253402300800, 1 << 63, 1 << 64, 10**30], ids=str
)
def test_no_moment_is_too_odd_for_a_verdict(name: str, now: int) -> None:
    """Certificates may end with the last second of the year 9999, and a forecast asks for the next one."""
    verdict = CASES[name]().verify(now=now)
    assert not verdict.passed
    assert verdict.as_json()["now"] == now
