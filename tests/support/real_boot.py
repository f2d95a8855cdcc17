"""A real boot to the guest's report, for tests."""

from __future__ import annotations

from measurements.boot_report import BootReport, find_report
from measurements.qemu import Machine, MachineError, MachineSpec

REPORT_END = "END KEYTURN BOOT REPORT"
REPORT_SECONDS = 180
POWER_OFF_SECONDS = 60


def report_of_boot(spec: MachineSpec) -> BootReport:
    """Boot, wait for the report, press the power button, wait for the end.

    A machine that is lost is booted once more: QEMU's emulation of ``cmpxchg16b`` now and then crashes a
    kernel early, before anything that these tests look at.
    """
    try:
        return _boot(spec)
    except MachineError:
        return _boot(spec)


def _boot(spec: MachineSpec) -> BootReport:
    with Machine.start(spec) as machine:
        machine.wait_for(REPORT_END, seconds=REPORT_SECONDS)
        machine.power_button()
        machine.wait_exit(seconds=POWER_OFF_SECONDS)
        return find_report(machine.console.data)
