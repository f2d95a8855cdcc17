"""Explanations of direct boots, where the host gives kernel, initrd and command line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from measurements.booted import Booted, BootedLog
from measurements.cause_inputs import Input
from measurements.explain import Explanation, explain
from measurements.linux_stub import COMMAND_LINE_DESCRIPTION
from measurements.near_miss_edits import with_events
from measurements.platforms import Platform, PlatformPrediction
from measurements.tdx.predict import DirectBoot, TdxMachine, predict_tdx
from tests.measurements.tdx.tdx_boots import DIRECT, machine, ubuntu_firmware
from tests.support.planted_tdx import logged

MACHINE_WITH_QEMU_9 = (9, 1)


def predicted(boot: DirectBoot = DIRECT, on: TdxMachine | None = None) -> PlatformPrediction:
    return predict_tdx(ubuntu_firmware(), on or machine(direct=True), boot)[0]


def explained(found: PlatformPrediction, expected: PlatformPrediction | None = None) -> Explanation:
    log = BootedLog(events=logged(found), registers=found.registers)
    return explain(expected or predicted(), Booted(platform=Platform.TDX, log=log))


def causes(explanation: Explanation) -> list[tuple[str, Input]]:
    return [(each.difference.register, each.cause.input) for each in explanation.findings]


def test_the_predicted_direct_boot_is_equal() -> None:
    assert explained(predicted()).equal


@pytest.mark.parametrize(
    ("boot", "register", "named"),
    [
        (replace(DIRECT, initrd=b"another"), "rtmr2", Input.INITRD),
        (replace(DIRECT, command_line="quiet"), "rtmr2", Input.COMMAND_LINE),
        (replace(DIRECT, kernel=DIRECT.kernel + bytes(8)), "rtmr1", Input.KERNEL),
    ],
)
def test_what_the_host_gives_is_named(boot: DirectBoot, register: str, named: Input) -> None:
    assert causes(explained(predicted(boot))) == [(register, named)]


def test_the_changes_of_an_older_qemu_to_the_kernel_are_named() -> None:
    older = replace(machine(direct=True), qemu_version=MACHINE_WITH_QEMU_9)
    explanation = explained(predicted(on=older))
    assert causes(explanation) == [("rtmr1", Input.KERNEL)]
    assert "QEMU's changes to its header" in explanation.findings[0].cause.detail


def test_memory_is_named_by_the_list_of_its_ranges() -> None:
    assert causes(explained(predicted(on=machine(direct=True, memory_mib=4096)))) == [("rtmr0", Input.MEMORY)]


def test_the_words_of_dstacks_predictions_are_understood() -> None:
    """``measurements.dstack`` calls the same events by shorter names."""
    words = {
        "kernel (Authenticode)": "kernel",
        COMMAND_LINE_DESCRIPTION: "kernel command line",
        "initrd": "initrd",
    }

    def renamed(text: str) -> str:
        return next((name for start, name in words.items() if text.startswith(start)), text)

    base = predicted()
    expected = with_events(
        base, [replace(each, description=renamed(each.description), origin="image") for each in base.events]
    )
    assert expected.events != base.events
    other = predicted(DirectBoot(kernel=DIRECT.kernel + bytes(8), initrd=b"another", command_line="quiet"))
    assert causes(explained(other, expected)) == [
        ("rtmr1", Input.KERNEL),
        ("rtmr2", Input.COMMAND_LINE),
        ("rtmr2", Input.INITRD),
    ]
