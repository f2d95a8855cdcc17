"""Who may sign what, under which root, and for whom: wrong roles, names and texts, by the generated PKI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from attestation.anchors import AnchorError, Anchors, anchors_for
from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidencePlatform
from attestation.policy import Environment, PolicyError, RootPurpose
from attestation.sim.pki import make_pki, new_keys, pem, raw_signature
from attestation.sim.plan import Part
from attestation.sim.platform import SimPlatform
from attestation.sim.quote import QuoteShape, sim_domain, td_quote
from attestation.sim.tcb import Tee
from tests.attestation.sim.judged import edited, failed, found, policy_for, verify
from tests.support.policies import permissive_policy
from tests.support.sim_pki import NOW, keys, library_verdict, pki, plan


def test_tcb_info_signed_by_a_pck_is_refused_where_the_library_accepts_it() -> None:
    made = pki(plan(tcb_info_signer=Part.PCK))
    assert library_verdict(td_quote(made, sim_domain()), made.dcap(), made.root).status == "UpToDate"
    assert failed(made) == ["tcb-info-chain"]


def test_tcb_info_signed_by_a_ca_is_refused() -> None:
    assert failed(pki(plan(tcb_info_signer=Part.CA))) == ["tcb-info-chain"]


@pytest.mark.parametrize("signer", [Part.PCK, Part.CA])
def test_a_qe_identity_signed_by_another_role_is_refused(signer: Part) -> None:
    assert failed(pki(plan(qe_identity_signer=signer))) == ["qe-identity-chain"]


def test_a_tcb_signer_that_acts_as_a_ca_is_refused() -> None:
    made = pki(plan(pck_issuer=Part.TCB_SIGNING))
    assert failed(made) == ["pck-chain"]


def test_a_tcb_signer_with_the_name_of_a_ca_is_no_ca() -> None:
    names = {Part.TCB_SIGNING: "Intel SGX PCK Platform CA"}
    made = pki(plan(pck_issuer=Part.TCB_SIGNING, names=names))
    assert failed(made) == ["pck-chain"]


@pytest.mark.parametrize(
    ("part", "check"),
    [
        (Part.PCK, "pck-chain"),
        (Part.CA, "pck-chain"),
        (Part.ROOT, "pck-chain"),
        (Part.TCB_SIGNING, "tcb-info-chain"),
    ],
)
def test_a_certificate_of_another_name_is_refused(part: Part, check: str) -> None:
    assert failed(pki(plan(names={part: "Intel SGX Something Else"}))) == [check]


def test_the_certificate_of_the_attestation_key_is_not_a_name() -> None:
    made = pki(plan(names={Part.PCK: "Intel SGX TCB Signing"}))
    assert failed(made) == ["pck-chain"]


def test_the_ca_of_the_other_kind_has_another_list() -> None:
    platform, processor = pki(), pki(plan(processor_ca=True))
    assert failed(processor) == []
    assert failed(platform, collateral=processor.dcap()) == ["pck-crl-issuer"]


def test_tcb_info_of_another_pce_is_refused_where_the_library_accepts_it() -> None:
    info = replace(plan().tcb_info, pce_id=b"\x01\x00")
    made = pki(plan(tcb_info=info))
    assert library_verdict(td_quote(made, sim_domain()), made.dcap(), made.root).status == "UpToDate"
    assert failed(made) == ["pce-id"]


def test_tcb_info_of_another_fmspc_is_no_collateral_for_the_quote() -> None:
    made = pki(plan(tcb_info=replace(plan().tcb_info, fmspc=b"OTHER\0")))
    assert failed(made) == ["collateral-found"]
    assert b"OTHER\0".hex() in found(verify(made), "collateral-found")


CHANGES: dict[str, Callable[[str], str]] = {
    "status twice": lambda text: text.replace('"tcbStatus"', '"tcbStatus":"UpToDate","tcbStatus"', 1),
    "fmspc twice": lambda text: text.replace('"fmspc"', '"fmspc":"000000000000","fmspc"', 1),
    "id twice": lambda text: text.replace('"id":"TDX"', '"id":"TDX","id":"TDX"', 1),
    "levels twice": lambda text: text.replace('"tcbLevels"', '"tcbLevels":[],"tcbLevels"'),
    "another version": lambda text: text.replace('"version":3', '"version":4'),
    "blanks before": lambda text: " " + text,
    "blanks behind": lambda text: text + "\n",
    "more behind": lambda text: text + "{}",
    "no levels": lambda text: text[: text.index('"tcbLevels":[{"tcb":{"sgx')] + '"tcbLevels":[]}',
    "fifteen components": lambda text: text.replace('{"svn":0},', "", 1),
    "a negative component": lambda text: text.replace('"svn":4', '"svn":-4', 1),
    "a component as text": lambda text: text.replace('"svn":4', '"svn":"4"', 1),
    "a number with a point": lambda text: text.replace('"pcesvn":11', '"pcesvn":11.0', 1),
    "an unknown status": lambda text: text.replace('"tcbStatus":"UpToDate"', '"tcbStatus":"Fine"'),
    "a date that is none": lambda text: text.replace('"tcbDate":"2026', '"tcbDate":"2026-13', 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_signed_tcb_info_that_is_not_of_the_one_form_is_refused(name: str) -> None:
    text = CHANGES[name](pki().tcb_info())
    assert text != pki().tcb_info()
    names = failed(pki(), collateral=edited(pki(), CHANGES[name]))
    assert names in (["tcb-info-form"], ["collateral-found"])


@pytest.mark.parametrize("key", ["isvprodid", "mrsigner", "tcbStatus", "nextUpdate"])
def test_a_key_twice_in_a_signed_qe_identity_is_refused(key: str) -> None:
    text = pki().qe_identity().replace(f'"{key}"', f'"{key}":1,"{key}"', 1)
    assert failed(pki(), collateral=pki().dcap(qe_identity=text)) == ["qe-identity-form"]


def test_texts_that_were_changed_after_signing_are_refused() -> None:
    good = pki().dcap()
    info = replace(good, tcb_info=good.tcb_info.replace("OutOfDate", "UpToDate"))
    assert failed(pki(), collateral=info) == ["tcb-info-signature"]
    identity = replace(good, qe_identity=good.qe_identity.replace("OutOfDate", "UpToDate"))
    assert failed(pki(), collateral=identity) == ["qe-identity-signature"]
    swapped = replace(
        good, tcb_info_signature=good.qe_identity_signature, qe_identity_signature=good.tcb_info_signature
    )
    assert failed(pki(), collateral=swapped) == ["tcb-info-signature"]


def test_lists_in_each_others_place_are_refused() -> None:
    good = pki().dcap()
    swapped = replace(good, root_ca_crl=good.pck_crl, pck_crl=good.root_ca_crl)
    assert failed(pki(), collateral=swapped) == ["root-crl"]
    assert failed(pki(), collateral=replace(good, pck_crl=good.root_ca_crl)) == ["pck-crl"]


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 64, b"x", b"\xff" * 4])
def test_bytes_after_the_quote_are_refused_where_the_library_ignores_them(tail: bytes) -> None:
    quote = td_quote(pki(), sim_domain()) + tail
    assert library_verdict(quote, pki().dcap(), pki().root).status == "UpToDate"
    assert failed(pki(), quote) == ["quote-form"]


def test_every_cut_of_a_quote_is_refused() -> None:
    quote = td_quote(pki(), sim_domain())
    for length in (*range(0, 700, 23), *range(700, len(quote), 211), len(quote) - 1):
        assert failed(pki(), quote[:length]), length


def test_a_quote_of_one_machine_with_the_chain_of_another_is_refused() -> None:
    stranger = make_pki(plan(), new_keys())
    quote = td_quote(stranger, sim_domain())
    assert failed(pki(), quote) == ["pck-chain"]
    both = replace(policy_for(pki()), roots=(pki().anchor(), stranger.anchor()))
    assert failed(pki(), quote, policy=both) == ["same-root"]
    assert failed(pki(), quote, policy=both, collateral=stranger.collateral()) == []


@pytest.mark.parametrize(
    ("shape", "check"),
    [
        (QuoteShape(vendor=bytes(16)), "qe-vendor"),
        (QuoteShape(qe_mrsigner=bytes(32)), "qe-identity"),
        (QuoteShape(qe_attributes=b"\x17" + bytes(15)), "qe-identity"),
        (QuoteShape(certification=4), "certification"),
        (QuoteShape(certification=1), "certification"),
    ],
)
def test_a_quoting_enclave_that_is_not_intels_is_refused(shape: QuoteShape, check: str) -> None:
    assert failed(pki(), td_quote(pki(), sim_domain(), shape=shape)) == [check]


def test_an_attestation_key_that_the_enclave_did_not_bind_is_refused() -> None:
    other = replace(pki(), keys=replace(keys(), attestation=new_keys().attestation))
    good, foreign = td_quote(pki(), sim_domain()), td_quote(other, sim_domain())
    key = slice(632 + 4 + 64, 632 + 4 + 128)
    swapped = good[: key.start] + foreign[key] + good[key.stop :]
    assert failed(pki(), swapped) == ["attestation-key"]
    resigned = swapped[:636] + raw_signature(other.keys.attestation, good[:632]) + swapped[700:]
    assert failed(pki(), resigned) == ["attestation-key"]


def test_a_release_policy_never_trusts_a_simulated_root() -> None:
    with pytest.raises(PolicyError, match="simulated TEEs"):
        replace(policy_for(pki()), environment=Environment.RELEASE)
    release = permissive_policy(EvidencePlatform.TDX, environment=Environment.RELEASE)
    with pytest.raises(AnchorError, match="simulated TEE"):
        anchors_for(replace(release, roots=(pki().anchor(),)))
    assert failed(pki(), policy=release) == ["policy-section"]
    assert failed(pki(), policy=release, platform=EvidencePlatform.TDX) == ["pck-chain"]


def test_a_policy_for_development_without_the_root_refuses_it() -> None:
    assert failed(pki(), policy=replace(policy_for(pki()), roots=())) == ["pck-chain"]


@pytest.mark.parametrize("platform", [EvidencePlatform.TDX, EvidencePlatform.SGX])
def test_simulated_evidence_does_not_pass_as_real(platform: EvidencePlatform) -> None:
    all_dcap = (EvidencePlatform.SIM, EvidencePlatform.TDX, EvidencePlatform.SGX)
    policy = permissive_policy(*all_dcap, roots=[pki().anchor()])
    assert failed(pki(), policy=policy) == []
    wanted = ["pck-chain"] if platform is EvidencePlatform.TDX else ["tee-type"]
    assert failed(pki(), policy=policy, platform=platform) == wanted


def test_a_simulated_root_for_another_purpose_is_no_simulated_root() -> None:
    for purpose in RootPurpose:
        anchors = Anchors(anchors=(replace(pki().anchor(), purpose=purpose),))
        assert failed(pki(), anchors=anchors) == ([] if purpose is RootPurpose.SIM else ["pck-chain"])


def test_evidence_of_a_platform_without_a_section_is_refused() -> None:
    policy = permissive_policy(EvidencePlatform.TDX, roots=[pki().anchor()])
    assert failed(pki(), policy=policy) == ["policy-section"]


def test_no_collateral_is_a_failed_check_that_says_what_to_fetch() -> None:
    result = verify(pki(), collateral=Collateral())
    (check,) = [one for group in result.groups for one in group.checks if one.name == "collateral-found"]
    assert not check.passed
    assert "keyturn collateral fetch" in check.advice


def test_collateral_beside_that_of_others_is_found() -> None:
    other = pki(plan(platform=SimPlatform(fmspc=b"OTHER\0")))
    older = pki(plan(tcb_info=replace(plan().tcb_info, evaluation_number=19)))
    sets = (other.dcap(), older.dcap(), other.dcap(Tee.SGX), pki().dcap(), pki().dcap(Tee.SGX))
    facts = verify(pki(), collateral=Collateral(dcap=sets)).facts
    assert facts is not None
    assert facts.details["evaluation_number"] == "20"
    assert verify(pki(), collateral=Collateral(dcap=sets[::-1]), now=NOW).passed


CHAINS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")


@pytest.mark.parametrize("name", CHAINS)
def test_chains_that_are_too_long_short_or_in_another_order_are_refused(name: str) -> None:
    good = pki().dcap()
    text = {
        "pck_crl_issuer_chain": good.pck_crl_issuer_chain,
        "tcb_info_issuer_chain": good.tcb_info_issuer_chain,
        "qe_identity_issuer_chain": good.qe_identity_issuer_chain,
    }[name]
    end = text.index("-----BEGIN", 1)
    first, second = text[:end], text[end:]
    extra = pem(pki().certificates[Part.PCK])
    for changed in (first, second + first, text + extra, extra + text, "", first + first + second):
        collateral = with_chain(good, name, changed)
        assert len(failed(pki(), collateral=collateral)) == 1


def with_chain(good: DcapCollateral, name: str, text: str) -> DcapCollateral:
    if name == "pck_crl_issuer_chain":
        return replace(good, pck_crl_issuer_chain=text)
    if name == "tcb_info_issuer_chain":
        return replace(good, tcb_info_issuer_chain=text)
    return replace(good, qe_identity_issuer_chain=text)
