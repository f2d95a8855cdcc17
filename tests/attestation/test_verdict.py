"""Verdicts: empty ones fail, the first failure counts, and nobody takes one for a bool."""

from __future__ import annotations

import pytest

from attestation.verdict import Check, CheckFailedError, CheckList, Verdict, VerdictError
from measurements.errors import ExitStatus, FormatError

GOOD = Check(name="good", passed=True, expected="a", found="a")
BAD = Check(name="bad", passed=False, expected="a", found="b", reason="not a", advice="use a")


def test_a_verdict_without_checks_is_a_failure() -> None:
    verdict = Verdict(checks=())
    assert not verdict.passed
    with pytest.raises(VerdictError, match="nothing was checked"):
        verdict.require()


def test_the_first_failure_is_the_one_that_is_raised() -> None:
    verdict = Verdict(checks=(GOOD, BAD))
    assert (verdict.passed, verdict.first_failure) == (False, BAD)
    with pytest.raises(VerdictError) as raised:
        verdict.require()
    assert raised.value.as_json() == {"code": "bad", "subject": "bad", "reason": "not a", "advice": "use a"}
    assert raised.value.exit_status is ExitStatus.REFUSED
    assert VerdictError.code == "refused"


def test_a_verdict_whose_checks_passed_passes() -> None:
    verdict = Verdict(checks=(GOOD,))
    assert verdict.passed
    verdict.require()


def test_a_verdict_is_no_bool() -> None:
    with pytest.raises(TypeError):
        bool(Verdict(checks=(GOOD,)))


def test_a_list_ends_at_its_first_failure() -> None:
    checks = CheckList()
    checks.equal("same", expected=b"\x01", found=b"\x01", reason="differs", advice="do not")
    with pytest.raises(CheckFailedError), checks.step("step", expected="a thing"):
        raise FormatError("is none", subject="thing", advice="give one")
    assert [check.as_json() for check in checks.verdict().checks] == [
        {
            "name": "same",
            "outcome": "pass",
            "passed": True,
            "expected": "01",
            "found": "01",
            "reason": "",
            "advice": "",
        },
        {
            "name": "step",
            "outcome": "fail",
            "passed": False,
            "expected": "a thing",
            "found": "is none",
            "reason": "thing: is none",
            "advice": "give one",
        },
    ]


def test_errors_that_are_not_ours_are_not_turned_into_checks() -> None:
    checks = CheckList()
    with pytest.raises(ZeroDivisionError), checks.step("step", expected="a thing"):
        raise ZeroDivisionError
    assert checks.verdict().checks == ()
