"""One good case of evidence for each platform, with all that ``verify_evidence`` needs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from attestation.anchors import Anchors, anchors_for
from attestation.collateral import Collateral
from attestation.collateral_import import import_collateral
from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat
from attestation.evidence_verdict import EvidenceVerdict
from attestation.importers import import_evidence
from attestation.policy import DcapPolicy, Measurements, MeasurementSet, Policy, TcbStatus
from attestation.verify import verify_evidence
from measurements.eventlog import Algorithm
from tests.support.event_log_writer import Record, write_log
from tests.support.paper_tpm import NOW
from tests.support.policies import NONE, only, permissive_policy
from tests.support.snp_cases import good_case
from tests.support.tpm_containers import PaperMachine, container
from tests.support.vectors import vector

DCAP = "attestation/dcap"


@dataclass(frozen=True, kw_only=True)
class WholeCase:
    """Evidence that passes at ``now``."""

    evidence: EvidenceContainer
    collateral: Collateral
    policy: Policy
    now: int

    @property
    def anchors(self) -> Anchors:
        return anchors_for(self.policy)

    def verify(self, **changes: Any) -> EvidenceVerdict:
        """The verdict, with parts changed by name."""
        case = replace(self, **changes)
        return verify_evidence(
            case.evidence,
            collateral=case.collateral,
            anchors=case.anchors,
            policy=case.policy,
            now=case.now,
        )


def dcap_case(name: str) -> dict[str, Any]:
    """An entry of the vectors' ``cases.json``."""
    cases = json.loads(vector(f"{DCAP}/cases.json").read_bytes())["cases"]
    return next(case for case in cases if case["id"] == name)


def dstack_case() -> WholeCase:
    """dstack's public report of a trust domain: quote and event log, under a policy that lists everything."""
    case = dcap_case("dstack-quote-report@2026-03-18")
    evidence = import_evidence(vector("attestation/dstack/quote-report.json").read_bytes())
    collateral = import_collateral(vector(f"{DCAP}/{case['collateral']}").read_bytes())
    policy = permissive_policy(EvidencePlatform.TDX)
    section = strict_section(policy.tdx, case, evidence)
    strict = replace(policy, tdx=section, report_data=only(case["fields"]["report_data"]))
    return WholeCase(evidence=evidence, collateral=collateral, policy=strict, now=case["now"])


def strict_section(
    section: DcapPolicy | None, case: dict[str, Any], evidence: EvidenceContainer
) -> DcapPolicy:
    """Everything listed that can be listed."""
    assert section is not None
    registers = {
        name.replace("_", ""): bytes.fromhex(value)
        for name, value in case["fields"].items()
        if name in {"mr_td", "mr_config_id", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    }
    return replace(
        section,
        statuses=frozenset({TcbStatus.UP_TO_DATE}),
        min_evaluation_number=case["expect"]["eval_data_number"],
        advisories_accepted=NONE,
        ppids=only(case["expect"]["ppid"]),
        platform_instances=only(case["expect"]["platform_instance_id"]),
        fmspcs=only(case["fmspc"]),
        measurements=Measurements(sets=(MeasurementSet(name="dstack", registers=registers),)),
    )


def snp_case() -> WholeCase:
    """A generated report of a Genoa chip, since no revocation list of AMD is public."""
    case = good_case()
    evidence = EvidenceContainer(
        platform=EvidencePlatform.SNP, report=case.report, certificates=case.certificates
    )
    return WholeCase(
        evidence=evidence, collateral=Collateral(crls=case.crls), policy=case.policy, now=case.now
    )


def nitro_case() -> WholeCase:
    """dstack's public document."""
    document = vector("attestation/nitro/dstack-nsm.bin").read_bytes()
    return WholeCase(
        evidence=import_evidence(document),
        collateral=Collateral(),
        policy=permissive_policy(EvidencePlatform.NITRO),
        now=1766668537,
    )


def tpm_case(events: int = 100) -> WholeCase:
    """A software TPM's quote over both banks with a log of ``events`` records."""
    log, registers = long_log(events)
    machine = PaperMachine()
    evidence = container(machine, machine.part(registers), logs=(Log(format=LogFormat.TCG2, data=log),))
    return WholeCase(evidence=evidence, collateral=Collateral(), policy=machine.policy(), now=NOW)


def long_log(events: int) -> tuple[bytes, dict[str, dict[int, bytes]]]:
    """A log of actions in PCR 0 to 7, in both banks, and the registers PCR 0 to 14 that it yields."""
    banks = {Algorithm.SHA256: hashlib.sha256, Algorithm.SHA384: hashlib.sha384}
    registers = {
        algorithm.bank: {pcr: bytes(algorithm.digest_size) for pcr in range(15)} for algorithm in banks
    }
    records = []
    for number in range(events):
        data = f"action {number}".encode()
        digests = {algorithm: digest(data).digest() for algorithm, digest in banks.items()}
        records.append(Record(pcr=number % 8, event_type=0x80000007, digests=digests, data=data))
        for algorithm, digest in banks.items():
            bank = registers[algorithm.bank]
            bank[number % 8] = digest(bank[number % 8] + digests[algorithm]).digest()
    return write_log(records, algorithms=tuple(banks)), registers
