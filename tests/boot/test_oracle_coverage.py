"""What the oracle's boots vary, and that its comparison notices a difference. No boots here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from measurements.eventlog import parse_event_log
from measurements.events import Bank
from measurements.shape import TpmInterface
from tests.boot import test_oracle_bookworm, test_oracle_sid, test_oracle_trixie, test_prediction_matrix
from tests.support.boot_model import ModelImage, ModelMachine, boot_log, predict
from tests.support.oracle_boots import Booted, OracleMachine, assert_equal
from tests.support.oracle_cc import compared_registers
from tests.support.oracle_guest import OracleReport

MODULES = (test_oracle_bookworm, test_oracle_trixie, test_oracle_sid)
DIRECT_BOOTS = len(MODULES)
MOST_BOOTS = 14


def machines() -> Iterable[OracleMachine]:
    return (machine for module in MODULES for machine in module.MACHINES.values())


def booted() -> Booted:
    """A boot that is as predicted."""
    machine, image = ModelMachine().with_nic(), ModelImage()
    prediction = predict(machine, image)
    registers = {bank: {**values, 15: bytes(bank.size)} for bank, values in prediction.registers.items()}
    report = OracleReport(log=parse_event_log(boot_log(machine, image)), registers=registers, command_line="")
    return Booted(prediction=prediction, report=report)


def test_the_boots_cover_firmware_stubs_and_features() -> None:
    assert {(machine.firmware, machine.stub) for machine in machines()} == {
        *(("bookworm", 252), ("bookworm", 254), ("bookworm", 257)),
        *(("trixie", 254), ("trixie", 257), ("trixie", 262)),
        *(("sid", 252), ("sid", 257), ("sid", 262)),
    }
    for firmware in ("bookworm", "trixie", "sid"):
        own = [machine for machine in machines() if machine.firmware == firmware]
        assert any(machine.secure_boot for machine in own)
        assert any(machine.extras for machine in own)
        assert any(machine.shape.smbios for machine in own)
        assert any(machine.shape.nics and len(machine.shape.disks) > 1 for machine in own)
        assert {machine.shape.tpm for machine in own} == {TpmInterface.CRB, TpmInterface.TIS}
    assert {machine.stub for machine in machines() if machine.extras} == {252, 254, 257, 262}
    assert {machine.stub for machine in machines() if machine.profiles} == {257, 262}
    assert {machine.firmware for machine in machines() if machine.shape.numa} == {"trixie", "sid"}
    assert {machine.firmware for machine in machines() if machine.shape.devices} == {"trixie", "sid"}
    assert {machine.qemu for machine in machines()} == {"", "sid"}
    whole = {machine.firmware for machine in machines() if len(compared_registers(machine)) == 3}
    assert whole >= {"trixie", "sid"}


def test_the_boots_are_as_few_as_they_may_be() -> None:
    boots = len(list(machines())) + DIRECT_BOOTS + len(test_prediction_matrix.COMBINATIONS)
    assert boots <= MOST_BOOTS


def test_an_equal_boot_is_accepted() -> None:
    assert_equal(booted())


@pytest.mark.parametrize("bank", Bank)
def test_another_digest_in_the_log_is_noticed(bank: Bank) -> None:
    given = booted()
    events = list(given.prediction.events)
    events[5] = replace(events[5], digests={**events[5].digests, bank: bytes(bank.size)})
    changed = replace(given, prediction=replace(given.prediction, events=tuple(events)))
    with pytest.raises(AssertionError, match=events[5].description):
        assert_equal(changed)


def test_a_missing_and_a_further_event_are_noticed() -> None:
    given = booted()
    for events in (given.prediction.events[:-1], (*given.prediction.events, given.prediction.events[0])):
        changed = replace(given, prediction=replace(given.prediction, events=events))
        with pytest.raises(AssertionError, match="predicted"):
            assert_equal(changed)


@pytest.mark.parametrize("pcr", [0, 10, 14, 15])
def test_another_register_is_noticed(pcr: int) -> None:
    given = booted()
    registers = {bank: dict(values) for bank, values in given.report.registers.items()}
    registers[Bank.SHA384][pcr] = bytes([1]) * Bank.SHA384.size
    changed = replace(given, report=replace(given.report, registers=registers))
    with pytest.raises(AssertionError, match=rf"registers \[{pcr}\]"):
        assert_equal(changed)
