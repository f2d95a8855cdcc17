"""Real quotes give the verdicts that are known for them, and dcap-qvl alone gives the same or a reason is
written here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.library import VERSION
from attestation.dcap.quote import parse_dcap_quote
from attestation.dcap.verify import verify_dcap
from attestation.policy import TcbStatus
from tests.support.dcap_cases import (
    FOLDER,
    SGX_V3,
    TDX_V4,
    TDX_V4_LATER,
    DcapCase,
    case,
    cases,
    failed_checks,
    failed_names,
)
from tests.support.policies import permissive_policy
from tests.support.vectors import vector, vectors_folder

REFUSALS = {
    "No matching TCB level found": "tcb-level",
    "Debug mode is enabled": "debug",
    "SEPT_VE_DISABLE is not enabled": "sept-ve-disable",
}
FLAGS = {"True": "yes", "False": "no", "Undefined": "unknown"}
IDS = sorted(cases()) if vectors_folder() else ["no vectors"]


def test_no_case_is_left_out() -> None:
    assert len(cases()) == 25
    assert sum(one.expect["ok"] for one in cases().values()) == 15


@pytest.mark.parametrize("identifier", IDS)
def test_every_case_gives_its_verdict(identifier: str) -> None:
    one = case(identifier)
    result = one.verify()
    if not one.expect["ok"]:
        assert failed_names(result) == [REFUSALS[one.expect["error"]]]
        return
    assert failed_checks(result) == []
    facts = result.facts
    assert facts is not None
    assert facts.details["tcb_status"] == one.expect["status"]
    assert facts.details["advisories"] == (", ".join(one.expect["advisory_ids"]) or "none")
    assert facts.details["evaluation_number"] == str(one.expect["eval_data_number"])
    assert facts.details["tcb_date"] == one.expect["platform_tcb_date"]
    assert facts.details["pck_crl_number"] == str(one.expect["pck_crl_num"])
    assert facts.identity["ppid"] == one.expect["ppid"]
    assert facts.identity.get("platform_instance") == (one.expect["platform_instance_id"] or None)
    for name, key in (("dynamic_platform",) * 2, ("cached_keys",) * 2, ("smt", "smt_enabled")):
        assert facts.details[name] == FLAGS[one.expect[key]]
    assert ("dcap-qvl", VERSION) in result.versions
    assert not facts.development


@pytest.mark.parametrize("identifier", IDS)
def test_the_library_alone_says_the_same(identifier: str) -> None:
    one = case(identifier)
    ours = one.verify()
    if not one.expect["ok"]:
        assert not ours.passed
        with pytest.raises(ValueError, match=one.expect["error"]):
            one.library()
        return
    theirs = one.library()
    assert ours.facts is not None
    assert theirs.status == ours.facts.details["tcb_status"]
    assert set(theirs.advisory_ids) == set(ours.facts.details["advisories"].split(", ")) - {"none"}


def test_the_library_passes_over_what_follows_and_we_do_not() -> None:
    followed = [one for one in map(case, IDS) if one.stored != one.quote]
    assert len(followed) > 10
    for one in followed:
        assert failed_names(one.verify(quote=one.stored)) == ["quote-form"]
        if one.expect["ok"]:
            assert replace(one, quote=one.stored).library().status == one.expect["status"]


def test_one_quote_turns_between_two_dates() -> None:
    before, after = case(TDX_V4), case(TDX_V4_LATER)
    assert before.quote == after.quote
    current = before.policy(statuses=frozenset({TcbStatus.UP_TO_DATE}))
    assert failed_names(before.verify(current)) == []
    result = after.verify(current)
    assert failed_names(result) == ["tcb-status"]
    assert {one.name: (one.have, one.need) for one in result.components if one.short} == {
        "SGX component 1 (BIOS, Early Microcode Update)": (3, 4),
        "SGX component 2 (OS/VMM, SGX Late Microcode Update)": (3, 4),
        "TDX component 3 (OS/VMM, TDX Late Microcode Update)": (3, 4),
        "TDX module SVN (TDX_01)": (6, 11),
    }


def test_both_sets_at_hand_give_each_date_its_own() -> None:
    before, after = case(TDX_V4), case(TDX_V4_LATER)
    policy = before.policy()
    for one in (before, after):
        for sets in ((before.collateral, after.collateral), (after.collateral, before.collateral)):
            result = verify_dcap(
                EvidenceContainer(platform=EvidencePlatform.TDX, report=one.quote),
                collateral=Collateral(dcap=sets),
                anchors=anchors_for(policy),
                policy=policy,
                now=one.now,
            )
            assert failed_names(result) == []
            assert result.facts is not None
            assert result.facts.details["evaluation_number"] == str(one.expect["eval_data_number"])


def test_collateral_in_the_evidence_counts_like_any() -> None:
    one = case(TDX_V4)
    policy = one.policy()
    container = EvidenceContainer(
        platform=one.platform, report=one.quote, collateral=Collateral(dcap=(one.collateral,))
    )
    given: dict[str, Any] = {"anchors": anchors_for(policy), "policy": policy, "now": one.now}
    assert verify_dcap(container, collateral=Collateral(), **given).passed
    empty = replace(container, collateral=Collateral())
    assert failed_names(verify_dcap(empty, collateral=Collateral(), **given)) == ["collateral-found"]


@pytest.mark.parametrize(
    ("name", "platform", "check"),
    [
        ("trustee-tdx-quote-4-debug.bin", EvidencePlatform.TDX, "debug"),
        ("trustee-az-td-quote.bin", EvidencePlatform.TDX, "sept-ve-disable"),
        ("oasis-quote-v3-certtype3-eppid.bin", EvidencePlatform.SGX, "certification"),
    ],
)
def test_what_can_be_refused_is_refused_before_collateral(
    name: str, platform: EvidencePlatform, check: str
) -> None:
    stored = vector(f"{FOLDER}/quotes/{name}").read_bytes()
    quote = stored[:-70] if name == "trustee-az-td-quote.bin" else stored
    policy = permissive_policy(platform)
    result = verify_dcap(
        EvidenceContainer(platform=platform, report=quote),
        collateral=Collateral(),
        anchors=anchors_for(policy),
        policy=policy,
        now=1_780_000_000,
    )
    assert failed_names(result) == [check]
    (failure,) = failed_checks(result)
    assert failure.reason
    assert failure.advice


def test_a_quote_is_of_the_platform_that_it_says() -> None:
    for identifier, other in ((TDX_V4, EvidencePlatform.SGX), (SGX_V3, EvidencePlatform.TDX)):
        assert failed_names(case(identifier).verify(platform=other)) == ["tee-type"]
    assert failed_names(case(TDX_V4).verify(platform=EvidencePlatform.SIM)) == ["pck-chain"]


@pytest.mark.parametrize("identifier", [TDX_V4, SGX_V3])
def test_windows_and_links_cover_everything_signed(identifier: str) -> None:
    result = case(identifier).verify()
    names = {one.name for one in result.windows}
    assert {"TCB info", "QE identity", "PCK CRL", "root CRL"} <= names
    assert sum(name.startswith("certificate ") for name in names) == 4
    links = {(one.subject, one.issuer) for one in result.chain}
    assert ("quote", "attestation key") in links
    assert ("Intel SGX PCK Certificate", "Intel SGX PCK Platform CA") in links or identifier == SGX_V3
    assert ("Intel SGX Root CA", "Intel SGX Root CA") in links


@pytest.mark.parametrize("identifier", [TDX_V4, SGX_V3])
def test_a_verdict_ends_with_its_first_window(identifier: str) -> None:
    one = case(identifier)
    last = min(window.end for window in one.verify().windows)
    assert failed_names(one.verify(now=last)) == []
    assert failed_names(one.verify(now=last + 1)) == ["collateral-windows"]
    first = max(window.start for window in one.verify().windows)
    assert failed_names(one.verify(now=first)) == []
    assert failed_names(one.verify(now=first - 1)) == ["collateral-windows"]


def test_no_level_says_what_is_short_and_by_how_much() -> None:
    result = case("automata-dcap-attestation-sample-quotes-bf0d@2026-03-18").verify()
    (failure,) = failed_checks(result)
    assert "For the lowest level: SGX component 8 is 3, needs 5" in failure.found
    assert "For the newest: SGX component 1 is 2, needs 3" in failure.found
    assert {one.name: one.need for one in result.components if one.short}


def test_fields_are_those_of_the_librarys_parser() -> None:
    for one in cases().values():
        quote = parse_dcap_quote(one.quote)
        assert quote.report_data.hex() == _field(one, "report_data")


def _field(one: DcapCase, name: str) -> str:
    import dcap_qvl

    report = dcap_qvl.Quote.parse(one.quote).report
    return bytes(getattr(report() if callable(report) else report, name)).hex()


def test_the_date_in_a_check_is_a_date() -> None:
    (check,) = [
        check
        for group in case(TDX_V4).verify().groups
        for check in group.checks
        if check.name == "library-agrees"
    ]
    match = re.search(r"\d{4}-\d{2}-\d{2}", check.found)
    assert match is not None
    assert datetime.fromisoformat(match[0]).replace(tzinfo=UTC).year == 2024
