"""PCR 4 and 5: the boot manager's action, the separators, the programs started, the boot disk's partitions.

Rules (TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4.5 and 3.3.4.6; edk2 ``Tcg2Dxe.c``
``OnReadyToBoot`` and ``OnExitBootServices``, ``DxeTpm2MeasureBootLib``): before the first boot option is
tried the action ``Calling EFI Application from Boot Option``, then separators into PCR 0 to 6; when the
first program is loaded from a disk, the disk's partition table; every program by its Authenticode digest;
when it leaves boot services, two actions.
"""

from __future__ import annotations

from collections.abc import Mapping

from measurements.events import Bank, EventType, MeasuredEvent, event_over
from measurements.gpt import PartitionTable
from measurements.pe import authenticode_digest

PROGRAMS_PCR = 4
CONFIGURATION_PCR = 5
CALLING = "Calling EFI Application from Boot Option"
EXIT_ACTIONS = ("Exit Boot Services Invocation", "Exit Boot Services Returned with Success")


def ready_to_boot_events() -> list[MeasuredEvent]:
    """The action and the separators of PCR 0 to 6."""
    return [_action(CALLING, pcr=PROGRAMS_PCR), *(separator(pcr) for pcr in range(7))]


def separator(pcr: int) -> MeasuredEvent:
    """The separator that ends the firmware's own measurements in ``pcr``."""
    return event_over(
        bytes(4), pcr=pcr, event_type=EventType.EV_SEPARATOR, description="separator", origin="firmware"
    )


def partition_table_event(table: PartitionTable, *, origin: str = "disk.raw") -> MeasuredEvent:
    """The boot disk's partition table."""
    partitions = ", ".join(f"{partition.name} {partition.guid}" for partition in table.partitions)
    return event_over(
        table.event_data,
        pcr=CONFIGURATION_PCR,
        event_type=EventType.EV_EFI_GPT_EVENT,
        description=f"GUID partition table: disk {table.disk_guid}, {partitions}",
        origin=f"partition table of {origin}",
    )


def program_event(
    image: bytes, *, description: str, origin: str, digests: Mapping[Bank, bytes] | None = None
) -> MeasuredEvent:
    """A program that firmware loads; raises ``FormatError`` if ``image`` is no PE image. ``digests`` are its
    Authenticode digests, if they are known already.
    """
    return MeasuredEvent(
        pcr=PROGRAMS_PCR,
        event_type=EventType.EV_EFI_BOOT_SERVICES_APPLICATION,
        digests=digests or {bank: authenticode_digest(image, bank, subject=origin) for bank in Bank},
        description=description,
        origin=origin,
    )


def exit_events() -> list[MeasuredEvent]:
    """The end of boot services."""
    return [_action(text, pcr=CONFIGURATION_PCR) for text in EXIT_ACTIONS]


def _action(text: str, *, pcr: int) -> MeasuredEvent:
    return event_over(
        text.encode("ascii"), pcr=pcr, event_type=EventType.EV_EFI_ACTION, description=text, origin="firmware"
    )
