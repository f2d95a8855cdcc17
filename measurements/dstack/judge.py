"""Judges a dstack deployment's report: does it agree with itself, with its image, its machine and its app?

Pure: bytes in, checks out. **Signatures, certificates and TCB status are not checked here**, and every
judgement says so (``not_covered``): it is about what the report says, not about who said it.
"""

from __future__ import annotations

from measurements.dstack.aggregates import (
    TdRegisters,
    mr_aggregated,
    mr_enclave,
    mr_image,
    mr_system,
    snp_mr_aggregated,
    snp_mr_system,
)
from measurements.dstack.event_log import runtime_events
from measurements.dstack.evidence import SnpEvidence, TdxEvidence
from measurements.dstack.expectations import Expectations
from measurements.dstack.judge_boot import check_image, check_image_event, check_platform, check_replays
from measurements.dstack.judge_runtime import check_app, check_configuration, check_events, require_document
from measurements.dstack.judgement import NOT_COVERED, Checks, Judgement
from measurements.dstack.lite import SNP_FILE, TDX_FILE, parse_snp_measurement
from measurements.dstack.mr_config import host_data
from measurements.dstack.predict import predict_snp
from measurements.dstack.runtime_events import BootFacts, EventName, read_boot, replay
from measurements.dstack.vm_config import SnpLaunch
from measurements.platforms import Platform
from measurements.sev.guest_policy import GuestPolicy
from measurements.sev.report import SnpReport
from measurements.sev.report import parse_report as parse_snp_report
from measurements.tdx.quote import TdBody, parse_quote

_POLICY_ADVICE = "compare the deployment with the one that the policy was made for"


def judge(evidence: TdxEvidence | SnpEvidence, known: Expectations) -> Judgement:
    """All checks of a report; raises ``FormatError`` for a quote or report that cannot be read."""
    return _tdx(evidence, known) if isinstance(evidence, TdxEvidence) else _snp(evidence, known)


def _tdx(evidence: TdxEvidence, known: Expectations) -> Judgement:
    body = parse_quote(evidence.quote).body
    checks = Checks()
    checks.require(
        "debug",
        not body.debug,
        expected="no debugging",
        found=f"TD attributes {body.td_attributes.hex()}",
        reason="the host may read and change the guest",
        advice="do not give this guest secrets: it is for debugging",
    )
    _check_report_data(checks, quoted=body.report_data, stated=evidence.report_data)
    facts = check_events(checks, evidence.log, body)
    check_replays(checks, evidence, body)
    document = evidence.vm_config.mr_config if evidence.vm_config else None
    if facts is not None:
        check_app(checks, runtime_events(evidence.log), facts, known)
        check_configuration(checks, body, facts, document, known)
    _check_machine(checks, evidence, body, facts, known)
    values = _tdx_values(evidence, body, facts)
    _check_policy(checks, values, known)
    return Judgement(platform=Platform.TDX, checks=checks.all(), values=values)


def _check_machine(
    checks: Checks, evidence: TdxEvidence, body: TdBody, facts: BootFacts | None, known: Expectations
) -> None:
    config = evidence.vm_config
    if config is None:
        checks.unchecked(
            "image-reference",
            expected="measurements of the image on this machine",
            reason="the report has no vm_config, so image and machine are not known",
            advice="take the report from a guest of dstack 0.5 or later",
        )
        return
    check_image(checks, config, config.tdx, known, TDX_FILE)
    if facts is not None:
        check_image_event(checks, config, facts)
    check_platform(checks, evidence.log, config, body, known)


def _tdx_values(evidence: TdxEvidence, body: TdBody, facts: BootFacts | None) -> dict[str, bytes]:
    """The values that dstack's policies name, from the quote."""
    registers = _registers(body, body.rtmrs[3])
    values = {
        "mr-aggregated": mr_aggregated(registers),
        "mr-image": mr_image(registers),
        "mr-enclave": mr_enclave(registers),
    }
    if facts is not None:
        boundary = replay(runtime_events(evidence.log), until=EventName.BOOT_MR_DONE)
        values |= {
            "mr-system": mr_system(registers, facts.key_provider),
            "mr-aggregated-boot": mr_aggregated(_registers(body, boundary)),
            "app-id": facts.app_id,
            "compose-hash": facts.compose_hash,
            "instance-id": facts.instance_id,
        }
    return values


