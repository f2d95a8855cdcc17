"""Register values without a log: read strictly, compared, and explained by near misses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.booted import Booted
from measurements.booted_files import FileKind, read_files, recognise
from measurements.errors import FormatError
from measurements.explain import explain
from measurements.near_miss import NearMissKind, Problem, values_to_explain
from measurements.near_miss_edits import edits
from measurements.near_miss_search import search
from measurements.platforms import Platform, PlatformPrediction
from measurements.reference import prediction_document, tpm_prediction
from measurements.register_lists import parse_pcr_list
from tests.support.boot_model import ModelImage, ModelMachine, predict

MACHINE, IMAGE = ModelMachine(), ModelImage()


def prediction(machine: ModelMachine = MACHINE, image: ModelImage = IMAGE) -> PlatformPrediction:
    return tpm_prediction(predict(machine, image), shape={"memory": "512MiB"})


def printed(values: PlatformPrediction, banks: tuple[str, ...] = ("sha256",)) -> bytes:
    """As ``tpm2_pcrread`` prints it, with a bank that is not predicted before the others."""
    lines = ["  sha1:", f"    0 : 0x{'ab' * 20}"]
    for bank in banks:
        lines.append(f"  {bank}:")
        lines += [
            f"    {register:<2}: 0x{found[bank].hex().upper()}"
            for register, found in values.registers.items()
        ]
    return ("\n".join(lines) + "\n").encode()


def booted(data: bytes) -> Booted:
    return read_files({"values": data}).booted


def banks_of(values: PlatformPrediction) -> bytes:
    document = prediction_document(values)
    return json.dumps({key: document[key] for key in ("platform", "banks")}).encode()


@pytest.mark.parametrize("banks", [("sha256",), ("sha384",), ("sha256", "sha384")])
def test_printed_pcrs_of_the_predicted_machine_are_equal(banks: tuple[str, ...]) -> None:
    found = booted(printed(prediction(), banks))
    explanation = explain(prediction(), found)
    assert explanation.equal
    assert explanation.registers == tuple(str(pcr) for pcr in range(15))
    assert all(set(values) == set(banks) for values in found.registers.values())


def test_printed_pcrs_alone_name_the_boot_order() -> None:
    expected = prediction()
    found = booted(printed(prediction(replace(MACHINE, order=(0, 1)))))
    assert {fault.register for fault in explain(expected, found).faults} == {"1"}
    problem: Problem[None] = Problem(expected=expected, found=values_to_explain(expected, found.registers))
    (miss,) = search(problem, list(edits(expected))).found
    assert miss.kinds == (NearMissKind.BOOT_ORDER,)


def test_the_reference_values_of_another_machine_are_a_log_as_well() -> None:
    other = prediction(image=replace(IMAGE, initrd=b"other"))
    data = json.dumps(prediction_document(other)).encode()
    told = recognise(data, name="other.json")
    assert (told.kind, told.platform) == (FileKind.REGISTERS, Platform.TPM)
    explanation = explain(prediction(), booted(data))
    first = explanation.findings[0]
    assert (first.difference.register, first.cause.input.value) == ("4", "initrd")
    assert explanation.faults == ()
    assert explain(other, booted(data)).equal


def test_banks_alone_are_values_alone() -> None:
    found = booted(banks_of(prediction()))
    assert found.log is None
    assert explain(prediction(), found).equal
    different = explain(prediction(image=replace(IMAGE, initrd=b"x")), found)
    assert {fault.register for fault in different.faults} == {"4", "9", "11"}


def test_values_of_a_part_of_the_registers_are_enough() -> None:
    document = json.loads(banks_of(prediction()))
    document["banks"] = {"sha256": {"4": document["banks"]["sha256"]["4"]}}
    explanation = explain(prediction(), booted(json.dumps(document).encode()))
    assert explanation.equal
    assert explanation.registers == ("4",)


@pytest.mark.parametrize(
    "text",
    [
        "sha256:\n  0 : 0x00\n",
        "sha256:\n  24: 0x" + "00" * 32,
        "sha256:\n  0 : 0x" + "00" * 32 + "\n  0 : 0x" + "11" * 32,
        "sha256:\n  0 : 0x" + "00" * 32 + "\nsha256:\n  00: 0x" + "11" * 32,
        "sha256:\n  zero : 0x00\n",
        "sha256:\n",
        "sha1:\n  0 : 0x" + "00" * 20,
        "sha256:\n  0 : " + "00" * 32,
        "sha256:\n  0 : 0x\xff\n",
    ],
)
def test_lists_that_are_not_in_form_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        recognise(text.encode("latin-1"), name="pcrs.txt")


@pytest.mark.parametrize(
    "document",
    [
        {"platform": "tpm", "banks": {}},
        {"platform": "xen", "banks": {"sha256": {"0": "00" * 32}}},
        {"platform": "tpm", "banks": {"sha256": {"0": "00"}}},
        {"platform": "tpm", "banks": {"sha256": {"23": "00" * 32}}},
        {"platform": "tpm", "banks": {"sha1": {"0": "00" * 20}}},
        {"platform": "tpm", "banks": []},
        {"platform": "tpm", "banks": {"sha256": {"0": "00" * 32}}, "events": []},
    ],
)
def test_objects_that_are_not_in_form_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        recognise(json.dumps(document).encode(), name="values.json")


@given(st.text(alphabet="sha256: 0x\n1f", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        registers = parse_pcr_list(b"sha256:\n" + text.encode(), subject="list")
    except FormatError:
        return
    assert all(len(value) == 32 for banks in registers.values() for value in banks.values())
