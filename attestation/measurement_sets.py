"""Two checks that every platform's verifier makes in the same way: measurements and report data.

====================  ===================================================================================
check                 passes if
====================  ===================================================================================
``measurements``      the registers are those of one whole measurement set, or openly any are allowed
``report-data``       the whole report data is on the policy's list, or openly any is allowed
====================  ===================================================================================

A set that names no register holds nothing back, so it is never met; likewise a set with a register that the
evidence does not have.
"""

from __future__ import annotations

from collections.abc import Mapping

from attestation.policy import Allowed, Measurements, MeasurementSet
from attestation.verdict import CheckList

MEASUREMENTS_CHECK = "measurements"
REPORT_DATA_CHECK = "report-data"

_ABSENT = "absent"


def check_measurements(checks: CheckList, registers: Mapping[str, bytes], measurements: Measurements) -> None:
    """Notes ``measurements``. A failure names the nearest set, and each register in which it differs, with
    what is expected and what was found.
    """
    if measurements.any:
        checks.note(MEASUREMENTS_CHECK, True, expected="any", found="any", reason="", advice="")
        return
    differences = [(one, _differences(one, registers)) for one in measurements.sets if one.registers]
    met = next((one.name for one, found in differences if not found), None)
    if met is not None:
        checks.note(MEASUREMENTS_CHECK, True, expected=f"set {met}", found=f"set {met}", reason="", advice="")
        return
    if not differences:
        checks.note(
            MEASUREMENTS_CHECK,
            False,
            expected="one of the policy's measurement sets",
            found="no set with registers in the policy",
            reason="the policy allows no machine",
            advice="add a measurement set to the policy, or write out that any machine is allowed",
        )
        return
    nearest, names = min(differences, key=lambda one: (len(one[1]) / len(one[0].registers), one[0].name))
    checks.note(
        MEASUREMENTS_CHECK,
        False,
        expected="; ".join(f"{name} {nearest.registers[name].hex()}" for name in names),
        found="; ".join(f"{name} {_shown(registers, name)}" for name in names),
        reason=f"no measurement set holds; {nearest.name} is nearest and differs in {', '.join(names)}",
        advice="find out which part of the machine is another one, or add its measurements to the policy",
    )


def check_report_data(checks: CheckList, found: bytes, allowed: Allowed) -> None:
    """Notes ``report-data``: the hex of the whole field must be on the list."""
    checks.note(
        REPORT_DATA_CHECK,
        allowed.holds(found.hex()),
        expected=str(allowed),
        found=found.hex() or "nothing",
        reason="the evidence was not made for this occasion: its report data is not on the policy's list",
        advice="ask for new evidence over the expected report data",
    )


def _differences(wanted: MeasurementSet, registers: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name, value in wanted.registers.items() if registers.get(name) != value)


def _shown(registers: Mapping[str, bytes], name: str) -> str:
    return registers[name].hex() if name in registers else _ABSENT
