"""Near misses of trust domains on real firmware, tables and logs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from measurements.acpi_blob import derive_files
from measurements.firmware_catalogue import hypervisor
from measurements.near_miss import NearMissKind, Problem
from measurements.near_miss_edits import edits
from measurements.near_miss_search import search
from measurements.near_miss_tdx import TdxInputs, tdx_changes, tdx_edits, tdx_predictor
from measurements.platforms import PlatformPrediction
from measurements.reference import replay_register
from measurements.shape import BootSource, MachineShape, ShapeError, TpmInterface
from measurements.tdx.mrtd import PageOrder
from measurements.tdx.predict import TdxMachine
from tests.measurements.tdx.tdx_boots import DIRECT, ubuntu_firmware
from tests.support.planted_tdx import base_inputs, logged, predicted, read_machine
from tests.support.vectors import vector

FIXTURES = "tdx-platform/virtee-tdx-measure-fixtures"
NAMES = ("canonical-defaults", "q35-with-hpet", "runtime-capture")


def fixture(name: str, file: str) -> bytes:
    """A file of virtee/tdx-measure's fixtures; ``runtime-capture`` comes from a live trust domain."""
    return vector(f"{FIXTURES}/{name}/{file}").read_bytes()


def boot_config(name: str) -> tuple[int, int]:
    """Memory in MiB and number of CPUs."""
    found = json.loads(fixture(name, "metadata.json"))["boot_config"]
    return int(found["memory"].removesuffix("M")), found["cpus"]


def shape_of(name: str) -> MachineShape:
    memory, cpus = boot_config(name)
    return MachineShape(memory_mib=memory, cpus=cpus, tpm=TpmInterface.NONE, boot=BootSource.DIRECT)


def captured(inputs: TdxInputs) -> TdxMachine:
    """The tables that were captured on a machine of this memory and number of CPUs; there are three."""
    shape = inputs.shape
    known = {boot_config(name): name for name in NAMES}
    name = known.get((shape.memory_mib, shape.cpus))
    if name is None:
        raise ShapeError("was not captured", subject="machine", advice="capture it")
    return TdxMachine(
        shape=shape,
        hypervisor=hypervisor("qemu"),
        acpi=derive_files(fixture(name, "acpi_tables.bin")),
        acpi_origin=f"captured tables {name}",
        qemu_version=(10, 2),
    )


def platform_only(name: str) -> tuple[PlatformPrediction, TdxInputs]:
    """MRTD and RTMR0 of a fixture: all that is known of it."""
    inputs = TdxInputs(firmware=ubuntu_firmware(), shape=shape_of(name), order=PageOrder.SINGLE_PASS)
    empty = predicted(base_inputs())
    registers = {register: empty.registers[register] for register in ("mrtd", "rtmr0")}
    frame = replace(empty, registers=registers, events=(), label={}, shape={})
    return tdx_predictor(frame, captured)(inputs), inputs


@pytest.mark.parametrize("name", NAMES)
def test_published_fixtures_are_predicted(name: str) -> None:
    prediction, _ = platform_only(name)
    expected = json.loads(fixture(name, "expected.json"))
    for register, value in expected.items():
        assert prediction.registers[register]["sha384"].hex() == value


def test_a_live_trust_domains_memory_is_named_from_its_registers() -> None:
    """The prediction is for 4 GiB with 8 CPUs, the registers are those of a live machine with 16 GiB."""
    expected, inputs = platform_only("q35-with-hpet")
    live = json.loads(fixture("runtime-capture", "expected.json"))
    problem: Problem[Any] = Problem(
        expected=expected,
        found={register: {"sha384": bytes.fromhex(value)} for register, value in live.items()},
        inputs=inputs,
        predict=tdx_predictor(expected, captured),
    )
    assert problem.wrong == {"rtmr0"}
    (miss,) = search(problem, list(tdx_changes(inputs)), costly=True).found
    assert (miss.kinds, miss.words, miss.left) == ((NearMissKind.MEMORY,), ("memory is 16384 MiB",), ())
    assert miss.machine == "an 8 vCPU machine with 16 GiB"


def test_a_log_shows_memory_even_where_other_tables_hide_it_from_the_register() -> None:
    """Memory and CPUs differ: RTMR0 is no single near miss, but the list of memory ranges is one."""
    base = base_inputs()
    expected = predicted(base)
    found = predicted(replace(base, shape=replace(base.shape, memory_mib=8192, cpus=7)))
    problem: Problem[Any] = Problem(expected=expected, found=found.registers, log=logged(found))
    changes = list(tdx_edits(base.firmware, base.shape.memory_mib, direct=DIRECT))
    (miss,) = search(problem, changes).found
    assert (miss.kinds, miss.explains, miss.left) == ((NearMissKind.MEMORY,), (), ("rtmr0",))
    assert miss.events == ("rtmr0: TD HOB: 8192 MiB of memory in ranges",)
    without: Problem[Any] = replace(problem, log=())
    assert search(without, changes).found == ()


def test_memory_in_rtmr0_and_the_kernels_header_in_rtmr1_are_joined() -> None:
    base = base_inputs()
    expected = predicted(base)
    patched = predicted(replace(base, qemu="qemu-9.1"))
    found = {
        **predicted(replace(base, shape=replace(base.shape, cpus=8))).registers,
        "rtmr1": patched.registers["rtmr1"],
    }
    problem: Problem[Any] = Problem(
        expected=expected, found=found, inputs=base, predict=tdx_predictor(expected, read_machine)
    )
    changes = [
        *tdx_edits(base.firmware, base.shape.memory_mib, direct=DIRECT),
        *tdx_changes(base),
    ]
    best = search(problem, changes, costly=True).found[0]
    assert set(best.kinds) == {NearMissKind.CPUS, NearMissKind.KERNEL_PATCH}
    assert best.left == ()


def test_a_machine_without_what_it_boots_keeps_the_other_registers() -> None:
    base = base_inputs()
    expected = predicted(base)
    other = tdx_predictor(expected, read_machine)(replace(base, boot=None))
    assert other.registers == expected.registers
    assert [each.register for each in other.events].count("rtmr1") == 5


def test_separators_move_to_where_an_older_release_has_them() -> None:
    """The event list as edited is that which the rules of edk2 2024.08 give."""
    base = base_inputs()
    expected = predicted(base)
    older = predicted(replace(base, firmware=ubuntu_firmware("2024.08")))
    problem: Problem[Any] = Problem(expected=expected, found=older.registers)
    misses = search(problem, list(edits(expected))).found
    assert [miss.kinds for miss in misses] == [(NearMissKind.SEPARATOR,)]
    assert misses[0].left == ()
    for register in ("rtmr0", "rtmr1"):
        value = replay_register(misses[0].prediction.events, register, "sha384")
        assert value == older.registers[register]["sha384"]
