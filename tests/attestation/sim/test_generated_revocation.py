"""Revoked certificates, and the window of every part to the second, by the generated PKI."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attestation.collateral import Collateral, DcapCollateral
from attestation.platform_verification import Window
from attestation.sim.pki import SimPki, make_pki, new_keys
from attestation.sim.plan import Part
from attestation.sim.tcb import DAY
from tests.attestation.sim.judged import failed, found, policy_for, verify
from tests.support.sim_pki import NOW, keys, pki, plan, with_window

WINDOWED = list(Part)
LISTS = (Part.ROOT_CRL, Part.PCK_CRL)


def test_a_revoked_pck_certificate_is_refused() -> None:
    made = pki(plan(revoked=frozenset({Part.PCK})))
    assert failed(made) == ["pck-not-revoked"]
    assert "revoked" in found(verify(made), "pck-not-revoked")


@pytest.mark.parametrize("part", [Part.CA, Part.TCB_SIGNING])
def test_a_revoked_intermediate_or_signer_is_refused(part: Part) -> None:
    made = pki(plan(revoked=frozenset({part})))
    assert failed(made) == ["signers-not-revoked"]
    assert made.plan.common_name(part) in found(verify(made), "signers-not-revoked")


def test_all_revoked_at_once_is_refused_at_the_first() -> None:
    made = pki(plan(revoked=frozenset({Part.CA, Part.PCK, Part.TCB_SIGNING})))
    assert failed(made) == ["signers-not-revoked"]


def test_the_root_in_its_own_list_is_refused() -> None:
    made = pki(plan(revoked=frozenset({Part.ROOT})))
    assert failed(made) == ["signers-not-revoked"]


def test_lists_that_revoke_others_do_no_harm() -> None:
    other = make_pki(plan(revoked=frozenset({Part.PCK})), keys())
    assert failed(pki(), collateral=other.dcap()) == ["pck-not-revoked"]
    stranger = new_keys()
    assert other.certificates[Part.PCK] != make_pki(plan(), stranger).certificates[Part.PCK]


@pytest.mark.parametrize("part", WINDOWED)
def test_an_expired_part_is_refused(part: Part) -> None:
    made = pki(with_window(part, NOW - 2 * DAY, NOW - DAY))
    assert failed(made) == ["collateral-windows"]
    assert "expired" in found(verify(made), "collateral-windows")


@pytest.mark.parametrize("part", WINDOWED)
def test_a_part_that_is_not_valid_yet_is_refused(part: Part) -> None:
    made = pki(with_window(part, NOW + DAY, NOW + 2 * DAY))
    assert failed(made) == ["collateral-windows"]
    assert "not valid yet" in found(verify(made), "collateral-windows")


@pytest.mark.parametrize("part", WINDOWED)
def test_windows_hold_from_the_first_second_to_the_last(part: Part) -> None:
    first = pki(with_window(part, NOW, NOW + DAY))
    assert failed(first) == []
    assert failed(first, now=NOW - 1) == ["collateral-windows"]
    last = pki(with_window(part, NOW - DAY, NOW))
    assert failed(last, now=NOW + 1) == ["collateral-windows"]
    assert failed(last, now=NOW - 1) == []
    # dcap-qvl ends lists one second before their nextUpdate.
    assert failed(last) == (["collateral-windows"] if part in LISTS else [])


def test_every_part_has_a_window_in_the_verdict() -> None:
    result = verify(pki())
    spans = {(one.start, one.end) for one in result.windows}
    for part, one in pki().plan.windows.items():
        assert (one.start, one.end - (part in LISTS)) in spans, part


def test_the_oldest_part_of_the_collateral_counts_for_its_age() -> None:
    for part in (Part.TCB_INFO, Part.QE_IDENTITY, Part.PCK_CRL):
        made = pki(with_window(part, NOW - 5 * DAY, NOW + DAY))
        assert failed(made, policy=policy_for(made, max_collateral_age=5 * DAY)) == []
        assert failed(made, policy=policy_for(made, max_collateral_age=5 * DAY - 1)) == ["collateral-age"]
    made = pki(with_window(Part.ROOT_CRL, NOW - 50 * DAY, NOW + DAY))
    assert failed(made, policy=policy_for(made, max_collateral_age=5 * DAY)) == []


def test_windows_of_the_good_plan_are_those_that_intel_has() -> None:
    windows = pki().plan.windows
    assert windows[Part.TCB_INFO].end - windows[Part.TCB_INFO].start == 30 * DAY
    assert isinstance(windows[Part.ROOT_CRL], Window)
    assert windows[Part.ROOT_CRL].end - windows[Part.ROOT_CRL].start == 365 * DAY


def newer_evaluation(made: SimPki) -> DcapCollateral:
    """The collateral of ``made`` as the next TCB recovery has it, with the same lists."""
    tcb_info = replace(plan().tcb_info, evaluation_number=21)
    identity = replace(plan().qe_identity, evaluation_number=21)
    later = make_pki(plan(tcb_info=tcb_info, qe_identity=identity), keys()).dcap()
    return replace(
        made.dcap(),
        tcb_info=later.tcb_info,
        tcb_info_signature=later.tcb_info_signature,
        qe_identity=later.qe_identity,
        qe_identity_signature=later.qe_identity_signature,
    )


@pytest.mark.parametrize(
    ("part", "name"),
    [(Part.PCK, "pck_crl"), (Part.CA, "root_ca_crl"), (Part.TCB_SIGNING, "root_ca_crl")],
)
@pytest.mark.parametrize("loose", [False, True])
def test_a_newer_set_in_the_evidence_hides_no_revocation(part: Part, name: str, loose: bool) -> None:
    """The evidence brings collateral that is preferred, with a list of before the revocation; the list that
    revokes is at hand, in another set or by itself.
    """
    good, revoking = pki(), make_pki(plan(revoked=frozenset({part})), keys()).dcap()
    chosen, revoked = newer_evaluation(good), getattr(revoking, name)
    assert failed(good, collateral=chosen) == []
    if loose:
        both = Collateral(dcap=(chosen,), crls=(revoked,))
    else:
        fields: dict[str, Any] = {name: revoked}
        both = Collateral(dcap=(replace(good.dcap(), **fields), chosen))
    assert failed(good, collateral=both) == ["lists-at-hand"]


def test_lists_of_others_revoke_nothing_here() -> None:
    good, stranger = pki(), make_pki(plan(revoked=frozenset({Part.PCK, Part.CA})), new_keys())
    both = Collateral(dcap=(good.dcap(), stranger.dcap()), crls=(stranger.dcap().root_ca_crl, b"junk"))
    assert failed(good, collateral=both) == []
