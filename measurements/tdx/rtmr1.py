"""RTMR1: the programs that firmware starts, the boot disk's partition table, the end of boot services.

The order is data of the edk2 release. On direct boot the kernel is loaded before the boot manager gets ready
to boot, so it comes first; from a disk, the partition table is measured when the first program is loaded from
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from measurements.boot_applications import ready_to_boot_events
from measurements.events import EventType, MeasuredEvent
from measurements.firmware_catalogue import Edk2Release, EventGroup
from measurements.platforms import RegisterEvent
from measurements.tdx.cc_mapping import CcRegister, in_trust_domain
from measurements.tdx.register_events import separator

_REGISTER = CcRegister.RTMR1
_GROUP_OF_TYPE = {
    EventType.EV_EFI_GPT_EVENT: EventGroup.PARTITION_TABLE,
    EventType.EV_EFI_BOOT_SERVICES_APPLICATION: EventGroup.PROGRAMS,
    EventType.EV_EFI_ACTION: EventGroup.EXIT,
}


def rtmr1_from_disk(release: Edk2Release, started: Sequence[MeasuredEvent]) -> list[RegisterEvent]:
    """The register of a boot from disk; ``started`` is all from the first program that firmware starts."""
    return _ordered(release.rtmr1_disk, _grouped(started))


def rtmr1_direct(release: Edk2Release, started: Sequence[MeasuredEvent]) -> list[RegisterEvent]:
    """The register of a direct boot; ``started`` has the kernel as its only program."""
    groups = _grouped(started)
    return _ordered(release.rtmr1_direct, {**groups, EventGroup.KERNEL: groups[EventGroup.PROGRAMS]})


def _grouped(started: Sequence[MeasuredEvent]) -> dict[EventGroup, list[RegisterEvent]]:
    groups: dict[EventGroup, list[RegisterEvent]] = {
        EventGroup.CALLING: in_trust_domain(ready_to_boot_events()),
        EventGroup.SEPARATOR: [separator(_REGISTER)],
        **{group: [] for group in _GROUP_OF_TYPE.values()},
    }
    for event in in_trust_domain(started):
        if event.register == _REGISTER.register:
            groups[_GROUP_OF_TYPE[EventType[event.event_type]]].append(event)
    return groups


def _ordered(
    order: Sequence[EventGroup], groups: Mapping[EventGroup, Sequence[RegisterEvent]]
) -> list[RegisterEvent]:
    return [event for group in order for event in groups[group]]
