"""Judgements of the real deployments among the vectors: what is known to hold, and what is known not to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from measurements.dstack.evidence import SnpEvidence, parse_report
from measurements.dstack.expectations import Expectations
from measurements.dstack.judge import judge
from measurements.dstack.judgement import Judgement, Outcome
from measurements.dstack.lite import parse_snp_measurement
from measurements.dstack.predict import predict_snp
from measurements.platforms import Platform
from tests.support.vectors import vector

PATHS = {
    "quote-report": "dstack/quote-report.json",
    "lite": "dstack/tdx-lite-attestation.json",
    "snp": "dstack/sev-snp-attestation.json",
    "examples": "tdx-ccel-pairs/dstack-examples/report.json",
}


def judged(name: str, known: Expectations | None = None) -> Judgement:
    return judge(parse_report(vector(PATHS[name]).read_bytes()), known or Expectations())


def outcomes(judgement: Judgement, outcome: Outcome) -> list[str]:
    return [check.name for check in judgement.checks if check.outcome is outcome]


# Values of dstack's own verifier for its fixtures, computed again by the authors of the vectors.
@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "quote-report",
            {
                "mr-system": "e1ae776a1492d4f87937b7e563d265c16300be4aba5d748207587023bb7dbb75",
                "mr-aggregated": "233c659f83048505bb1ef7f105245aa80f5d04e3d096c329da272d7ee13fbf38",
                "mr-aggregated-boot": "f9a9159f75a175a0a65052b78f764a312456db56f5c397c600d08445ab68937b",
                "app-id": "3763bc34552cf3a27ff71ad5f7a90471562a1a2d",
            },
        ),
        (
            "lite",
            {
                "mr-system": "118f754a080ecb8527df65656ee4e7e97b891cf488ad6a38886ff0dbca0c8f70",
                "mr-aggregated": "c758fa624b62536ca77504c4c52745e70880220a178a615a859c52f8b101d2ee",
                "mr-aggregated-boot": "f4e6117e0fdea4b23b5f32a2a59e7b7b99b64df237a9536fb2cb5ca2a270145e",
                "compose-hash": "86b0e55f2fa8e4fb69d890f14f54d5612707646e2573d54e0d2ddaaade77caa9",
            },
        ),
    ],
)
def test_known_values(name: str, values: dict[str, str]) -> None:
    found = judged(name).values
    assert {key: found[key].hex() for key in values} == values


def test_quote_report_replays_and_has_an_event_of_its_app() -> None:
    judgement = judged("quote-report", Expectations(unbound=True))
    assert outcomes(judgement, Outcome.FAIL) == ["app-events"]
    allowed = judged("quote-report", Expectations(unbound=True, app_events={"LIUM_MINER_HOTKEY"}))
    assert not allowed.failed
    for register in range(4):
        assert allowed.check(f"rtmr{register}-replay").outcome is Outcome.PASS


def test_lite_deployment_follows_from_its_document_but_for_acpi() -> None:
    """Its os-image-hash event is of another image: the fixture's configuration was normalised later."""
    judgement = judged("lite")
    assert outcomes(judgement, Outcome.FAIL) == ["os-image-event"]
    assert outcomes(judgement, Outcome.CLAIMED) == ["rtmr0"]
    passed = outcomes(judgement, Outcome.PASS)
    assert {"mrtd", "rtmr1", "rtmr2", "rtmr3-replay", "mr-config-id", "checksum-file"} <= set(passed)


def test_image_that_is_trusted_is_named() -> None:
    trusted = bytes.fromhex("e6f5cfec20c02e7b97baa213d0f718020b55e040172d90ccbcb946d56c8b09db")
    assert judged("lite", Expectations(os_image_hash=trusted)).check("os-image-hash").outcome is Outcome.PASS
    other = judged("lite", Expectations(os_image_hash=b"\1" * 32))
    assert other.check("os-image-hash").outcome is Outcome.FAIL


def test_oldest_report_has_no_configuration() -> None:
    judgement = judged("examples")
    assert not judgement.failed
    assert judgement.check("image-reference").outcome is Outcome.UNCHECKED


def test_snp_guest_has_the_measurement_of_its_launch() -> None:
    judgement = judged("snp")
    assert judgement.platform is Platform.SNP
    assert judgement.check("measurement").found.startswith("7f51e17f72a04d54")
    assert outcomes(judgement, Outcome.FAIL) == ["os-image-event"]
    for name in ("debug", "report-data", "host-data", "mr-config-events", "measurement"):
        assert judgement.check(name).outcome is Outcome.PASS
    assert any("runtime events" in each for each in judgement.not_covered)


def test_snp_prediction_names_its_inputs() -> None:
    evidence = parse_report(vector(PATHS["snp"]).read_bytes())
    assert isinstance(evidence, SnpEvidence)
    launch = evidence.vm_config.snp
    assert launch is not None
    prediction = predict_snp(parse_snp_measurement(launch.document.measurement), launch)
    assert prediction.label["cpu-model"] == "EPYC-v4"
    assert "kernel, initrd, command line" in prediction.inputs("measurement")


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"vcpus": 1}, "measurement"),
        ({"vcpu_type": "EPYC-Milan"}, "measurement"),
        ({"guest_features": 0x21}, "measurement"),
        ({"vcpu_type": "Cascadelake"}, "image-reference"),
    ],
)
def test_another_launch_of_the_snp_guest_is_found(change: dict[str, Any], failed: str) -> None:
    evidence = parse_report(vector(PATHS["snp"]).read_bytes())
    assert isinstance(evidence, SnpEvidence)
    assert evidence.vm_config.snp is not None
    launch = replace(evidence.vm_config.snp, **change)
    changed = replace(evidence, vm_config=replace(evidence.vm_config, snp=launch))
    judgement = judge(changed, Expectations())
    assert set(outcomes(judgement, Outcome.FAIL)) == {"os-image-event", failed}


@pytest.mark.parametrize(
    ("offset", "failed"), [(0x50, "report-data"), (0x90, "measurement"), (0xC0, "host-data"), (0x0A, "debug")]
)
def test_each_field_of_the_snp_report_decides(offset: int, failed: str) -> None:
    document = json.loads(vector(PATHS["snp"]).read_bytes())
    data = bytearray.fromhex(document["attestation"])
    data[4 + offset] ^= 8
    judgement = judge(parse_report(json.dumps({"attestation": data.hex()}).encode()), Expectations())
    assert set(outcomes(judgement, Outcome.FAIL)) == {"os-image-event", failed}


@pytest.mark.parametrize(
    ("offset", "failed"),
    [
        (136, "mrtd"),
        (184, "mr-config-id"),
        (328, "rtmr0"),
        (376, "rtmr1"),
        (424, "rtmr2"),
        (472, "rtmr3-replay"),
    ],
)
def test_each_register_of_the_lite_quote_decides(offset: int, failed: str) -> None:
    document = json.loads(vector(PATHS["lite"]).read_bytes())
    data = bytearray.fromhex(document["attestation"])
    data[4 + 48 + offset + 5] ^= 1
    judgement = judge(parse_report(json.dumps({"attestation": data.hex()}).encode()), Expectations())
    assert set(outcomes(judgement, Outcome.FAIL)) == {"os-image-event", failed}
