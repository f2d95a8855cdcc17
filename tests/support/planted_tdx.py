"""Planted near misses of trust domains: the firmware is real, its ACPI tables are made up from the shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from measurements.acpi_blob import AcpiFiles
from measurements.booted import BootedEvent
from measurements.events import EventType
from measurements.near_miss import NearMissKind, Problem
from measurements.near_miss_tdx import TdxInputs, tdx_changes, tdx_edits, tdx_predictor
from measurements.platforms import PlatformPrediction
from measurements.tdx.mrtd import PageOrder
from measurements.tdx.predict import TdxFirmware, TdxMachine, predict_tdx
from tests.measurements.tdx.tdx_boots import DIRECT, as_release, machine, ubuntu_bytes, ubuntu_firmware
from tests.support.planted import Planted, Plantings

OTHER_QEMU = "qemu-9.1"


def read_machine(inputs: TdxInputs) -> TdxMachine:
    """A machine whose tables tell its whole shape and QEMU."""
    tables = json.dumps(inputs.shape.as_json()) + inputs.qemu
    acpi = AcpiFiles(loader=b"loader", files=(("etc/acpi/tables", tables.encode()),))
    version = (9, 1) if inputs.qemu else (10, 2)
    return replace(machine(direct=True), shape=inputs.shape, acpi=acpi, qemu_version=version)


def base_inputs() -> TdxInputs:
    shape = machine(direct=True, memory_mib=4096).shape
    return TdxInputs(firmware=ubuntu_firmware(), shape=shape, order=PageOrder.SINGLE_PASS, boot=DIRECT)


def predicted(inputs: TdxInputs) -> PlatformPrediction:
    (prediction,) = predict_tdx(inputs.firmware, read_machine(inputs), DIRECT)
    return prediction


def logged(prediction: PlatformPrediction) -> tuple[BootedEvent, ...]:
    """The log of a machine that measured exactly this, without data beside the digests."""
    return tuple(
        BootedEvent(
            register=event.register,
            event_type=EventType[event.event_type],
            digests=event.digests,
            data=b"",
            offset=0,
        )
        for event in prediction.events
        if not event.running
    )


def edited(words: str, **fields: Any) -> Callable[[], Planted]:
    """A machine that differs from the base in ``fields`` of the ``TdxMachine``; no QEMU is asked."""

    def planted() -> Planted:
        base = base_inputs()
        on = read_machine(base)
        (expected,) = predict_tdx(base.firmware, on, DIRECT)
        changed = replace(on, **{name: value for name, value in fields.items() if name != "memory_mib"})
        if "memory_mib" in fields:
            changed = replace(on, shape=replace(on.shape, memory_mib=fields["memory_mib"]))
        (found,) = predict_tdx(base.firmware, changed, DIRECT)
        problem: Problem[Any] = Problem(expected=expected, found=found.registers)
        changes = list(tdx_edits(base.firmware, base.shape.memory_mib, direct=DIRECT))
        return Planted(problem=problem, changes=changes, words=words)

    return planted


def other_machine(words: str, *, qemu: str = "", **fields: Any) -> Callable[[], Planted]:
    """A machine of another shape, whose tables are read anew."""

    def planted() -> Planted:
        base = base_inputs()
        expected = predicted(base)
        found = predicted(replace(base, shape=replace(base.shape, **fields), qemu=qemu))
        problem: Problem[Any] = Problem(
            expected=expected,
            found=found.registers,
            inputs=base,
            predict=tdx_predictor(expected, read_machine),
        )
        changes = list(tdx_changes(base, programs=[OTHER_QEMU]))
        return Planted(problem=problem, changes=changes, words=words, costly=True)

    return planted


def page_order() -> Planted:
    base = base_inputs()
    expected = predicted(base)
    found = tdx_predictor(expected, read_machine)(replace(base, boot=None, order=PageOrder.TWO_PASS))
    problem: Problem[Any] = Problem(expected=expected, found=found.registers)
    changes = list(tdx_edits(base.firmware, base.shape.memory_mib))
    words = "the hypervisor adds pages in the order two-pass"
    return Planted(problem=problem, changes=changes, words=words)


def variable_store() -> Planted:
    """The firmware file with another store than its own."""
    base = base_inputs()
    expected = predicted(base)
    firmware = TdxFirmware.parse(ubuntu_bytes(), name="OVMF.fd", variables=("OTHER_VARS.fd", other_store()))
    found = predicted(replace(base, firmware=firmware))
    problem: Problem[Any] = Problem(expected=expected, found=found.registers)
    changes = list(tdx_edits(base.firmware, base.shape.memory_mib, stores=[firmware]))
    return Planted(problem=problem, changes=changes, words="the variable store is OTHER_VARS.fd")


def other_store() -> bytes:
    """The firmware's own store with one byte of its unused end changed."""
    store = bytearray(ubuntu_firmware().store)
    store[-1] ^= 0xFF
    return bytes(store)


def other_firmware() -> Planted:
    """The same file by the rules of another release: MRTD stays, RTMR0 and RTMR1 do not."""
    base = base_inputs()
    expected = predicted(base)
    other = as_release(base.firmware, "2024.08")
    other = replace(other, tdvf=replace(other.tdvf, name="OLDER.fd"))
    problem: Problem[Any] = Problem(
        expected=expected,
        found=predicted(replace(base, firmware=other)).registers,
        inputs=base,
        predict=tdx_predictor(expected, read_machine),
    )
    changes = list(tdx_changes(base, others=[other]))
    return Planted(problem=problem, changes=changes, words="the firmware is OLDER.fd", costly=True)


PLANTED: Plantings = {
    NearMissKind.SECURE_BOOT: [variable_store],
    NearMissKind.FIRMWARE: [other_firmware],
    NearMissKind.MEMORY: [
        edited("memory is 8192 MiB, and the ACPI tables are the same", memory_mib=8192),
        other_machine("memory is 8192 MiB", memory_mib=8192),
    ],
    NearMissKind.CPUS: [other_machine("there are 8 CPUs", cpus=8)],
    NearMissKind.QEMU_VERSION: [
        other_machine("the machine is started by qemu-9.1", qemu=OTHER_QEMU),
        other_machine("the machine is that of QEMU 10.1", machine="pc-q35-10.1"),
    ],
    NearMissKind.PAGE_ORDER: [page_order],
    NearMissKind.KERNEL_PATCH: [
        edited(
            "QEMU changes the kernel's header (before 10.2), with 2048 MiB of memory below 4 GiB",
            qemu_version=(9, 1),
        )
    ],
}
