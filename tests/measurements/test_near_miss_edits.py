"""Edits of predicted events: they change what they say and nothing else, and yield what events yield."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import pytest

from measurements.near_miss import Change, NearMissKind, differing_registers
from measurements.near_miss_edits import edits, separator_edits, with_events
from measurements.near_miss_sev import SevPredictor, sev_changes
from measurements.near_miss_tdx import tdx_changes, tdx_edits, tdx_predictor
from measurements.platforms import Platform, PlatformPrediction
from measurements.reference import replay_register, tpm_prediction
from measurements.tdx.predict import predict_tdx
from tests.measurements.tdx.tdx_boots import DIRECT, image, machine, ubuntu_firmware
from tests.support.boot_model import ModelImage, ModelMachine, predict
from tests.support.planted_sev import KERNEL
from tests.support.planted_sev import base_inputs as sev_base
from tests.support.planted_tdx import base_inputs, predicted, read_machine

RELEASES = ("2023.02", "2024.02", "2024.08", "2024.11", "2025.02")
SHAPES = ("tpm", "tpm-dev", "tdx-direct", "tdx-disk")


@cache
def prediction(kind: str, release: str | None = None) -> PlatformPrediction:
    if kind.startswith("tpm"):
        return tpm_prediction(predict(ModelMachine(), ModelImage(dev=kind == "tpm-dev")), shape={})
    direct = kind == "tdx-direct"
    boot = DIRECT if direct else image()
    return predict_tdx(ubuntu_firmware(release), machine(direct=direct), boot)[0]


def all_edits(kind: str) -> Sequence[Change[Any]]:
    found = list(edits(prediction(kind)))
    if kind.startswith("tdx"):
        found += tdx_edits(ubuntu_firmware(), 2048, direct=DIRECT if kind == "tdx-direct" else None)
    return found


def edited(expected: PlatformPrediction, changes: Iterable[Change[Any]]) -> list[PlatformPrediction]:
    """What each edit that applies makes of ``expected``."""
    found = [change.edit(expected) for change in changes if change.edit is not None]
    return [each for each in found if each is not None]


@pytest.mark.parametrize("kind", SHAPES)
def test_an_edit_changes_only_the_registers_that_it_names(kind: str) -> None:
    expected, applied = prediction(kind), 0
    for change in all_edits(kind):
        assert change.edit is not None
        other = change.edit(expected)
        if other is None:
            continue
        applied += 1
        assert differing_registers(other, expected.registers) <= change.registers, change.words
        assert set(other.registers) == set(expected.registers)
    assert applied > 5


@pytest.mark.parametrize("kind", SHAPES)
def test_the_registers_of_an_edit_are_what_its_events_yield(kind: str) -> None:
    for change in all_edits(kind):
        assert change.edit is not None
        other = change.edit(prediction(kind))
        if other is None:
            continue
        for name, banks in other.registers.items():
            for bank, value in banks.items():
                assert replay_register(other.events, name, bank) == value


@pytest.mark.parametrize("kind", SHAPES)
def test_every_edit_is_said_in_its_own_words(kind: str) -> None:
    words = [change.words for change in all_edits(kind)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("kind", ["tdx-direct", "tdx-disk"])
@pytest.mark.parametrize("release", RELEASES)
def test_separators_move_forth_and_back(kind: str, release: str) -> None:
    """For each release one direction applies, and the other one undoes it."""
    expected = prediction(kind, release)
    (moved,) = edited(expected, separator_edits())
    assert differing_registers(moved, expected.registers) == {"rtmr0", "rtmr1"}
    assert [each.registers for each in edited(moved, separator_edits())] == [expected.registers]


@pytest.mark.parametrize("kind", ["tdx-direct", "tdx-disk"])
@pytest.mark.parametrize(("older", "newer"), [("2024.08", "2024.11"), ("2024.02", "2025.02")])
def test_separators_move_to_where_the_other_release_has_them(kind: str, older: str, newer: str) -> None:
    results = [
        change.edit(prediction(kind, newer)) for change in separator_edits() if change.edit is not None
    ]
    (moved,) = [each for each in results if each is not None]
    assert moved.registers == prediction(kind, older).registers


def test_the_place_of_the_initrds_word_is_that_of_the_other_release() -> None:
    changes = [each for each in all_edits("tdx-direct") if each.kind is NearMissKind.COMMAND_LINE_PLACE]
    expected = prediction("tdx-direct")
    values = [each.registers["rtmr2"] for each in edited(expected, changes)]
    assert len(values) == 2
    newer = predict_tdx(ubuntu_firmware("2025.08"), machine(direct=True), DIRECT)[0]
    assert newer.registers["rtmr2"] in values


def test_an_edit_that_changes_nothing_does_not_apply() -> None:
    expected = prediction("tpm")
    assert with_events(expected, expected.events) == expected
    for change in all_edits("tpm"):
        assert change.edit is not None
        other = change.edit(expected)
        assert other is None or other.events != expected.events


def test_nothing_but_debug_mode_is_edited_on_nitro() -> None:
    nitro = PlatformPrediction(
        platform=Platform.NITRO, shape={}, registers={"0": {"sha384": bytes(48)}}, events=()
    )
    assert [change.kind for change in edits(nitro)] == [NearMissKind.DEBUG_MODE]


def test_a_trust_domains_machine_changes_only_the_registers_that_are_named() -> None:
    base = base_inputs()
    expected = predicted(base)
    predict_other = tdx_predictor(expected, read_machine)
    kinds = set()
    for change in tdx_changes(base, programs=["qemu-9.1"]):
        if change.inputs is None or change.kind in kinds:
            continue
        kinds.add(change.kind)
        other = predict_other(change.inputs(base))
        assert differing_registers(other, expected.registers) <= change.registers, change.words
    assert {NearMissKind.MEMORY, NearMissKind.CPUS, NearMissKind.QEMU_VERSION} <= kinds


def test_a_launch_changes_the_one_register_that_there_is() -> None:
    base, predict_sev = sev_base(), SevPredictor()
    expected = predict_sev(base)
    for change in sev_changes(base, kernel=KERNEL):
        assert change.inputs is not None
        other = predict_sev(change.inputs(base))
        assert differing_registers(other, expected.registers) <= change.registers
