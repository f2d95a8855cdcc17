"""Explanations over predictions for the installed firmware: the machine differs from the predicted one."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from measurements.boot_entries import boot_entries, boot_order
from measurements.boot_sequence import Prediction
from measurements.booted import Booted, tpm_log
from measurements.cause_inputs import Input
from measurements.efi_variable import GLOBAL_VARIABLE, EfiVariable
from measurements.eventlog import parse_event_log
from measurements.events import EventType
from measurements.explain import Explanation, explain
from measurements.near_miss import NearMiss, NearMissKind, Problem
from measurements.near_miss_search import search
from measurements.near_miss_tpm import TpmInputs, tpm_changes, tpm_predictor
from measurements.platforms import Platform, PlatformPrediction
from measurements.predict_tpm import FirmwareInputs, predict_tpm
from measurements.reference import tpm_prediction
from measurements.shape import BootOrder, CpuVendor, Disk, MachineShape, Nic
from tests.support.boot_model import ModelImage, file_path, image_load_data
from tests.support.event_log_writer import write_predicted
from tests.support.tools import unavailable

FOLDER = Path("/usr/share/OVMF")
BASE = MachineShape(memory_mib=1024, boot_order=BootOrder.FIRMWARE)

pytestmark = pytest.mark.apt


@pytest.fixture(scope="module")
def firmware() -> FirmwareInputs:
    code = FOLDER / "OVMF_CODE_4M.fd"
    if not code.exists():
        unavailable("no firmware (package ovmf)")
    return FirmwareInputs.read(code=code, variables=FOLDER / "OVMF_VARS_4M.fd")


def predict(firmware: FirmwareInputs, shape: MachineShape) -> Prediction:
    return predict_tpm(ModelImage().inputs(), firmware, shape)


def reference(firmware: FirmwareInputs, shape: MachineShape) -> PlatformPrediction:
    return tpm_prediction(predict(firmware, shape), shape=shape.as_json())


def booted(firmware: FirmwareInputs, shape: MachineShape) -> Booted:
    """The log of a machine of ``shape``: what it measures, with the data that firmware writes beside it."""
    prediction = predict(firmware, shape)
    entries = boot_entries(firmware.firmware, shape)
    order = boot_order(entries, shape)
    values = [("BootOrder", struct.pack(f"<{len(order)}H", *order))]
    values += [(f"Boot{number:04X}", entries[number].data()) for number in order]
    variables = iter(
        EfiVariable(name=name, vendor=GLOBAL_VARIABLE, data=data).measured_bytes() for name, data in values
    )
    data: dict[int, bytes] = {}
    for position, event in enumerate(prediction.logged()):
        if event.event_type is EventType.EV_EFI_VARIABLE_BOOT:
            data[position] = next(variables)
        if event.event_type is EventType.EV_EFI_BOOT_SERVICES_APPLICATION:
            top = (shape.memory_mib << 20) - (32 << 20)
            data[position] = image_load_data(file_path("\\EFI\\BOOT\\BOOTX64.EFI"), address=top)
    log = tpm_log(parse_event_log(write_predicted(prediction.logged(), data=data)))
    return Booted(
        platform=Platform.TPM,
        log=log,
        reported=tpm_prediction(prediction, shape=shape.as_json()).registers,
    )


def explained(firmware: FirmwareInputs, expected: MachineShape, found: MachineShape) -> Explanation:
    return explain(reference(firmware, expected), booted(firmware, found))


def test_the_predicted_machine_is_equal(firmware: FirmwareInputs) -> None:
    explanation = explained(firmware, BASE, BASE)
    assert explanation.equal
    assert explanation.hints == ()


def test_memory_that_this_firmware_does_not_measure_is_a_hint(firmware: FirmwareInputs) -> None:
    explanation = explained(firmware, BASE, replace(BASE, memory_mib=2048))
    assert explanation.equal
    (hint,) = explanation.hints
    assert "below 2048 MiB" in hint


def near_misses(firmware: FirmwareInputs, shape: MachineShape) -> tuple[NearMiss, ...]:
    """What the search finds for the registers of a machine of ``shape``, without its log."""
    expected, inputs = reference(firmware, BASE), TpmInputs(firmware=firmware, shape=BASE)
    found = {name: banks for name, banks in reference(firmware, shape).registers.items() if name != "10"}
    problem = Problem(expected=expected, found=found, inputs=inputs, predict=tpm_predictor(expected))
    kinds = (NearMissKind.CPUS, NearMissKind.NIC, NearMissKind.DISK)
    changes = [change for change in tpm_changes(inputs) if change.kind in kinds]
    return search(problem, changes, costly=True).found


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        (replace(BASE, cpus=4), NearMissKind.CPUS, "there are 4 CPUs"),
        (replace(BASE, nics=(Nic(),)), NearMissKind.NIC, "there is a further network card"),
        (replace(BASE, disks=(Disk(), Disk(slot=4))), NearMissKind.DISK, "there is a further disk"),
    ],
)
def test_near_misses_name_the_one_choice(
    firmware: FirmwareInputs, shape: MachineShape, kind: NearMissKind, words: str
) -> None:
    (miss,) = near_misses(firmware, shape)
    assert (miss.kinds, miss.words, miss.left) == ((kind,), (words,), ())
    assert miss.prediction.registers["1"] == reference(firmware, shape).registers["1"]


def test_a_machine_that_is_no_near_miss_is_not_found(firmware: FirmwareInputs) -> None:
    assert near_misses(firmware, replace(BASE, cpus=3)) == ()


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        (replace(BASE, cpus=2), Input.MACHINE),
        (replace(BASE, cpu_vendor=CpuVendor.INTEL), Input.MACHINE),
        (replace(BASE, nics=(Nic(),)), Input.NIC),
        (replace(BASE, disks=(Disk(), Disk(slot=4))), Input.DISK),
        (replace(BASE, boot_order=BootOrder.DISK), Input.BOOT_ORDER),
    ],
)
def test_each_difference_of_the_machine_is_named_in_both_directions(
    firmware: FirmwareInputs, shape: MachineShape, named: Input
) -> None:
    for expected, found in ((BASE, shape), (shape, BASE)):
        explanation = explained(firmware, expected, found)
        assert not explanation.equal
        assert {finding.cause.input for finding in explanation.findings} == {named}
