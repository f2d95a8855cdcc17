"""The evaluation of TCBs, by the rules that Intel's QVL has."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.dcap.tcb_components import components_of
from attestation.dcap.tcb_evaluation import PlatformSvns, TcbError, converge, evaluate, relaunch
from attestation.dcap.tcb_info import IsvLevel, ModuleIdentity, Standing, TcbInfo, TcbLevel
from attestation.policy import TcbStatus as S

OK, OLD = 2_000, 1_000
QE = (
    IsvLevel(isv_svn=8, standing=Standing(status=S.UP_TO_DATE, date=OK, advisories=())),
    IsvLevel(isv_svn=6, standing=Standing(status=S.OUT_OF_DATE, date=OLD, advisories=("SA-QE",))),
)
MODULE = ModuleIdentity(
    version=1,
    mrsigner=bytes(48),
    attributes=bytes(8),
    attributes_mask=b"\xff" * 8,
    levels=(
        IsvLevel(isv_svn=5, standing=Standing(status=S.UP_TO_DATE, date=OK, advisories=())),
        IsvLevel(isv_svn=3, standing=Standing(status=S.OUT_OF_DATE, date=OLD - 1, advisories=("SA-M",))),
        IsvLevel(isv_svn=1, standing=Standing(status=S.REVOKED, date=OLD - 2, advisories=())),
    ),
)


def level(svn: int, status: S, date: int, *advisories: str, pce: int = 10, tdx: int = 4) -> TcbLevel:
    return TcbLevel(
        sgx=(svn,) * 16,
        pce_svn=pce,
        tdx=(5, 0, tdx, *(0,) * 13),
        standing=Standing(status=status, date=date, advisories=advisories),
    )


INFO = TcbInfo(
    tee="TDX",
    issue_date=0,
    next_update=9_999,
    fmspc=bytes(6),
    pce_id=bytes(2),
    evaluation_number=20,
    levels=(
        level(4, S.UP_TO_DATE, OK),
        level(3, S.OUT_OF_DATE, OLD, "SA-P", tdx=3),
        level(2, S.REVOKED, 1, tdx=2),
    ),
    sgx_labels=(),
    tdx_labels=(),
    module=replace(MODULE, version=None, levels=()),
    modules=(MODULE,),
)
GOOD = PlatformSvns(sgx=(4,) * 16, pce_svn=10, tdx=bytes([5, 1, 4, *[0] * 13]), current=None, qe_isv_svn=8)


def tdx(svn: int = 5, version: int = 1, late: int = 4) -> bytes:
    return bytes([svn, version, late, *[0] * 13])


def status(svns: PlatformSvns) -> S:
    return evaluate(INFO, QE, svns).standing.status


def test_a_platform_at_the_newest_level_is_up_to_date() -> None:
    assert evaluate(INFO, QE, GOOD).standing == Standing(status=S.UP_TO_DATE, date=OK, advisories=())


def test_one_component_below_takes_the_next_level() -> None:
    for place in range(16):
        sgx = tuple(3 if one == place else 4 for one in range(16))
        found = evaluate(INFO, QE, replace(GOOD, sgx=sgx)).standing
        assert found == Standing(status=S.OUT_OF_DATE, date=OLD, advisories=("SA-P",))


def test_a_higher_component_makes_up_for_no_lower_one() -> None:
    assert status(replace(GOOD, sgx=(255,) * 15 + (3,))) is S.OUT_OF_DATE


def test_module_components_count_only_without_a_module_version() -> None:
    assert status(replace(GOOD, tdx=tdx(svn=5, version=0))) is S.UP_TO_DATE
    with pytest.raises(TcbError, match="TDX component 1 is 4, needs 5"):
        evaluate(INFO, QE, replace(GOOD, tdx=tdx(svn=4, version=0)))


def test_dates_are_the_earliest_and_advisories_those_of_all() -> None:
    svns = replace(GOOD, sgx=(3,) * 16, tdx=tdx(svn=3), qe_isv_svn=6)
    assert evaluate(INFO, QE, svns).standing == Standing(
        status=S.OUT_OF_DATE, date=OLD - 1, advisories=("SA-P", "SA-M", "SA-QE")
    )


@pytest.mark.parametrize(
    "svns",
    [
        replace(GOOD, sgx=(2,) * 16),
        replace(GOOD, tdx=tdx(svn=1)),
        replace(GOOD, current=tdx(svn=1)),
    ],
)
def test_anything_revoked_revokes_all(svns: PlatformSvns) -> None:
    assert status(svns) is S.REVOKED


@pytest.mark.parametrize(
    ("svns", "reason"),
    [
        (
            replace(GOOD, sgx=(1,) * 16),
            "SGX component 1 is 1, needs 2.*newest: SGX component 1 is 1, needs 4",
        ),
        (replace(GOOD, pce_svn=9), "PCE SVN is 9, needs 10"),
        (replace(GOOD, tdx=tdx(late=1)), "TDX component 3 is 1, needs 2"),
        (replace(GOOD, tdx=tdx(svn=0)), "TDX_01 module's SVN is 0.*lowest level 1, newest 5"),
        (replace(GOOD, tdx=tdx(version=2)), "no TDX module of version TDX_02"),
        (replace(GOOD, qe_isv_svn=5), "quoting enclave's SVN is 5.*lowest level 6, newest 8"),
        (replace(GOOD, current=tdx(late=1)), "TDX component 3 is 1"),
    ],
)
def test_no_level_says_what_is_short(svns: PlatformSvns, reason: str) -> None:
    with pytest.raises(TcbError, match=reason):
        evaluate(INFO, QE, svns)


def test_a_relaunch_is_advised_where_the_platform_is_better_now() -> None:
    old, new = replace(GOOD, tdx=tdx(svn=3)), tdx()
    assert status(old) is S.OUT_OF_DATE
    assert status(replace(old, current=new)) is S.TD_RELAUNCH_ADVISED
    assert status(replace(old, current=old.tdx)) is S.OUT_OF_DATE
    assert status(replace(GOOD, current=tdx(svn=3))) is S.UP_TO_DATE


def test_relaunch_needs_an_old_launch_and_a_better_now() -> None:
    advised = {S.TD_RELAUNCH_ADVISED, S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED}
    for launch, current in itertools.product(S, S):
        found = relaunch(launch, current)
        if found in advised - {launch}:
            assert launch in (S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED)
            assert current in (
                S.UP_TO_DATE,
                S.SW_HARDENING_NEEDED,
                S.CONFIGURATION_NEEDED,
                S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
            )
        else:
            assert found is launch


@pytest.mark.parametrize(
    ("platform", "part", "expected"),
    [
        (S.UP_TO_DATE, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.SW_HARDENING_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.CONFIGURATION_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.CONFIGURATION_AND_SW_HARDENING_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.OUT_OF_DATE_CONFIGURATION_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.UP_TO_DATE, S.CONFIGURATION_NEEDED, S.UP_TO_DATE),
        (S.SW_HARDENING_NEEDED, S.UP_TO_DATE, S.SW_HARDENING_NEEDED),
        (S.UP_TO_DATE, S.REVOKED, S.REVOKED),
        (S.REVOKED, S.UP_TO_DATE, S.REVOKED),
    ],
)
def test_statuses_converge_as_intels_do(platform: S, part: S, expected: S) -> None:
    assert converge(platform, part) is expected


def test_needs_are_those_of_the_newest_level_that_is_up_to_date() -> None:
    newest = level(9, S.CONFIGURATION_NEEDED, OK)
    info = replace(INFO, levels=(newest, *INFO.levels))
    short = [one for one in components_of(info, QE, replace(GOOD, sgx=(3,) * 16)) if one.short]
    assert [(one.name, one.need) for one in short] == [(f"SGX component {n}", 4) for n in range(1, 17)]
    assert {one.name for one in components_of(info, QE, GOOD)} >= {
        "PCE SVN",
        "TDX component 3",
        "TDX module SVN (TDX_01)",
        "QE SVN",
    }
    assert len(components_of(info, QE, GOOD)) == 16 + 1 + 14 + 1 + 1
    assert len(components_of(info, QE, replace(GOOD, tdx=tdx(version=0)))) == 16 + 1 + 16 + 1


@given(
    st.lists(st.integers(0, 6), min_size=16, max_size=16),
    st.integers(8, 12),
    st.integers(0, 7),
    st.integers(1, 6),
    st.integers(5, 9),
)
def test_more_is_never_worse(sgx: list[int], pce: int, module: int, late: int, qe: int) -> None:
    order = [S.REVOKED, S.OUT_OF_DATE, S.UP_TO_DATE]
    svns = PlatformSvns(
        sgx=tuple(sgx), pce_svn=pce, tdx=tdx(svn=module, late=late), current=None, qe_isv_svn=qe
    )
    better = replace(svns, sgx=tuple(one + 1 for one in sgx), pce_svn=pce + 1, qe_isv_svn=qe + 1)
    try:
        before = status(svns)
    except TcbError:
        return
    assert order.index(status(better)) >= order.index(before)
