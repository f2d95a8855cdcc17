"""Reference values in the forms of other tools, read back by independent readers."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.corim import ALGORITHMS, VENDORS, CorimError, conditions, encode_corim
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.value_formats import COLUMNS, ValueFormatError, encode_csv, encode_dstack

SIZES = {"sha256": 32, "sha384": 48}
REGISTERS = {
    Platform.TPM: ("0", "4", "14"),
    Platform.TDX: ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"),
    Platform.SNP: ("measurement",),
    Platform.SEV_ES: ("measurement",),
    Platform.SEV: ("measurement",),
    Platform.NITRO: ("0", "1", "2"),
}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def prediction(platform: Platform, *, fill: int = 1, origin: str = "firmware, boot") -> PlatformPrediction:
    banks = ("sha256", "sha384") if platform is Platform.TPM else ("sha384",)
    registers = {
        name: {bank: bytes([fill + index]) * SIZES[bank] for bank in banks}
        for index, name in enumerate(REGISTERS[platform])
    }
    events = tuple(
        RegisterEvent(
            register=name, event_type="EV_SEPARATOR", digests=values, description="d", origin=origin
        )
        for name, values in registers.items()
    )
    shape = {"memory": "2048MiB", "cpus": 2, "smm": False, "disk": [{"model": "virtio-blk-pci", "slot": 3}]}
    return PlatformPrediction(platform=platform, shape=shape, registers=registers, events=events)


@pytest.mark.parametrize("platform", Platform)
def test_a_corim_holds_every_register_of_a_platform(platform: Platform) -> None:
    given_values = prediction(platform)
    document = cbor2.loads(encode_corim([given_values], identifier="image-1"))
    assert document.tag == 501
    assert document.value[0] == "image-1"
    (tag,) = document.value[1]
    assert tag.tag == 506
    module = cbor2.loads(tag.value)
    assert module[1] == {0: "image-1/0"}
    ((environment, (measurement,)),) = module[4][0]
    assert environment == {0: {1: VENDORS[platform], 2: platform.value}}
    assert measurement[0] == "memory=2048MiB cpus=2 smm=false disk=model:virtio-blk-pci+slot:3"
    names = {algorithm: bank for bank, algorithm in ALGORITHMS.items()}
    found = {
        str(register): {names[algorithm]: value for algorithm, value in digests}
        for register, digests in measurement[1][14].items()
    }
    assert found == given_values.registers


def test_the_bytes_of_a_corim_depend_on_the_values_alone() -> None:
    first = [prediction(Platform.TDX), prediction(Platform.SNP)]
    assert encode_corim(first, identifier="a") == encode_corim(list(first), identifier="a")
    assert encode_corim(first, identifier="a") != encode_corim(first, identifier="b")
    changed = [prediction(Platform.TDX, fill=2), prediction(Platform.SNP)]
    assert encode_corim(first, identifier="a") != encode_corim(changed, identifier="a")


def test_a_corim_without_values_or_with_a_strange_bank_is_refused() -> None:
    with pytest.raises(CorimError, match="no values"):
        encode_corim([], identifier="a")
    strange = replace(prediction(Platform.SNP), registers={"measurement": {"sm3": bytes(32)}})
    with pytest.raises(CorimError, match="bank sm3"):
        encode_corim([strange], identifier="a")


def test_the_label_comes_first_in_the_conditions() -> None:
    labelled = replace(
        prediction(Platform.SNP), label={"cpu-model": "EPYC-Milan"}, shape={"cpus": 4, "nic": []}
    )
    assert conditions(labelled) == "cpu-model=EPYC-Milan cpus=4 nic=none"


@given(st.lists(st.tuples(st.sampled_from(list(Platform)), TEXT, TEXT), max_size=4))
def test_csv_reads_back_whatever_the_texts_hold(cases: list[tuple[Platform, str, str]]) -> None:
    predictions = [
        replace(prediction(platform, origin=origin), label={"note": note}) for platform, origin, note in cases
    ]
    rows = list(csv.DictReader(io.StringIO(encode_csv(predictions), newline="")))
    expected = [
        (each.platform.value, each.label["note"], register, bank, value.hex(), each.events[0].origin)
        for each in predictions
        for register, banks in each.registers.items()
        for bank, value in banks.items()
    ]
    assert [
        (
            row["platform"],
            json.loads(row["label"])["note"],
            row["register"],
            row["bank"],
            row["value"],
            row["inputs"],
        )
        for row in rows
    ] == expected


def test_csv_names_its_columns() -> None:
    assert encode_csv([]) == ",".join(COLUMNS) + "\r\n"


def test_the_form_of_dstack_has_its_four_registers() -> None:
    given_values = prediction(Platform.TDX)
    document = json.loads(encode_dstack([given_values]))
    assert document == {
        name: given_values.registers[name]["sha384"].hex() for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2")
    }


@pytest.mark.parametrize("platforms", [[], [Platform.SNP], [Platform.TDX, Platform.TDX]])
def test_the_form_of_dstack_refuses_what_it_cannot_say(platforms: list[Platform]) -> None:
    with pytest.raises(ValueFormatError, match="exactly one TDX machine"):
        encode_dstack([prediction(platform) for platform in platforms])
