"""Reference values as documents: one form for every platform, and nothing in it that does not hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.events import Bank, Provenance
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.reference import (
    REGISTERS,
    parse_prediction,
    parse_predictions,
    parse_reference,
    prediction_document,
    predictions_document,
    reference_document,
    replay_register,
    tpm_prediction,
)
from measurements.reference_digest import PCRS
from tests.support.boot_model import ModelImage, ModelMachine, predict


def event(register: str, text: bytes, *, bank: str = "sha384", running: bool = False) -> RegisterEvent:
    return RegisterEvent(
        register=register,
        event_type="EV_EFI_ACTION" if not running else "SNP pages",
        digests={bank: hashlib.new(bank, text).digest()},
        description=text.decode(),
        origin=f"file of {text.decode()}",
        provenance=Provenance.DRY_BOOT if text == b"recorded" else Provenance.COMPUTED,
        running=running,
    )


def prediction_of(
    platform: Platform,
    events: Sequence[RegisterEvent],
    *,
    bank: str = "sha384",
    label: Mapping[str, str] | None = None,
) -> PlatformPrediction:
    names = dict.fromkeys(event.register for event in events)
    return PlatformPrediction(
        platform=platform,
        shape={"memory": "2GiB", "cpus": 4},
        registers={name: {bank: replay_register(events, name, bank)} for name in names},
        events=tuple(events),
        label=label or {},
    )


TDX = prediction_of(
    Platform.TDX,
    [
        event("mrtd", b"volume", running=True),
        event("mrtd", b"variables", running=True),
        event("rtmr0", b"tables"),
        event("rtmr1", b"kernel"),
        event("rtmr0", b"recorded"),
        event("rtmr0", b"tables"),
    ],
)
SNP = prediction_of(
    Platform.SNP,
    [event("measurement", b"firmware", running=True), event("measurement", b"save area", running=True)],
    label={"cpu-model": "EPYC-Milan", "vcpus": "4"},
)
SEV = prediction_of(
    Platform.SEV, [event("measurement", b"firmware", bank="sha256", running=True)], bank="sha256"
)
NITRO = prediction_of(Platform.NITRO, [event("0", b"kernel"), event("8", b"certificate")])


def encoded(*predictions: PlatformPrediction) -> bytes:
    return json.dumps(predictions_document(predictions)).encode()


@pytest.mark.parametrize("prediction", [TDX, SNP, SEV, NITRO], ids=lambda each: each.platform.value)
def test_every_platform_reads_back_as_it_was_written(prediction: PlatformPrediction) -> None:
    assert parse_prediction(encoded(prediction)) == prediction


def test_a_document_says_where_each_register_comes_from() -> None:
    document = prediction_document(TDX)
    assert document["inputs"]["rtmr0"] == ["file of tables", "file of recorded"]
    assert [each["source"] for each in document["events"]].count("dry-boot") == 1
    assert [each.get("running") for each in document["events"]] == [True, True, None, None, None, None]
    assert "label" not in document
    assert prediction_document(SNP)["label"] == {"cpu-model": "EPYC-Milan", "vcpus": "4"}


def test_a_tpm_systems_document_has_the_published_form() -> None:
    prediction = predict(ModelMachine(), ModelImage())
    document = reference_document(prediction, shape={"memory": "512MiB"})
    assert list(document) == ["platform", "shape", "banks", "inputs", "events"]
    assert list(document["banks"]) == ["sha256", "sha384"]
    assert list(document["banks"]["sha256"]) == [str(pcr) for pcr in PCRS]
    assert set(document["events"][0]) == {"register", "type", "digest", "description", "source", "origin"}
    assert {each["source"] for each in document["events"]} == {"computed"}
    data = json.dumps(document).encode()
    assert parse_reference(data).events == prediction.events
    assert parse_reference(data).registers == prediction.registers
    assert parse_prediction(data) == tpm_prediction(prediction, shape={"memory": "512MiB"})


def test_several_predictions_are_one_file() -> None:
    assert parse_predictions(encoded(TDX, SNP)) == (TDX, SNP)
    with pytest.raises(FormatError, match="holds 2 predictions"):
        parse_prediction(encoded(TDX, SNP))
    with pytest.raises(FormatError, match="holds no prediction"):
        parse_predictions(b'{"predictions": []}')


def test_values_of_another_platform_are_no_tpm_systems() -> None:
    with pytest.raises(FormatError, match="for tdx, not for a TPM system"):
        parse_reference(encoded(TDX))


@pytest.mark.parametrize("prediction", [TDX, SNP, SEV, NITRO], ids=lambda each: each.platform.value)
@given(data=st.data())
def test_a_flipped_bit_of_any_value_or_digest_is_refused(
    prediction: PlatformPrediction, data: st.DataObject
) -> None:
    document = prediction_document(prediction)
    places = [(values, name) for values in document["banks"].values() for name in values]
    last = {each["register"]: each for each in document["events"] if "running" in each}
    # A running value in the middle is not bound by the last one; all others are.
    free = [each for each in document["events"] if "running" not in each or each is last[each["register"]]]
    places += [(each["digest"], bank) for each in free for bank in each["digest"]]
    target, key = data.draw(st.sampled_from(places))
    value = bytearray.fromhex(target[key])
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    value[bit // 8] ^= 1 << bit % 8
    target[key] = value.hex()
    with pytest.raises(FormatError, match="do not yield its register"):
        parse_prediction(json.dumps(document).encode())


def test_events_in_another_order_are_refused() -> None:
    document = prediction_document(TDX)
    document["events"][2], document["events"][4] = document["events"][4], document["events"][2]
    document["inputs"]["rtmr0"].reverse()
    with pytest.raises(FormatError, match="do not yield its register rtmr0"):
        parse_prediction(json.dumps(document).encode())


def changed(prediction: PlatformPrediction, path: Sequence[str | int], value: object) -> bytes:
    document: Any = prediction_document(prediction)
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["platform"], "tpm"),
        (["platform"], "xen"),
        (["extra"], 1),
        (["label"], {}),
        (["label"], {"vcpus": 4}),
        (["shape"], None),
        (["banks"], {}),
        (["banks", "sha512"], {"mrtd": "00"}),
        (["banks", "sha384", "mrtd"], "00"),
        (["banks", "sha384", "rtmr4"], "00" * 48),
        (["banks", "sha256"], {"mrtd": "00" * 32}),
        (["inputs", "rtmr1"], ["another file"]),
        (["inputs", "rtmr2"], []),
        (["inputs"], {}),
        (["events", 2, "register"], "rtmr2"),
        (["events", 2, "register"], "rtmr9"),
        (["events", 2, "register"], 0),
        (["events", 2, "type"], 4),
        (["events", 2, "source"], "guessed"),
        (["events", 2, "digest", "sha384"], "AB" * 48),
        (["events", 2, "digest"], {}),
        (["events", 2, "running"], False),
        (["events", 2, "running"], None),
        (["events", 2, "pcr"], 1),
        (["events"], []),
        (["events"], None),
    ],
)
def test_documents_that_do_not_hold_are_refused(path: list[str | int], value: object) -> None:
    with pytest.raises(FormatError):
        parse_prediction(changed(TDX, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["platform"], "tdx"),
        (["label"], {"cpu": "x"}),
        (["banks", "sha256", "4"], "00" * 32),
        (["banks", "sha256", "4"], "00"),
        (["banks", "sha512"], {}),
        (["events", 0, "type"], "EV_NONSENSE"),
        (["events", 0, "register"], "23"),
        (["events", 0, "running"], True),
        (["events", 0, "digest"], {"sha256": "00" * 32}),
        (["events"], []),
    ],
)
def test_a_tpm_systems_values_that_do_not_hold_are_refused(path: list[str | int], value: object) -> None:
    prediction = tpm_prediction(predict(ModelMachine(), ModelImage()), shape={})
    with pytest.raises(FormatError):
        parse_reference(changed(prediction, path, value))


@pytest.mark.parametrize("bank", list(Bank))
def test_a_tpm_system_without_a_bank_is_refused(bank: Bank) -> None:
    document = reference_document(predict(ModelMachine(), ModelImage()), shape={})
    del document["banks"][bank.value]
    for each in document["events"]:
        del each["digest"][bank.value]
    with pytest.raises(FormatError, match="not complete"):
        parse_reference(json.dumps(document).encode())


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="same key twice"):
        parse_prediction(encoded(TDX).replace(b"{", b'{"platform": "tdx", ', 1))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"{", b"[" * 200, b'{"predictions": [1]}'])
def test_files_that_are_no_reference_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_predictions(data)
    with pytest.raises(FormatError):
        parse_reference(data)


def test_every_platform_has_its_registers() -> None:
    assert set(REGISTERS) == set(Platform)
    assert all(REGISTERS.values())
