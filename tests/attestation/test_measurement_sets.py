"""Checks of measurements and report data."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.measurement_sets import check_measurements, check_report_data
from attestation.policy import Allowed, Measurements, MeasurementSet
from attestation.verdict import Check, CheckList

NOTHING = Allowed(values=frozenset())
REGISTERS = {"mrtd": b"\1" * 48, "rtmr0": b"\2" * 48, "rtmr1": b"\3" * 48}


def judged(registers: Mapping[str, bytes], *sets: MeasurementSet, openly_any: bool = False) -> Check:
    checks = CheckList()
    check_measurements(checks, registers, Measurements(sets=sets, any=openly_any))
    (check,) = checks.verdict().checks
    return check


def one_set(name: str, **registers: bytes) -> MeasurementSet:
    return MeasurementSet(name=name, registers=registers)


def test_a_set_that_holds_as_a_whole_passes() -> None:
    check = judged(REGISTERS, one_set("old", mrtd=bytes(48)), one_set("new", **REGISTERS))

    assert check.passed
    assert check.name == "measurements"
    assert check.found == "set new"


def test_registers_of_two_sets_are_not_mixed() -> None:
    first = one_set("first", mrtd=REGISTERS["mrtd"], rtmr0=bytes(48))
    second = one_set("second", mrtd=bytes(48), rtmr0=REGISTERS["rtmr0"])

    assert not judged(REGISTERS, first, second).passed


def test_the_nearest_set_and_what_differs_are_named() -> None:
    far = one_set("far", mrtd=bytes(48), rtmr0=bytes(48))
    near = one_set("near", mrtd=REGISTERS["mrtd"], rtmr0=REGISTERS["rtmr0"], rtmr1=bytes(48))

    check = judged(REGISTERS, far, near)

    assert not check.passed
    assert "near" in check.reason
    assert check.expected == f"rtmr1 {bytes(48).hex()}"
    assert check.found == f"rtmr1 {REGISTERS['rtmr1'].hex()}"


def test_a_register_that_the_evidence_lacks_differs() -> None:
    check = judged(REGISTERS, one_set("one", mrtd=REGISTERS["mrtd"], rtmr7=bytes(48)))

    assert not check.passed
    assert check.found == "rtmr7 absent"


@pytest.mark.parametrize("sets", [(), (MeasurementSet(name="empty", registers={}),)])
def test_no_set_and_an_empty_set_allow_nothing(sets: tuple[MeasurementSet, ...]) -> None:
    assert not judged(REGISTERS, *sets).passed


def test_any_has_to_be_written_out() -> None:
    assert judged({}, openly_any=True).passed


@pytest.mark.parametrize(
    ("allowed", "passes"),
    [
        (NOTHING, False),
        (Allowed(values=frozenset({"00" * 64})), False),
        (Allowed(values=frozenset({"00" * 63 + "01"})), True),
        (Allowed(values=frozenset({"01"})), False),
        (Allowed(values=frozenset(), any=True), True),
    ],
)
def test_report_data_is_compared_whole(allowed: Allowed, passes: bool) -> None:
    checks = CheckList()
    check_report_data(checks, bytes(63) + b"\1", allowed)
    (check,) = checks.verdict().checks

    assert check.name == "report-data"
    assert check.passed is passes


@given(st.sampled_from(sorted(REGISTERS)), st.integers(0, 47), st.integers(1, 255))
def test_any_changed_byte_of_a_register_fails(name: str, place: int, change: int) -> None:
    changed = bytearray(REGISTERS[name])
    changed[place] ^= change

    assert not judged({**REGISTERS, name: bytes(changed)}, one_set("one", **REGISTERS)).passed
