"""BootOrder and Boot#### that firmware makes in a trust domain, as PCR events.

They are those of ``measurements.boot_entries``, but for two things. Builds for trust domains alone keep UiApp
in a volume that a trust domain does not load (edk2 pull request 12488), so they have no entry for it. And on
direct boot the kernel starts before entries for devices and the shell are made, so only the boot manager's
own are there.
"""

from __future__ import annotations

import struct

from measurements.boot_entries import BootEntry, boot_entries, boot_order
from measurements.events import EventType, MeasuredEvent, event_over
from measurements.shape import BootSource, MachineShape
from measurements.tdx.dxe_facts import APPLICATIONS, DxeFacts

_PCR = 1


def boot_variable_events(facts: DxeFacts, shape: MachineShape) -> list[MeasuredEvent]:
    """The events in order; raises ``ShapeError`` or ``FirmwareError`` for what is not known."""
    entries = [entry for entry in boot_entries(facts, shape) if _exists(entry, facts, shape)]
    order = boot_order(entries, shape)
    values = [("BootOrder", struct.pack(f"<{len(order)}H", *order), "order of the boot entries")]
    values += [(f"Boot{number:04X}", entries[number].data(), entries[number].description) for number in order]
    return [
        event_over(
            data,
            pcr=_PCR,
            event_type=EventType.EV_EFI_VARIABLE_BOOT,
            description=f"{name}: {what}",
            origin=f"boot manager of {facts.name} for the shape (disks, network cards, boot order)",
        )
        for name, data, what in values
    ]


def _exists(entry: BootEntry, facts: DxeFacts, shape: MachineShape) -> bool:
    names = [name for name, guid in APPLICATIONS.items() if guid.bytes_le in entry.path]
    if shape.boot is BootSource.DIRECT:
        return names in (["UiApp"], ["BootManagerMenuApp"]) and names[0] in facts.modules
    return entry.device or names[0] in facts.modules
