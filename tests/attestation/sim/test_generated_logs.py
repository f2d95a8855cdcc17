"""Event logs beside simulated quotes, judged as parts of whole evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, Log
from attestation.sim.quote import sim_domain, td_quote
from attestation.verify import verify_evidence
from measurements.canonical import encode_canonical
from measurements.runtime_events import replay_runtime_events
from measurements.tdx.ccel import parse_cc_log, replay_rtmrs
from tests.attestation.sim.judged import SIM, policy_for
from tests.attestation.test_event_logs import EVENTS, cc_log, dstack_event, dstack_log, keyturn_log, rtmr_of
from tests.support.log_evidence import ccel, dstack, keyturn
from tests.support.sim_pki import NOW, pki

FIRMWARE = replay_rtmrs(parse_cc_log(cc_log()))
RUNTIME = replay_runtime_events(EVENTS)["sha384"]
DSTACK = rtmr_of(str(dstack_event(b"\xaa")["digest"]))


def failures(rtmr3: bytes, *logs: Log, collateral: Collateral | None = None) -> list[str]:
    domain = replace(sim_domain(), rtmrs=(*FIRMWARE[:3], rtmr3))
    evidence = EvidenceContainer(platform=SIM, report=td_quote(pki(), domain), logs=logs)
    policy = policy_for(pki())
    verdict = verify_evidence(
        evidence,
        collateral=pki().collateral() if collateral is None else collateral,
        anchors=anchors_for(policy),
        policy=policy,
        now=NOW,
    )
    return [check.name for check in verdict.tree.failures]


def test_logs_that_yield_the_registers_pass() -> None:
    assert failures(bytes(48), ccel(cc_log())) == []
    assert failures(DSTACK, ccel(cc_log()), dstack(dstack_log(dstack_event(b"\xaa")))) == []


def test_runtime_events_are_held_against_rtmr3() -> None:
    other = keyturn(encode_canonical([{"name": "keyturn-boot", "payload": "31"}]))
    assert "log-keyturn-replay" not in failures(RUNTIME, ccel(cc_log()), keyturn(keyturn_log()))
    assert failures(RUNTIME, ccel(cc_log()), other) == ["log-keyturn-replay"]


def test_logs_of_another_domain_are_refused() -> None:
    assert failures(RUNTIME, ccel(cc_log())) == ["log-ccel-complete"]
    assert failures(bytes(48), dstack(dstack_log(dstack_event(b"\xaa")))) == ["log-dstack-replay"]


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"[]"])
def test_a_log_that_is_none_is_refused(data: bytes) -> None:
    assert failures(bytes(48), ccel(data)) == ["log-ccel-form"]


def test_no_log_counts_beside_a_quote_that_does_not_verify() -> None:
    names = failures(bytes(48), ccel(cc_log()), collateral=Collateral())
    assert names == ["collateral-found"]
