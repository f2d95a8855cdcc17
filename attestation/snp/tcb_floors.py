"""Security versions of a report against the floors of a policy, component by component.

A report has four versions of the whole TCB, and all must reach the floor:

============  =====================================================================================
reported      of which the signing key is derived. Firmware of an older version can derive the keys of its
              version and of all before, so a key of a low version proves little about what is running.
committed     below which the platform can never be rolled back
launch        when the guest was started
current       what runs
============  =====================================================================================

(56860, table 23 and the commands SNP_CONFIG and SNP_COMMIT; 57230 on how a VCEK is derived.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from attestation.platform_verification import Component
from attestation.policy import SnpFloor
from attestation.verdict import CheckList
from measurements.sev.report import SnpReport, TcbVersion

TCB_KINDS = ("reported", "committed", "launch", "current")
_FIELDS = tuple((one.name, one.name.replace("_", " ")) for one in fields(SnpFloor))
TCB_CHECKS = tuple(f"{kind}-tcb" for kind in TCB_KINDS)


def check_floors(checks: CheckList, report: SnpReport, floor: SnpFloor) -> tuple[Component, ...]:
    """One check for each version of the TCB; returns all components with what they have and need."""
    versions = (report.reported_tcb, report.committed_tcb, report.launch_tcb, report.current_tcb)
    expected = f"at least {_floor_text(floor)}"
    found: list[Component] = []
    for kind, tcb in zip(TCB_KINDS, versions, strict=True):
        components = [
            Component(name=f"{kind} {name}", have=have, need=need) for name, have, need in _levels(tcb, floor)
        ]
        short = [one for one in components if one.short]
        comparable = (tcb.fmc is None) == (floor.fmc is None)
        missing = "; ".join(f"{one.name} is {one.have}, needs {one.need}" for one in short)
        checks.note(
            f"{kind}-tcb",
            comparable and not short,
            expected=expected,
            found=str(tcb),
            reason=missing or "floor and report differ in whether they have an FMC level",
            advice="ask the host's operator to update and commit its firmware and microcode, and start the "
            "machine again"
            if short
            else "give the floor of Turin an fmc, and no other",
        )
        found += components
    return tuple(found)


def _levels(tcb: TcbVersion, floor: SnpFloor) -> Iterator[tuple[str, int, int]]:
    for field, title in _FIELDS:
        have, need = getattr(tcb, field), getattr(floor, field)
        if have is not None and need is not None:
            yield title, have, need


def _floor_text(floor: SnpFloor) -> str:
    levels = ((title, getattr(floor, field)) for field, title in _FIELDS)
    return ", ".join(f"{title} {level}" for title, level in levels if level is not None)
