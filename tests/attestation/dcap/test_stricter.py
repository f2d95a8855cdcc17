"""What dcap-qvl alone accepts and this verifier refuses, each for a reason that is written here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest

from attestation.anchors import anchors_for
from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.verify import verify_dcap
from attestation.sim.pki import SimPki
from attestation.sim.plan import Part, SimPlan
from attestation.sim.quote import sim_domain, td_quote
from attestation.sim.tcb import Tee
from tests.support.dcap_cases import failed_names
from tests.support.policies import permissive_policy
from tests.support.sim_pki import NOW, library_verdict, pki, plan


class Stricter(NamedTuple):
    """A change of good evidence, the check that refuses it, and why it should."""

    check: str
    why: str
    plan: Callable[[], SimPlan] = plan
    quote: Callable[[bytes], bytes] = lambda quote: quote
    collateral: Callable[[DcapCollateral], DcapCollateral] = lambda given: given


def named(part: Part) -> Callable[[], SimPlan]:
    return lambda: plan(names={part: "Somebody Else"})


CASES = {
    "bytes after the quote": Stricter(
        "quote-form",
        "evidence has one form, or its hash says nothing",
        quote=lambda quote: quote + b"\0",
    ),
    "another PCE": Stricter(
        "pce-id",
        "TCB levels are published for one provisioning certification enclave",
        plan=lambda: plan(tcb_info=replace(plan().tcb_info, pce_id=b"\1\0")),
    ),
    "another name of the TCB signer": Stricter(
        "tcb-info-chain",
        "no key for another purpose may sign TCB info",
        plan=named(Part.TCB_SIGNING),
    ),
    "another name of the PCK": Stricter(
        "pck-chain", "no key for another purpose may certify a quoting enclave", plan=named(Part.PCK)
    ),
    "another name of the PCK CA": Stricter(
        "pck-chain", "the revocation list is found by the authority's name", plan=named(Part.CA)
    ),
    "another name of the root": Stricter("pck-chain", "roots have roles, too", plan=named(Part.ROOT)),
    "line ends": Stricter(
        "tcb-info-chain",
        "a chain has one form",
        collateral=lambda given: replace(
            given, tcb_info_issuer_chain=given.tcb_info_issuer_chain.replace("\n", "\r\n")
        ),
    ),
    "no chain of the PCK's list": Stricter(
        "pck-crl-chain",
        "every part of collateral is used, or it should not be there",
        collateral=lambda given: replace(given, pck_crl_issuer_chain=""),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_library_accepts_what_is_refused_here(name: str) -> None:
    one = CASES[name]
    made: SimPki = pki(one.plan())
    quote, collateral = one.quote(td_quote(made, sim_domain())), one.collateral(made.dcap(Tee.TDX))
    assert library_verdict(quote, collateral, made.root).status == "UpToDate"
    policy = permissive_policy(EvidencePlatform.SIM, roots=[made.anchor()])
    result = verify_dcap(
        EvidenceContainer(platform=EvidencePlatform.SIM, report=quote),
        collateral=Collateral(dcap=(collateral,)),
        anchors=anchors_for(policy),
        policy=policy,
        now=NOW,
    )
    assert failed_names(result) == [one.check]
    assert one.why
