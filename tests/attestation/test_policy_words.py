"""A policy in words: what passes is said, and a warning stands wherever more passes than may be meant."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given

from attestation.container import EvidencePlatform
from attestation.policies import permissive_template, policy_template
from attestation.policy import (
    AkProof,
    Environment,
    GraceWindow,
    Measurements,
    MeasurementSet,
    Policy,
    RootPurpose,
    TcbStatus,
    TrustAnchor,
)
from attestation.policy_file import parse_policy
from attestation.policy_words import Tone, policy_words
from tests.support.policies import NONE, only, permissive_policy
from tests.support.policy_strategies import policies

NOW = 1_790_000_000
TDX = permissive_policy(EvidencePlatform.TDX, environment=Environment.RELEASE)
EVERYTHING = permissive_policy(*EvidencePlatform, gpu=True)


def sentences(policy: Policy, tone: Tone) -> list[str]:
    return [
        one.text for paragraph in policy_words(policy, NOW) for one in paragraph.sentences if one.tone is tone
    ]


def changed(policy: Policy, section: str, **changes: Any) -> Policy:
    found = dataclasses.replace(getattr(policy, section), **changes)
    return dataclasses.replace(policy, **{section: found})


def grace(until: int) -> Policy:
    window = GraceWindow(statuses=frozenset({TcbStatus.OUT_OF_DATE}), until=until)
    return changed(TDX, "tdx", statuses=frozenset(), grace=(window,))


@given(policies())
def test_every_policy_has_words(policy: Policy) -> None:
    paragraphs = policy_words(policy, NOW)
    sections = sum(getattr(policy, one) is not None for one in (*EvidencePlatform, "gpu"))
    assert len(paragraphs) == 1 + sections + bool(policy.roots)
    for paragraph in paragraphs:
        assert paragraph.title
        assert paragraph.sentences
        assert all(one.text.endswith((".", ":")) for one in paragraph.sentences)


@pytest.mark.parametrize(
    ("policy", "warning"),
    [
        (TDX, "Any report data passes, so old evidence passes as well: prove freshness in another way."),
        (TDX, "Any measurements are accepted: whatever runs there passes."),
        (TDX, "Any advisory is accepted."),
        (TDX, "There is no floor for the age of TCB levels: old collateral hides what has been found since."),
        (TDX, "Any service trust domain is accepted; it can see what the trust domain migrates."),
        (dataclasses.replace(TDX, report_data=NONE), "No report data is listed: nothing passes."),
        (dataclasses.replace(TDX, app_hashes=NONE), "No app is listed: nothing passes."),
        (changed(TDX, "tdx", ppids=NONE), "No platform is listed: nothing passes."),
        (
            changed(TDX, "tdx", measurements=Measurements(sets=())),
            "No measurement set is listed: nothing passes.",
        ),
        (
            changed(TDX, "tdx", statuses=frozenset()),
            "No TCB status is accepted at this time: nothing passes.",
        ),
        (grace(NOW - 1), "No TCB status is accepted at this time: nothing passes."),
        (grace(NOW - 1), "The grace window for OutOfDate was over at 2026-09-21 14:13:19 UTC: remove it."),
        (EVERYTHING, "The floor of Genoa is zero: firmware of any age passes."),
        (EVERYTHING, "Without it changed firmware passes."),
        (EVERYTHING, "Without it revoked devices pass."),
        (EVERYTHING, "Without it a GPU of another machine passes."),
        (EVERYTHING, "No activation value is listed: no credential counts as opened (a KMS makes its own)."),
        (EVERYTHING, "The quote need not cover any register."),
        (changed(EVERYTHING, "snp", floors={}), "No product has a floor: nothing passes."),
        (changed(EVERYTHING, "snp", vmpls=frozenset()), "No VMPL is listed: nothing passes."),
        (
            changed(EVERYTHING, "tpm", ak_proofs=frozenset()),
            "No proof of the attestation key is accepted: nothing passes.",
        ),
    ],
)
def test_warnings(policy: Policy, warning: str) -> None:
    assert warning in sentences(policy, Tone.WARNS)


def test_a_policy_for_development_is_marked() -> None:
    assert any("for development" in one for one in sentences(EVERYTHING, Tone.WARNS))
    assert not any("for development" in one for one in sentences(TDX, Tone.WARNS))
    assert "Development images and simulated TEEs are refused." in sentences(TDX, Tone.REFUSES)


def test_what_ends_and_when() -> None:
    assert sentences(grace(NOW + 10 * 86400), Tone.ENDS) == [
        "OutOfDate is accepted until 2026-10-01 14:13:20 UTC (10 days from now)."
    ]
    assert sentences(grace(NOW - 1), Tone.ENDS) == []
    assert sentences(grace(NOW), Tone.ENDS)


def test_a_window_for_what_is_accepted_anyway() -> None:
    window = GraceWindow(statuses=frozenset({TcbStatus.UP_TO_DATE}), until=NOW)
    found = sentences(changed(TDX, "tdx", grace=(window,)), Tone.WARNS)
    assert any("has no effect" in one for one in found)


def test_milan() -> None:
    listed = changed(EVERYTHING, "snp", chip_ids=only("ab" * 64))
    assert any("only chips that are listed pass (1 are)" in one for one in sentences(listed, Tone.WARNS))


def test_values_are_named_if_they_are_few() -> None:
    policy = dataclasses.replace(TDX, app_hashes=only("ab" * 32, "cd" * 32))
    assert "The app manifest's hash must be abababababababab… or cdcdcdcdcdcdcdcd…." in sentences(
        policy, Tone.ALLOWS
    )
    many = dataclasses.replace(TDX, app_hashes=only(*(f"{number:064x}" for number in range(7))))
    assert "The app manifest's hash must be one of 7 that are listed." in sentences(many, Tone.ALLOWS)


def test_sets_and_roots_are_named() -> None:
    sets = (MeasurementSet(name="web 1.0", registers={"mrtd": bytes(48)}),)
    root = TrustAnchor(
        purpose=RootPurpose.TPM_EK,
        fingerprint=b"\xab" * 32,
        subject="CN=mine",
        source="me",
        date="2026-11-30",
    )
    policy = changed(TDX, "tdx", measurements=Measurements(sets=sets))
    found = sentences(dataclasses.replace(policy, roots=(root,)), Tone.ALLOWS)
    assert "web 1.0 may run there: mrtd must be its values." in found
    assert any(one.startswith("CN=mine is trusted for tpm-ek") and "ab" * 32 in one for one in found)


def test_a_tpm_needs_roots_of_the_policy() -> None:
    policy = changed(EVERYTHING, "tpm", ak_proofs=frozenset({AkProof.CREDENTIAL}))
    assert any("No root for tpm-ek" in one for one in sentences(policy, Tone.WARNS))


def test_templates_in_words() -> None:
    strict = parse_policy(policy_template([EvidencePlatform.TDX]).encode())
    assert sentences(strict, Tone.WARNS) == [
        "No report data is listed: nothing passes.",
        "No measurement set is listed: nothing passes.",
    ]
    permissive = parse_policy(permissive_template().encode())
    assert len(sentences(permissive, Tone.WARNS)) > 10


def warned(policy: Policy, words: str) -> bool:
    return any(words in one for one in sentences(policy, Tone.WARNS))


def test_a_tpm_alone_beside_tees_is_warned_of() -> None:
    both = permissive_policy(EvidencePlatform.TDX, EvidencePlatform.TPM)
    assert warned(both, "A TPM alone passes")
    assert not warned(permissive_policy(EvidencePlatform.TPM), "A TPM alone passes")
    beside = dataclasses.replace(both, platforms=frozenset({EvidencePlatform.TDX}))
    assert not warned(beside, "A TPM alone passes")


def test_what_the_apps_hash_is_worth_without_measurements() -> None:
    listed = dataclasses.replace(TDX, app_hashes=only("11" * 32))
    measured = Measurements(sets=(MeasurementSet(name="one", registers={"mrtd": b"1"}),))
    assert warned(listed, "other software can claim")
    assert not warned(changed(listed, "tdx", measurements=measured), "other software can claim")
    assert warned(TDX, "evidence may leave out")
    assert not warned(changed(TDX, "tdx", measurements=measured), "evidence may leave out")
