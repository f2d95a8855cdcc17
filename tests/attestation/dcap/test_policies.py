"""Each rule of a policy for DCAP quotes allows what it lists and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from attestation.policy import GraceWindow, Measurements, MeasurementSet, TcbStatus
from tests.support.dcap_cases import SGX_V3, TDX_V4, TDX_V4_LATER, case, failed_checks, failed_names
from tests.support.policies import NONE, only

OUT_OF_DATE = frozenset({TcbStatus.OUT_OF_DATE})
UP_TO_DATE = frozenset({TcbStatus.UP_TO_DATE})
PPID = "811dca2a26b952e85bb6448b097ba4fd"
INSTANCE = "07828474603e7019dc930775ffe8cdd2"
DAY = 86400


def failing(identifier: str, **rules: Any) -> list[str]:
    one = case(identifier)
    return failed_names(one.verify(one.policy(**rules)))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"statuses": OUT_OF_DATE}, []),
        ({"statuses": UP_TO_DATE}, ["tcb-status"]),
        ({"statuses": frozenset()}, ["tcb-status"]),
        ({"min_tcb_date": 1_747_180_800}, []),
        ({"min_tcb_date": 1_747_180_801}, ["tcb-date"]),
        ({"min_evaluation_number": 20}, []),
        ({"min_evaluation_number": 21}, ["evaluation-number"]),
        ({"advisories_accepted": NONE}, ["advisories"]),
        ({"advisories_accepted": only("INTEL-SA-01192", "INTEL-SA-01245")}, ["advisories"]),
        (
            {
                "advisories_accepted": only(
                    "INTEL-SA-01192", "INTEL-SA-01245", "INTEL-SA-01312", "INTEL-SA-01313"
                )
            },
            [],
        ),
        ({"advisories_denied": frozenset({"INTEL-SA-01313"})}, ["advisories"]),
        ({"advisories_denied": frozenset({"INTEL-SA-00001"})}, []),
        ({"dynamic_platform": False}, ["dynamic-platform"]),
        ({"cached_keys": False}, ["cached-keys"]),
        ({"smt": False}, ["smt"]),
        ({"migratable": False}, []),
        ({"service_tds": NONE}, []),
        ({"ppids": only(PPID)}, []),
        ({"ppids": only("00" * 16)}, ["ppid"]),
        ({"ppids": NONE}, ["ppid"]),
        ({"platform_instances": only(INSTANCE)}, []),
        ({"platform_instances": NONE}, ["platform-instance"]),
        ({"fmspcs": only("b0c06f000000")}, []),
        ({"fmspcs": only("90c06f000000")}, ["fmspc-allowed"]),
    ],
)
def test_a_rule_decides_alone(rules: Mapping[str, Any], expected: list[str]) -> None:
    assert failing(TDX_V4_LATER, **rules) == expected


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = failing(
        TDX_V4_LATER,
        statuses=UP_TO_DATE,
        min_evaluation_number=99,
        ppids=NONE,
        smt=False,
        measurements=Measurements(sets=()),
    )
    assert found == ["evaluation-number", "tcb-status", "ppid", "smt", "measurements"]


def test_a_grace_window_ends_with_its_last_second() -> None:
    now = case(TDX_V4_LATER).now
    for until, expected in ((now, []), (now - 1, ["tcb-status"])):
        grace = (GraceWindow(statuses=OUT_OF_DATE, until=until),)
        assert failing(TDX_V4_LATER, statuses=UP_TO_DATE, grace=grace) == expected


def test_grace_is_for_the_statuses_that_it_names() -> None:
    other = GraceWindow(statuses=frozenset({TcbStatus.SW_HARDENING_NEEDED}), until=1 << 40)
    assert failing(TDX_V4_LATER, statuses=UP_TO_DATE, grace=(other,)) == ["tcb-status"]


def test_age_is_of_the_oldest_part_but_the_roots_list() -> None:
    one = case(TDX_V4)
    windows = {window.name: window for window in one.verify().windows}
    oldest = min(windows[name].start for name in ("TCB info", "QE identity", "PCK CRL"))
    assert windows["root CRL"].start < oldest
    age = one.now - oldest
    assert failing(TDX_V4, max_collateral_age=age) == []
    assert failing(TDX_V4, max_collateral_age=age - 1) == ["collateral-age"]
    limited = one.verify(one.policy(max_collateral_age=age + DAY))
    assert oldest + age + DAY in {window.end for window in limited.windows}


def test_what_a_certificate_does_not_say_is_not_allowed() -> None:
    assert failing(SGX_V3, dynamic_platform=False, cached_keys=False, smt=False) == [
        "dynamic-platform",
        "cached-keys",
        "smt",
    ]
    assert failing(SGX_V3, platform_instances=only("none")) == ["platform-instance"]


@pytest.mark.parametrize("identifier", [TDX_V4, SGX_V3])
def test_every_register_can_be_demanded(identifier: str) -> None:
    facts = case(identifier).verify().facts
    assert facts is not None
    whole = MeasurementSet(name="all", registers=facts.registers)
    assert failing(identifier, measurements=Measurements(sets=(whole,))) == []
    for name, value in facts.registers.items():
        changed = bytes([value[0] ^ 1]) + value[1:]
        wrong = MeasurementSet(name="all", registers={**facts.registers, name: changed})
        one = case(identifier)
        result = one.verify(one.policy(measurements=Measurements(sets=(wrong,))))
        (failure,) = failed_checks(result)
        assert failure.name == "measurements"
        assert failure.found == f"{name} {value.hex()}"


def test_the_names_of_registers_are_those_of_policies() -> None:
    tdx, sgx = case(TDX_V4).verify().facts, case(SGX_V3).verify().facts
    assert tdx is not None
    assert sgx is not None
    assert set(tdx.registers) == {
        "mrtd",
        "mrconfigid",
        "mrowner",
        "mrownerconfig",
        "rtmr0",
        "rtmr1",
        "rtmr2",
        "rtmr3",
        "mrseam",
        "mrsignerseam",
        "td_attributes",
        "xfam",
        "tee_tcb_svn",
    }
    assert set(sgx.registers) == {
        "mrenclave",
        "mrsigner",
        "isv_prod_id",
        "isv_svn",
        "attributes",
        "miscselect",
    }


def test_report_data_must_be_that_of_the_policy() -> None:
    one = case(TDX_V4)
    facts = one.verify().facts
    assert facts is not None
    right = replace(one.policy(), report_data=only(facts.report_data.hex()))
    assert failed_names(one.verify(right)) == []
    assert failed_names(one.verify(replace(right, report_data=only("00" * 64)))) == ["report-data"]
    assert failed_names(one.verify(replace(right, report_data=NONE))) == ["report-data"]


def test_a_platform_without_its_section_is_not_allowed() -> None:
    one = case(TDX_V4)
    assert failed_names(one.verify(case(SGX_V3).policy())) == ["policy-section"]
