"""Policies that no file can say, made by hand: they refuse, and never make a verifier raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from attestation.policy import Measurements, MeasurementSet
from tests.attestation.test_policy_enforced import changed, domain, failed, nitro, tpm, vcek
from tests.support.policies import only
from tests.support.whole_cases import WholeCase

SECTIONS: list[tuple[Callable[[], WholeCase], str]] = [
    (domain, "sim"),
    (vcek, "snp"),
    (tpm, "tpm"),
    (nitro, "nitro"),
]


def both(*sets: dict[str, bytes]) -> Measurements:
    """Sets that have one name."""
    return Measurements(sets=tuple(MeasurementSet(name="same", registers=one) for one in sets))


@pytest.mark.parametrize(("case", "section"), SECTIONS)
def test_two_sets_of_one_name(case: Callable[[], WholeCase], section: str) -> None:
    verified = case().verify().facts[0].registers
    real = dict(list(verified.items())[:1])
    for sets, wanted in (
        (both({"x": b"1", "y": b"", "z": b""}, {"mrtd": b"1"}), {"measurements"}),
        (both({"mrtd": b"1"}, {"x": b"1", "y": b"", "z": b""}), {"measurements"}),
        (both(real, {"x": b"1"}), set()),
        (both({"x": b"1"}, real), set()),
    ):
        assert failed(changed(case(), section, measurements=sets)) == wanted


@pytest.mark.parametrize("value", ["zz" * 64, "AB" * 64, "\u00e9" * 128, " " * 128, "0x" * 64])
@pytest.mark.parametrize(("case", "section"), SECTIONS)
def test_report_data_that_is_no_hex(case: Callable[[], WholeCase], section: str, value: str) -> None:
    odd = replace(case(), policy=replace(case().policy, report_data=only(value)))
    assert failed(odd) == {"report-data"}


@pytest.mark.parametrize(
    ("case", "section", "key", "value", "wanted"),
    [
        (domain, "sim", "max_collateral_age", -1, {"collateral-age"}),
        (vcek, "snp", "max_crl_age", -1, {"crl"}),
        (nitro, "nitro", "max_age", -1, {"document-age"}),
        (tpm, "tpm", "pcrs", frozenset({-1, 99}), {"pcr-coverage"}),
        (tpm, "tpm", "banks", frozenset({"md5"}), {"pcr-coverage"}),
    ],
)
def test_numbers_outside_of_every_range(
    case: Callable[[], WholeCase], section: str, key: str, value: Any, wanted: set[str]
) -> None:
    assert failed(changed(case(), section, **{key: value})) == wanted
