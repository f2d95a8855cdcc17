"""Explanations over real evidence: logs and quotes of trust domains, SNP reports and Nitro documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from measurements.booted import Booted
from measurements.booted_files import read_files
from measurements.cause_inputs import Input
from measurements.errors import FormatError
from measurements.explain import Explanation, explain
from measurements.near_miss import NearMissKind, Problem
from measurements.near_miss_edits import edits, with_events
from measurements.near_miss_search import search
from measurements.platforms import PlatformPrediction
from measurements.recorded import recorded_prediction
from tests.support.vectors import vector

GCP_LOG = "tdx-ccel-pairs/gcp-cos113/ccel_data.dat"
GCP_QUOTE = "tdx-ccel-pairs/gcp-cos113/cos-113-tdx-quote.dat"
DUPE = "tdx-ccel-logs/go-eventlog/cos-113-intel-tdx-dupe-separator.bin"
BEFORE = "RTMR0 has the second separator, as in edk2 before 2024.11"
SINCE = "RTMR1 has the second separator, as in edk2 2024.11 and later"


def booted(*names: str) -> Booted:
    return read_files({name: vector(name).read_bytes() for name in names}).booted


def recorded(name: str) -> PlatformPrediction:
    """Reference values that were recorded from a log, since the firmware of these machines is not public."""
    found = booted(name)
    assert found.log is not None
    return recorded_prediction(found.platform, found.log)


def inputs_of(explanation: Explanation) -> list[tuple[str, str, Input]]:
    return [
        (each.difference.register, each.difference.kind.value, each.cause.input)
        for each in explanation.findings
    ]


def test_log_and_quote_of_a_real_machine_are_equal_to_what_was_recorded() -> None:
    explanation = explain(recorded(GCP_LOG), booted(GCP_LOG, GCP_QUOTE))
    assert explanation.equal
    assert explanation.registers == ("rtmr0", "rtmr1", "rtmr2")
    assert explanation.compared == 43


def test_the_duplicate_separator_is_explained_as_its_place_before_edk2_2024_11() -> None:
    explanation = explain(recorded(GCP_LOG), booted(DUPE))
    assert inputs_of(explanation) == [
        ("rtmr0", "changed", Input.FIRMWARE_VARIABLES),
        ("rtmr0", "extra", Input.SEPARATOR_PLACE),
        ("rtmr1", "missing", Input.SEPARATOR_PLACE),
    ]
    assert "2024.11" in explanation.findings[1].cause.fix


def test_the_duplicate_separator_is_found_from_registers_alone() -> None:
    """RTMR1 of the old firmware differs in nothing else, RTMR0 in the variable store as well."""
    expected, found = recorded(GCP_LOG), booted(DUPE)
    problem: Problem[Any] = Problem(expected=expected, found=found.registers)
    assert problem.wrong == {"rtmr0", "rtmr1"}
    (miss,) = search(problem, list(edits(expected))).found
    assert (miss.kinds, miss.words) == ((NearMissKind.SEPARATOR,), (BEFORE,))
    assert (miss.explains, miss.left) == (("rtmr1",), ("rtmr0",))


def test_with_the_same_variables_the_duplicate_separator_explains_both_registers() -> None:
    old = recorded(DUPE)
    variables = next(each for each in recorded(GCP_LOG).events if "BLOB2" in each.event_type)
    expected = recorded(GCP_LOG)
    events = [variables if "BLOB2" in each.event_type else each for each in old.events]
    problem: Problem[Any] = Problem(expected=expected, found=with_events(old, events).registers)
    (miss,) = search(problem, list(edits(expected))).found
    assert (miss.words, miss.left) == ((BEFORE,), ())


def test_a_log_that_does_not_yield_the_quote_is_explained_by_the_separators_place() -> None:
    """The quote's firmware has the fix; the log, edited by hand or of another firmware, has not."""
    found = booted(DUPE, GCP_QUOTE)
    assert found.log is not None
    assert found.reported is not None
    explanation = explain(recorded(GCP_LOG), found)
    assert {fault.register for fault in explanation.faults} == {"rtmr0", "rtmr1"}
    assert {fault.reason for fault in explanation.faults} == {"the log does not yield this value"}
    log = recorded_prediction(found.platform, found.log)
    problem: Problem[Any] = Problem(expected=log, found=found.reported)
    (miss,) = search(problem, list(edits(log))).found
    assert (miss.words, miss.explains) == ((SINCE,), ("rtmr1",))


def test_a_prediction_in_the_order_of_registers_is_equal_to_a_log_in_the_order_of_the_boot() -> None:
    expected = recorded(GCP_LOG)
    ordered = tuple(sorted(expected.events, key=lambda each: each.register))
    assert ordered != expected.events
    assert explain(replace(expected, events=ordered), booted(GCP_LOG)).equal


