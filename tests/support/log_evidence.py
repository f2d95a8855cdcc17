"""Evidence containers around event logs, for tests that judge logs against registers."""

from __future__ import annotations

from collections.abc import Mapping

from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat
from attestation.event_logs import judge_logs, log_checks
from measurements.eventlog import Algorithm, parse_event_log
from measurements.tdx.ccel import parse_cc_log, replay_rtmrs


def container(*logs: Log) -> EvidenceContainer:
    return EvidenceContainer(platform=EvidencePlatform.TDX, report=b"report", logs=logs)


def failures(registers: Mapping[str, bytes], *logs: Log) -> list[str]:
    """Names of the failed checks; every check has to be announced, in its place."""
    evidence = container(*logs)
    verdict = judge_logs(evidence, registers)
    made = [check.name for check in verdict.checks]
    announced = list(log_checks(evidence))
    assert [name for name in announced if name in made] == made
    failed = [check.name for check in verdict.checks if not check.passed]
    assert failed or made == announced
    return failed


def reasons(registers: Mapping[str, bytes], *logs: Log) -> str:
    """What failed checks found, for messages."""
    checks = judge_logs(container(*logs), registers).checks
    return "; ".join(f"{check.found} {check.reason}" for check in checks if not check.passed)


def tcg2(data: bytes) -> Log:
    return Log(format=LogFormat.TCG2, data=data)


def ccel(data: bytes) -> Log:
    return Log(format=LogFormat.CCEL, data=data)


def dstack(data: bytes) -> Log:
    return Log(format=LogFormat.DSTACK, data=data)


def keyturn(data: bytes) -> Log:
    return Log(format=LogFormat.KEYTURN, data=data)


def pcrs_of(data: bytes) -> dict[str, bytes]:
    """Registers that the log yields, by another reader."""
    log = parse_event_log(data)
    return {
        f"{algorithm.bank}:{pcr}": value
        for algorithm in log.algorithms
        if algorithm is not Algorithm.SM3_256
        for pcr, value in log.replay(algorithm).items()
    }


def rtmrs_of(data: bytes) -> dict[str, bytes]:
    """As ``pcrs_of``, for a trust domain."""
    return {f"rtmr{number}": value for number, value in enumerate(replay_rtmrs(parse_cc_log(data)))}