def _registers(body: TdBody, rtmr3: bytes) -> TdRegisters:
    return TdRegisters(
        mrtd=body.mrtd,
        rtmr0=body.rtmrs[0],
        rtmr1=body.rtmrs[1],
        rtmr2=body.rtmrs[2],
        rtmr3=rtmr3,
        mr_config_id=body.mrconfigid,
        mr_owner=body.mrowner,
        mr_owner_config=body.mrownerconfig,
    )


def _snp(evidence: SnpEvidence, known: Expectations) -> Judgement:
    report = parse_snp_report(evidence.report)
    checks = Checks()
    policy = GuestPolicy.parse(report.policy)
    checks.require(
        "debug",
        not policy.debug,
        expected="no debugging",
        found=f"guest policy {report.policy:#x}",
        reason="the host may read and change the guest",
        advice="do not give this guest secrets: it is for debugging",
    )
    _check_report_data(checks, quoted=report.report_data, stated=evidence.report_data)
    checks.equal(
        "host-data",
        expected=host_data(evidence.mr_config),
        found=report.host_data,
        reason="the host bound another mr_config document at launch",
        advice="take the report again; if it stays so, do not trust the deployment",
    )
    config = evidence.vm_config
    if config.mr_config is not None:
        checks.equal(
            "mr-config-copies",
            expected=evidence.mr_config,
            found=config.mr_config,
            reason="vm_config holds another mr_config document than the report",
            advice="take the report again; if it stays so, do not trust the deployment",
        )
    facts = checks.attempt(
        "runtime-order",
        lambda: read_boot(evidence.runtime),
        expected="the events of one boot, in their order",
    )
    if facts is not None:
        _check_snp_app(checks, evidence, facts, known)
    check_image(checks, config, config.snp.document if config.snp else None, known, SNP_FILE)
    if facts is not None:
        check_image_event(checks, config, facts)
    _check_measurement(checks, config.snp, report)
    values = {
        "mr-aggregated": snp_mr_aggregated(report.measurement, report.host_data),
        "mr-system": snp_mr_system(report.measurement),
    }
    _check_policy(checks, values, known)
    return Judgement(
        platform=Platform.SNP,
        checks=checks.all(),
        values=values,
        not_covered=(*NOT_COVERED, "runtime events beside what mr_config binds: no register takes them"),
    )


def _check_snp_app(checks: Checks, evidence: SnpEvidence, facts: BootFacts, known: Expectations) -> None:
    """No register of SEV-SNP takes runtime events: of them only what HOST_DATA binds is more than a claim."""
    checks.attempt(
        "mr-config-events",
        lambda: require_document(evidence.mr_config, facts),
        expected="events that say what the bound mr_config document says",
    )
    check_app(checks, evidence.runtime, facts, known)


def _check_measurement(checks: Checks, launch: SnpLaunch | None, report: SnpReport) -> None:
    if launch is None:
        checks.unchecked(
            "measurement",
            expected="the launch measurement of the image",
            reason="vm_config holds no measurement document for SEV-SNP",
            advice="take the report from a guest whose image has measurement.snp.cbor",
        )
        return
    prediction = checks.attempt(
        "image-reference",
        lambda: predict_snp(parse_snp_measurement(launch.document.measurement), launch),
        expected="the launch measurement of the image on this machine",
    )
    if prediction is not None:
        checks.equal(
            "measurement",
            expected=prediction.registers["measurement"]["sha384"],
            found=report.measurement,
            reason="the guest was launched with another image, CPU model, vCPU count or feature word",
            advice="compare vcpus, vcpu_type and guest_features with the host's",
        )


def _check_report_data(checks: Checks, *, quoted: bytes, stated: bytes) -> None:
    if not stated:
        checks.unchecked(
            "report-data",
            expected="the report data beside the quote",
            reason="the report states none",
            advice="compare the quote's report data with your own nonce",
        )
        return
    checks.equal(
        "report-data",
        expected=stated,
        found=quoted,
        reason="the report is about other data than it states",
        advice="ask for a report over your own nonce",
    )


def _check_policy(checks: Checks, values: dict[str, bytes], known: Expectations) -> None:
    for name, expected in (("mr-aggregated", known.mr_aggregated), ("mr-system", known.mr_system)):
        if expected is not None:
            checks.equal(
                name,
                expected=expected,
                found=values.get(name, b""),
                reason="the deployment is not the one of the policy",
                advice=_POLICY_ADVICE,
            )