@pytest.mark.parametrize("register", ["rtmr0", "rtmr1", "rtmr2"])
def test_a_flipped_bit_of_a_quoted_register_is_a_fault(register: str) -> None:
    found = booted(GCP_LOG, GCP_QUOTE)
    assert found.reported is not None
    value = found.reported[register]["sha384"]
    flipped = {**found.reported, register: {"sha384": bytes([value[0] ^ 1]) + value[1:]}}
    explanation = explain(recorded(GCP_LOG), replace(found, reported=flipped))
    assert [(fault.register, fault.found[1:]) for fault in explanation.faults] == [(register, value[1:])]


def test_another_grub_command_is_named() -> None:
    found = booted(GCP_LOG)
    assert found.log is not None
    place = next(i for i, e in enumerate(found.log.events) if "kernel_cmdline" in e.facts.title)
    expected = recorded(GCP_LOG)
    events = list(expected.events)
    events[place] = replace(events[place], digests={"sha384": bytes(48)})
    explanation = explain(replace(expected, events=tuple(events)), found)
    assert inputs_of(explanation) == [("rtmr2", "changed", Input.BOOT_LOADER)]
    assert "kernel_cmdline" in explanation.findings[0].cause.detail


def test_another_compose_file_is_named_by_its_runtime_event() -> None:
    name = "dstack/quote-report.json"
    found, expected = booted(name), recorded(name)
    assert explain(expected, found).equal
    # As measurements.dstack predicts runtime events, whose type is no number of the log's.
    predicted = [
        replace(
            each,
            event_type="dstack runtime event",
            description="runtime event " + each.description.partition(":")[0],
        )
        if each.register == "rtmr3"
        else each
        for each in expected.events
    ]
    assert explain(replace(expected, events=tuple(predicted)), found).equal
    events = [
        replace(each, digests={"sha384": bytes(48)}) if "compose-hash" in each.description else each
        for each in predicted
    ]
    explanation = explain(replace(expected, events=tuple(events)), found)
    assert inputs_of(explanation) == [("rtmr3", "changed", Input.RUNTIME_EVENTS)]
    assert "compose-hash" in explanation.findings[0].cause.detail


def test_registers_that_are_not_predicted_are_not_compared() -> None:
    expected = recorded(GCP_LOG)
    kept = tuple(each for each in expected.events if each.register == "rtmr1")
    registers = {"rtmr1": expected.registers["rtmr1"]}
    only = replace(expected, registers=registers, events=kept)
    explanation = explain(only, booted(GCP_LOG, GCP_QUOTE))
    assert (explanation.equal, explanation.registers) == (True, ("rtmr1",))
    fewer = replace(only, events=kept[1:])
    assert explain(fewer, booted(GCP_LOG)).findings[0].difference.booted_at == 14


def test_a_stripped_log_is_compared_in_the_guests_register_only() -> None:
    """Of RTMR0 the log has three events only, so its value counts; of RTMR3 it has all."""
    name = "dstack/tdx-lite-attestation.json"
    found = booted(name)
    assert found.log is not None
    assert found.reported is not None
    expected = recorded_prediction(found.platform, found.log)
    registers = {**expected.registers, "rtmr0": found.reported["rtmr0"]}
    explanation = explain(replace(expected, registers=registers), found)
    assert explanation.equal
    assert explanation.compared == len([each for each in expected.events if each.register == "rtmr3"])
    assert set(explanation.registers) == {"rtmr0", "rtmr3"}
    (fault,) = explain(expected, found).faults
    assert (fault.register, fault.reason) == (
        "rtmr0",
        "it is not the predicted value, and no log says which step differs",
    )


@pytest.mark.parametrize(
    ("event_type", "named"),
    [
        ("EV_EFI_HANDOFF_TABLES2", Input.MEMORY),
        ("EV_EFI_PLATFORM_FIRMWARE_BLOB2", Input.FIRMWARE_VARIABLES),
        ("EV_EFI_VARIABLE_DRIVER_CONFIG", Input.SECURE_BOOT_MODE),
        ("EV_PLATFORM_CONFIG_FLAGS", Input.MACHINE),
        ("EV_EFI_VARIABLE_AUTHORITY", Input.SIGNER),
        ("EV_EFI_GPT_EVENT", Input.PARTITIONS),
        ("EV_EFI_ACTION", Input.BOOT_FLOW),
    ],
)
def test_each_event_of_a_trust_domain_has_its_cause(event_type: str, named: Input) -> None:
    expected = recorded(GCP_LOG)
    place = next(i for i, each in enumerate(expected.events) if each.event_type == event_type)
    events = list(expected.events)
    events[place] = replace(events[place], digests={"sha384": bytes(48)})
    explanation = explain(replace(expected, events=tuple(events)), booted(GCP_LOG))
    assert [each.cause.input for each in explanation.findings] == [named]


def test_two_different_machines_share_no_explanation_by_a_near_miss() -> None:
    expected, found = recorded(GCP_LOG), booted("tdx-ccel-pairs/dstack-examples/report.json")
    problem: Problem[Any] = Problem(expected=expected, found=found.registers)
    assert search(problem, list(edits(expected))).found == ()


def test_a_report_of_another_platform_is_refused() -> None:
    with pytest.raises(FormatError, match="holds values for tdx, and the boot is one of snp"):
        explain(recorded(GCP_LOG), booted("snp/trustee/test-report.bin"))
