"""Measurement sets of policies that come from files of reference values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attestation.policy_file import parse_policy
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.reference import predictions_document
from tests.attestation.test_policy_file import TEMPLATE, refused
from tests.support.paper_tpm import firmware_log
from tests.support.reference_documents import reference_document


def with_reference(
    platform: str, registers: str, old: str = "\nmeasurements = []", text: str = TEMPLATE
) -> bytes:
    head, section, tail = text.partition(f"\n[{platform}]\n")
    table = f'{{name = "web", reference = "ref.json", registers = {registers}}}'
    return (head + section + tail.replace(old, f"\nmeasurements = [{table}]", 1)).encode()


def tdx_document(*rtmrs: bytes) -> bytes:
    """Predictions of trust domains that differ in RTMR 0."""
    predictions = []
    for rtmr in rtmrs:
        events = [
            RegisterEvent(
                register=name,
                event_type="test",
                digests={"sha384": value},
                description="",
                origin="tests",
                running=True,
            )
            for name, value in (("mrtd", bytes(48)), ("rtmr0", rtmr))
        ]
        predictions.append(
            PlatformPrediction(
                platform=Platform.TDX,
                shape={"cpus": 1},
                registers={event.register: dict(event.digests) for event in events},
                events=events,
            )
        )
    return json.dumps(predictions_document(predictions)).encode()


def test_sets_from_reference_values() -> None:
    document = tdx_document(b"\x01" * 48, b"\x02" * 48)
    policy = parse_policy(
        with_reference("tdx", '["mrtd", "rtmr0"]'), read_file={"ref.json": document}.__getitem__
    )
    assert policy.tdx is not None
    assert [(one.name, one.registers["rtmr0"][0]) for one in policy.tdx.measurements.sets] == [
        ("web, 1", 1),
        ("web, 2", 2),
    ]
    (single,) = _tdx_sets(tdx_document(b"\x03" * 48))
    assert (single.name, set(single.registers)) == ("web", {"mrtd", "rtmr0"})


def _tdx_sets(document: bytes) -> Any:
    policy = parse_policy(with_reference("tdx", '["mrtd", "rtmr0"]'), read_file=lambda _: document)
    assert policy.tdx is not None
    return policy.tdx.measurements.sets


def test_sets_of_a_tpm_from_reference_values() -> None:
    document = reference_document(firmware_log()[0])
    data = with_reference("tpm", '["sha256:4", "sha384:9"]')
    policy = parse_policy(data, read_file=lambda _: json.dumps(document).encode())
    assert policy.tpm is not None
    (found,) = policy.tpm.measurements.sets
    assert {name: value.hex() for name, value in found.registers.items()} == {
        "sha256:4": document["banks"]["sha256"]["4"],
        "sha384:9": document["banks"]["sha384"]["9"],
    }


def absent(_: str) -> bytes:
    raise FileNotFoundError(2, "No such file or directory")


@pytest.mark.parametrize(
    ("platform", "registers", "document", "reason"),
    [
        ("tdx", '["rtmr3"]', tdx_document(bytes(48)), "no register rtmr3"),
        ("tdx", "[]", tdx_document(bytes(48)), "names no register"),
        ("tdx", '["pcr0"]', tdx_document(bytes(48)), "not known"),
        ("snp", '["measurement"]', tdx_document(bytes(48)), "predicts tdx machines"),
        ("sgx", '["mrenclave"]', tdx_document(bytes(48)), "predicts tdx machines"),
        ("tdx", '["mrtd"]', b"{}", "not a document of reference values"),
        ("tdx", '["mrtd"]', b"\xff", "not a JSON document"),
    ],
)
def test_wrong_reference_values(platform: str, registers: str, document: bytes, reason: str) -> None:
    error = refused(with_reference(platform, registers), read_file=lambda _: document)
    assert error.subject.startswith(f"p.toml, {platform}.measurements.0.")
    assert reason in error.reason


def test_reference_files_that_are_not_there_or_elsewhere() -> None:
    data = with_reference("tdx", '["mrtd"]')
    assert "cannot be read" in refused(data, read_file=absent).reason
    assert "cannot be read here" in refused(data).reason
    for path in ("/etc/passwd", "../ref.json", "a/../../ref.json"):
        error = refused(data.replace(b"ref.json", path.encode()), read_file=absent)
        assert "not below the policy's folder" in error.reason
