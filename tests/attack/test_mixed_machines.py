"""Parts of two machines in one container, each of them genuine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache

import pytest

from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat, TpmPart
from attestation.sim.pki import make_pki
from attestation.sim.plan import sim_plan
from attestation.sim.quote import sim_domain, td_quote
from tests.attestation.test_policy_enforced import failed
from tests.support.paper_tpm import BOTH_BANKS, NOW, attest
from tests.support.policies import only, permissive_policy
from tests.support.sim_pki import keys
from tests.support.tpm_containers import REGISTERS, REPORT_DATA, PaperMachine
from tests.support.whole_cases import WholeCase, dstack_case, tpm_case

OTHER = bytes(range(1, 65))


@cache
def machine() -> PaperMachine:
    return PaperMachine()


def quoting(data: bytes) -> TpmPart:
    """A part whose quote binds ``data`` as it is."""
    tpm = machine().tpm
    values = b"".join(value for bank in REGISTERS.values() for _, value in sorted(bank.items()))
    quote = attest(tpm.qualified_name, data, hashlib.sha256(values).digest(), selections=BOTH_BANKS)
    return replace(machine().part(), quote=quote, signature=tpm.sign(quote))


def beside(report_data: bytes, part: TpmPart, *, logs: tuple[Log, ...] = ()) -> WholeCase:
    """A simulated domain with this report data, and a TPM; the policy asks for no data of either."""
    made = make_pki(sim_plan(NOW), keys())
    policy = permissive_policy(EvidencePlatform.SIM, roots=[made.anchor(), *machine().anchors])
    evidence = EvidenceContainer(
        platform=EvidencePlatform.SIM,
        report=td_quote(made, sim_domain(report_data=report_data)),
        certificates=machine().pool,
        tpm=part,
        logs=logs,
    )
    asked = replace(policy, tpm=machine().policy().tpm)
    return WholeCase(evidence=evidence, collateral=made.collateral(), policy=asked, now=NOW)


@pytest.mark.parametrize(
    "part",
    [
        quoting(hashlib.sha256(REPORT_DATA).digest()),
        quoting(REPORT_DATA),
    ],
    ids=["hash", "data"],
)
def test_report_and_tpm_that_bind_the_same_data(part: TpmPart) -> None:
    assert failed(beside(REPORT_DATA, part)) == set()


def test_report_data_filled_with_zeros() -> None:
    nonce = REPORT_DATA[:32]
    assert failed(beside(nonce + bytes(32), quoting(nonce))) == set()


@pytest.mark.parametrize(
    ("report_data", "quoted"),
    [
        (OTHER, REPORT_DATA),
        (OTHER, hashlib.sha256(REPORT_DATA).digest()),
        (REPORT_DATA, REPORT_DATA[:32]),
        (REPORT_DATA, b""),
        (bytes(64), b""),
        (bytes(64), bytes(32)),
        (bytes(64), bytes(64)),
        (bytes(64), hashlib.sha256(bytes(64)).digest()),
    ],
)
def test_the_tpm_of_another_machine(report_data: bytes, quoted: bytes) -> None:
    """Any report data is allowed, so that each part passes by itself."""
    assert failed(beside(report_data, quoting(quoted))) == {"tee-report"}


def test_two_requests_on_one_list() -> None:
    """Both data are allowed, and yet the parts answer two requests."""
    case = beside(OTHER, quoting(REPORT_DATA))
    both = only(OTHER.hex(), REPORT_DATA.hex())
    assert failed(replace(case, policy=replace(case.policy, report_data=both))) == {"tee-report"}


def test_simulated_evidence_does_not_pass_as_real() -> None:
    case = beside(REPORT_DATA, quoting(REPORT_DATA))
    evidence = replace(case.evidence, platform=EvidencePlatform.TDX, tpm=None)
    policy = permissive_policy(EvidencePlatform.TDX, roots=case.policy.roots)
    assert failed(replace(case, evidence=evidence, policy=policy)) == {"pck-chain"}


def test_a_log_of_keyturn_whose_register_was_not_quoted() -> None:
    """PCR 14 is not in the selection, so that nothing proves its log."""
    case = tpm_case(3)
    tpm = PaperMachine()
    registers = {"sha256": {pcr: bytes(32) for pcr in range(14)}}
    log = Log(format=LogFormat.KEYTURN, data=b"[]")
    part = tpm.part(registers, selections=((0x000B, b"\xff\x3f\0"),))
    evidence = replace(case.evidence, tpm=part, certificates=tpm.pool, logs=(log,))
    assert failed(replace(case, evidence=evidence, policy=tpm.policy())) == {"log-keyturn-registers"}


def test_two_logs_of_one_format() -> None:
    case = dstack_case()
    twice = replace(case.evidence, logs=case.evidence.logs * 2)
    assert failed(replace(case, evidence=twice)) == {"log-formats"}


def test_the_log_of_another_quote() -> None:
    """A log whose events are true of another domain."""
    case = beside(REPORT_DATA, quoting(REPORT_DATA), logs=dstack_case().evidence.logs)
    assert failed(case) == {"log-dstack-replay"}


def test_a_firmware_event_that_calls_itself_the_apps_hash() -> None:
    """Names of firmware's events in dstack's log, and data that no digest covers, are anybody's choice."""
    allowed = hashlib.sha256(b"an app that is allowed").digest()
    digest = hashlib.sha384(b"firmware").digest()
    event = {
        "imr": 1,
        "event_type": 0x80000003,
        "digest": digest.hex(),
        "event": "compose-hash",
        "event_payload": allowed.hex(),
    }
    log = Log(format=LogFormat.DSTACK, data=json.dumps([event]).encode())
    made = make_pki(sim_plan(NOW), keys())
    booted = hashlib.sha384(bytes(48) + digest).digest()
    zero = bytes(48)
    body = replace(sim_domain(), rtmrs=(zero, booted, zero, zero))
    policy = permissive_policy(EvidencePlatform.SIM, roots=[made.anchor()])
    case = WholeCase(
        evidence=EvidenceContainer(platform=EvidencePlatform.SIM, report=td_quote(made, body), logs=(log,)),
        collateral=made.collateral(),
        policy=policy,
        now=NOW,
    )
    assert failed(case) == set()
    listed = replace(case, policy=replace(policy, app_hashes=only(allowed.hex())))
    assert failed(listed) == {"app-hash"}
