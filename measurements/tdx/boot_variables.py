"""BootOrder and Boot#### that firmware makes in a trust domain, as PCR events.

A trust domain starts from the variables in its firmware file, which have no entries yet (``TdxFirmware`` sees
to that), so each boot makes them anew.
"""

from __future__ import annotations

from measurements.boot_entries import boot_events
from measurements.events import MeasuredEvent
from measurements.shape import MachineShape
from measurements.tdx.dxe_facts import DxeFacts
from measurements.varstore import VariableStore


def boot_variable_events(facts: DxeFacts, shape: MachineShape) -> list[MeasuredEvent]:
    """The events in order; raises ``ShapeError`` or ``FirmwareError`` for what is not known."""
    return boot_events(facts, shape, VariableStore(variables=()))
