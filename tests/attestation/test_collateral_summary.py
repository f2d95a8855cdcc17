"""What collateral says of itself."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral import Collateral
from attestation.collateral_summary import (
    SIMULATED,
    Item,
    ItemState,
    SummaryError,
    is_simulated,
    read_published,
    rim_name,
    summarise,
)
from attestation.sim.pki import ORGANISATION, make_pki, new_keys
from attestation.sim.plan import sim_plan
from attestation.sim.platform import SimPlatform
from attestation.snp.products import Product
from tests.support.revocation_lists import certificate, ocsp_answer, revocation_list
from tests.support.snp_pki import pki
from tests.support.vectors import vector

NOW = 1_781_000_000
DAY = 86_400
SET = make_pki(sim_plan(NOW), new_keys()).collateral().dcap[0]
HEAD: dict[str, Any] = {
    "id": "TDX",
    "fmspc": "00A06711AB00",
    "tcbEvaluationDataNumber": 17,
    "issueDate": "2026-06-08T11:32:35Z",
    "nextUpdate": "2026-07-08T11:32:35Z",
}


def test_a_set_is_taken_apart() -> None:
    items = summarise(Collateral(dcap=(SET,)))
    assert [(one.what, one.subject, one.state(NOW)) for one in items] == [
        ("TCB info", f"TDX {SimPlatform().fmspc.hex()}", ItemState.VALID),
        ("QE identity", "TD_QE", ItemState.VALID),
        ("revocation list", "Intel SGX PCK Platform CA", ItemState.VALID),
        ("revocation list", "Intel SGX Root CA", ItemState.VALID),
        ("certificate", "Intel SGX TCB Signing of Intel SGX Root CA", ItemState.VALID),
        ("certificate", "Intel SGX Root CA", ItemState.VALID),
        ("certificate", "Intel SGX PCK Platform CA of Intel SGX Root CA", ItemState.VALID),
    ]
    head = json.loads(SET.tcb_info)
    assert items[0].evaluation_number == head["tcbEvaluationDataNumber"]
    assert (items[0].start, items[0].end) == (NOW - DAY, NOW + 29 * DAY)


def test_windows_hold_at_both_ends_and_no_longer() -> None:
    item = Item(what="x", subject="y", start=10, end=20)
    states = {now: item.state(now) for now in (9, 10, 20, 21)}
    assert states == {
        9: ItemState.NOT_YET,
        10: ItemState.VALID,
        20: ItemState.VALID,
        21: ItemState.EXPIRED,
    }
    assert item.as_json(21)["state"] == "expired"


def test_early_sets_are_marked() -> None:
    items = summarise(Collateral(early=(SET,)))
    assert {one.what for one in items if one.early} == {"TCB info", "QE identity"}


def test_what_stands_alone() -> None:
    rim = b'<SoftwareIdentity name="GH100"><Meta colloquialVersion="96.00"/></SoftwareIdentity>'
    items = summarise(
        Collateral(
            certificates=(certificate("SEV-VCEK", NOW, issuer="SEV-Milan"),),
            crls=(revocation_list("ARK-Milan", NOW),),
            rims=(rim,),
            ocsp=(ocsp_answer(NOW),),
        )
    )
    assert [(one.what, one.state(NOW)) for one in items] == [
        ("certificate", ItemState.VALID),
        ("revocation list", ItemState.VALID),
        ("reference manifest", ItemState.NO_WINDOW),
        ("OCSP answer", ItemState.VALID),
    ]
    assert [one.subject for one in items[:3]] == ["SEV-VCEK of SEV-Milan", "ARK-Milan", "GH100 96.00"]
    assert items[3].subject.startswith("serial ")


def test_what_cannot_be_read_is_said_and_does_not_raise() -> None:
    broken = replace(SET, tcb_info="{", qe_identity="[]", pck_crl=b"x", pck_crl_issuer_chain="x")
    items = summarise(
        Collateral(dcap=(broken,), certificates=(b"x",), crls=(b"x",), rims=(b"x",), ocsp=(b"x",))
    )
    unreadable = [one for one in items if one.state(NOW) is ItemState.UNREADABLE]
    assert {one.what for one in unreadable} == {
        "TCB info",
        "QE identity",
        "revocation list",
        "issuer chain",
        "certificate",
        "reference manifest",
        "OCSP answer",
    }
    assert all(one.problem for one in unreadable)


def test_the_head_of_signed_json() -> None:
    found = read_published(json.dumps(HEAD), what="TCB info")
    assert (found.id, found.fmspc, found.evaluation_number) == ("TDX", "00a06711ab00", 17)
    assert found.next_update - found.issued == 30 * DAY


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": 1}, "no id"),
        ({"id": "x" * 17}, "no id"),
        ({"fmspc": "00"}, "fmspc"),
        ({"fmspc": 1}, "fmspc"),
        ({"tcbEvaluationDataNumber": True}, "tcbEvaluationDataNumber"),
        ({"tcbEvaluationDataNumber": -1}, "tcbEvaluationDataNumber"),
        ({"tcbEvaluationDataNumber": 1.5}, "tcbEvaluationDataNumber"),
        ({"issueDate": "2026-06-08"}, "issueDate"),
        ({"nextUpdate": "2026-13-08T11:32:35Z"}, "nextUpdate"),
        ({"nextUpdate": None}, "nextUpdate"),
    ],
)
def test_a_head_that_is_not_of_the_form_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SummaryError, match=reason):
        read_published(json.dumps({**HEAD, **change}), what="TCB info")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 5000, '{"id": "\\ud800"}'])
def test_no_head_at_all(text: str) -> None:
    with pytest.raises(SummaryError):
        read_published(text, what="TCB info")


@given(st.text(max_size=200), st.binary(max_size=200))
def test_nothing_makes_the_summary_raise(text: str, data: bytes) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        text.encode()
        broken = replace(SET, tcb_info=text, pck_crl=data, tcb_info_issuer_chain=text)
        summarise(Collateral(dcap=(broken,), certificates=(data,), crls=(data,), rims=(data,), ocsp=(data,)))


@pytest.mark.parametrize("data", [b"", b"<html>", b"<SoftwareIdentity>", b'<SoftwareIdentityX name="x">'])
def test_no_manifest_has_no_name(data: bytes) -> None:
    assert rim_name(data) is None


def test_a_real_manifest_is_named() -> None:
    data = vector("attestation/nvidia/vbios_rim_1010_0200_882_96005E0001.swidtag").read_bytes()
    assert rim_name(data) == "GH100 96.00.5E.00.01"


def test_text_that_is_no_unicode_makes_nothing_raise() -> None:
    texts = ("tcb_info", "qe_identity", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
    for name in (*texts, "pck_crl_issuer_chain"):
        fields: dict[str, Any] = {name: "\ud800"}
        items = summarise(Collateral(dcap=(replace(SET, **fields),)))
        assert [one.problem for one in items if one.problem]


def test_collateral_of_simulated_tees_says_so() -> None:
    assert SIMULATED in ORGANISATION.encode()
    for simulated in (Collateral(dcap=(SET,)), Collateral(early=(SET,)), Collateral(crls=(SET.pck_crl,))):
        assert is_simulated(simulated)
    assert not is_simulated(Collateral())
    assert not is_simulated(Collateral(crls=(pki(Product.GENOA).crl(),)))
