"""Evidence of every platform as a whole: what a policy demands beside the report, logs, apps, and that the
forecast of one date is the verdict of another.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from attestation.anchors import AnchorError, anchors_for
from attestation.app_checks import APP_CHECKS
from attestation.collateral import Collateral
from attestation.collateral_import import import_collateral
from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat
from attestation.evidence_verdict import EvidenceVerdict
from attestation.forecast import forecast
from attestation.importers import import_evidence
from attestation.policy import Environment, Policy, PolicyError, RootPurpose, TcbStatus
from attestation.verify import verify_evidence
from tests.support.policies import NONE, only, permissive_policy
from tests.support.tpm_containers import anchor
from tests.support.vectors import vector
from tests.support.whole_cases import (
    DCAP,
    WholeCase,
    dcap_case,
    dstack_case,
    nitro_case,
    snp_case,
    tpm_case,
)

CASES: dict[str, Callable[[], WholeCase]] = {
    "tdx": dstack_case,
    "snp": snp_case,
    "nitro": nitro_case,
    "tpm": tpm_case,
}
OLD, NEW = "dcap-qvl-tdx-quote-48cf@2025-06-19", "dcap-qvl-tdx-quote-48cf@2026-10-08"


def failures(verdict: EvidenceVerdict) -> list[str]:
    assert verdict.passed is not bool(verdict.failed_checks)
    assert bool(verdict.facts) is verdict.passed
    return [check.name for check in verdict.tree.failures]


@pytest.mark.parametrize("name", CASES)
def test_good_evidence_passes(name: str) -> None:
    verdict = CASES[name]().verify()
    assert failures(verdict) == []
    document = json.loads(json.dumps(verdict.as_json()))
    assert document["passed"] is True
    assert document["windows"]
    assert document["facts"][0]["platform"] == name


@pytest.mark.parametrize("name", CASES)
def test_a_policy_that_allows_another_platform(name: str) -> None:
    other = EvidencePlatform.SNP if name != "snp" else EvidencePlatform.TDX
    case = replace(CASES[name](), policy=permissive_policy(other))
    assert failures(case.verify()) == ["platform-allowed"]


def test_whoever_leaves_the_tpm_out_does_not_get_around_its_rules() -> None:
    case = dstack_case()
    tpm = permissive_policy(EvidencePlatform.TPM).tpm
    assert failures(replace(case, policy=replace(case.policy, tpm=tpm)).verify()) == ["parts"]


def test_whoever_leaves_the_gpus_out_does_not_get_around_their_rules() -> None:
    case = dstack_case()
    gpu = permissive_policy(EvidencePlatform.TDX, gpu=True).gpu
    assert failures(replace(case, policy=replace(case.policy, gpu=gpu)).verify()) == ["parts"]


def test_a_tpm_alone_does_not_stand_for_a_trust_domain() -> None:
    case = tpm_case(3)
    policy = replace(permissive_policy(EvidencePlatform.TDX, roots=case.policy.roots), tpm=case.policy.tpm)
    assert failures(replace(case, policy=policy).verify()) == ["platform-allowed"]


def test_a_tpm_part_that_no_rule_judges() -> None:
    tpm, domain = tpm_case(3), dstack_case()
    evidence = replace(domain.evidence, tpm=tpm.evidence.tpm)
    assert failures(replace(domain, evidence=evidence).verify()) == ["parts"]


def test_a_report_beside_a_lonely_tpm() -> None:
    case = tpm_case(3)
    evidence = replace(case.evidence, report=b"report")
    assert failures(replace(case, evidence=evidence).verify()) == ["parts"]


@pytest.mark.parametrize("platform", [one for one in EvidencePlatform if one is not EvidencePlatform.TPM])
def test_evidence_without_its_report(platform: EvidencePlatform) -> None:
    evidence = EvidenceContainer(platform=platform, report=b"")
    policy = permissive_policy(platform)
    verdict = verify_evidence(
        evidence, collateral=Collateral(), anchors=anchors_for(policy), policy=policy, now=0
    )
    assert failures(verdict) == ["parts"]


@pytest.mark.parametrize("platform", [one for one in EvidencePlatform if one is not EvidencePlatform.TPM])
@pytest.mark.parametrize("report", [b"\0", b"x" * 1184, bytes(4936), b"\xd2\x84" * 2000])
def test_bytes_that_are_no_report(platform: EvidencePlatform, report: bytes) -> None:
    evidence = EvidenceContainer(platform=platform, report=report)
    policy = permissive_policy(platform)
    verdict = verify_evidence(
        evidence, collateral=Collateral(), anchors=anchors_for(policy), policy=policy, now=1
    )
    assert not verdict.passed
    assert failures(verdict)


def test_a_log_is_judged_only_against_registers_that_were_verified() -> None:
    case = dstack_case()
    refused = case.verify(policy=replace(case.policy, report_data=NONE))
    assert failures(refused) == ["report-data"]
    logs = next(group for group in refused.groups if group.name == "event-logs")
    assert not any(check.passed for check in logs.checks)


def test_a_log_with_another_event() -> None:
    case = dstack_case()
    (log,) = case.evidence.logs
    changed = replace(
        log, data=log.data.replace(b"rootfs-hash", b"rootfs-hasX").replace(b"app-id", b"app-ie")
    )
    assert changed != log
    verdict = case.verify(evidence=replace(case.evidence, logs=(changed,)))
    assert [name for name in failures(verdict) if name.startswith("log-dstack")]


class TestApps:
    def allowing(self, *hashes: str) -> list[str]:
        case = dstack_case()
        return failures(case.verify(policy=replace(case.policy, app_hashes=only(*hashes))))

    def compose_hash(self) -> str:
        (log,) = dstack_case().evidence.logs
        events = json.loads(log.data)
        return str(next(one["event_payload"] for one in events if one["event"] == "compose-hash"))

    def test_the_compose_hash_of_dstack_names_the_app(self) -> None:
        assert self.allowing(self.compose_hash()) == []

    def test_an_app_that_is_not_listed(self) -> None:
        assert self.allowing("11" * 32) == ["app-hash"]
        assert self.allowing() == ["app-hash"]

    def test_evidence_without_a_log_names_no_app(self) -> None:
        case = dstack_case()
        policy = replace(case.policy, app_hashes=only(self.compose_hash()))
        verdict = case.verify(policy=policy, evidence=replace(case.evidence, logs=()))
        assert failures(verdict) == ["app-hash"]

    def test_a_manifest_that_nothing_measured(self) -> None:
        case = dstack_case()
        evidence = replace(case.evidence, app_manifest=b"{}")
        assert failures(case.verify(evidence=evidence)) == ["app-manifest"]

    def test_checks_are_announced(self) -> None:
        app = next(group for group in dstack_case().verify().groups if group.name == "app")
        assert tuple(check.name for check in app.checks) == APP_CHECKS


def test_a_log_of_keyturn_beside_a_domain_that_never_extended_it() -> None:
    case = dstack_case()
    log = Log(format=LogFormat.KEYTURN, data=b'[{"name":"keyturn-boot","payload":"31"}]')
    verdict = case.verify(evidence=replace(case.evidence, logs=(log,)))
    assert "log-keyturn-replay" in failures(verdict)


def test_simulated_trust_is_no_release_trust() -> None:
    root = anchor(b"test root", RootPurpose.SIM)
    release = permissive_policy(EvidencePlatform.TDX, environment=Environment.RELEASE)
    with pytest.raises(AnchorError, match="simulated TEE"):
        anchors_for(replace(release, roots=(root,)))
    with pytest.raises(PolicyError, match="simulated"):
        permissive_policy(EvidencePlatform.SIM, environment=Environment.RELEASE)


def two_dates() -> tuple[WholeCase, WholeCase]:
    """One quote at two dates, each with the collateral of its day."""
    found = []
    for name in (OLD, NEW):
        case: dict[str, Any] = dcap_case(name)
        policy = permissive_policy(EvidencePlatform.TDX)
        assert policy.tdx is not None
        strict = replace(policy.tdx, statuses=frozenset({TcbStatus.UP_TO_DATE}))
        found.append(
            WholeCase(
                evidence=import_evidence(vector(f"{DCAP}/{case['quote']}").read_bytes()),
                collateral=import_collateral(vector(f"{DCAP}/{case['collateral']}").read_bytes()),
                policy=replace(policy, tdx=strict),
                now=case["now"],
            )
        )
    return found[0], found[1]


def evaluate(case: WholeCase, policy: Policy, collateral: Collateral, now: int) -> EvidenceVerdict:
    return case.verify(policy=policy, collateral=collateral, now=now)


def test_the_forecast_of_one_date_is_the_verdict_of_the_other() -> None:
    old, new = two_dates()
    assert failures(old.verify()) == []
    refused = new.verify()
    assert "tcb-status" in failures(refused)
    collateral = replace(old.collateral, early=new.collateral.dcap)
    ahead = forecast(
        old.verify(),
        collateral=collateral,
        policy=old.policy,
        evaluate=partial(evaluate, old, old.policy),
    )
    (early,) = [turn for turn in ahead.turns if turn.early]
    assert not early.passes
    assert old.now < early.at <= new.now
    assert set(early.failing) == refused.failed_checks
    at_that_date = replace(new, now=early.at).verify()
    assert at_that_date.failed_checks == refused.failed_checks


def test_valid_until_is_exact() -> None:
    old, _ = two_dates()
    ahead = forecast(
        old.verify(),
        collateral=old.collateral,
        policy=old.policy,
        evaluate=partial(evaluate, old, old.policy),
    )
    assert ahead.valid_until is not None
    assert old.verify(now=ahead.valid_until).passed
    assert not old.verify(now=ahead.valid_until + 1).passed
