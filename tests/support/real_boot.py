"""A real boot to the guest's report, for tests."""

from __future__ import annotations

from dataclasses import dataclass

from measurements.boot_report import BootReport, find_report
from measurements.qemu import Machine, MachineError, MachineSpec

REPORT_END = "END KEYTURN BOOT REPORT"
REPORT_SECONDS = 180
POWER_OFF_SECONDS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedBoot:
    """What is left of a machine: all console output, its report, QEMU's exit status, and QEMU's version."""

    console: bytes
    report: BootReport
    exit_status: int
    qemu_version: str


def finished_boot(spec: MachineSpec) -> FinishedBoot:
    """Boot, wait for the report, press the power button, wait for the end.

    A machine that is lost is booted once more: QEMU's emulation of ``cmpxchg16b`` now and then crashes a
    kernel early, before anything that these tests look at.
    """
    try:
        return _boot(spec)
    except MachineError:
        return _boot(spec)


def _boot(spec: MachineSpec) -> FinishedBoot:
    with Machine.start(spec) as machine:
        machine.wait_for(REPORT_END, seconds=REPORT_SECONDS)
        machine.power_button()
        status = machine.wait_exit(seconds=POWER_OFF_SECONDS)
        console = machine.console.data
        return FinishedBoot(
            console=console,
            report=find_report(console),
            exit_status=status,
            qemu_version=machine.qemu_version,
        )
