"""Near misses: machine shapes that differ from the predicted one in one choice of the host.

If a boot's firmware registers are those of a neighbour, the neighbour's one difference is the cause, and it
can be named exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from measurements.alignment import ALGORITHMS
from measurements.errors import KeyturnError
from measurements.eventlog import EventLog
from measurements.events import Bank, EventType, MeasuredEvent
from measurements.predict_tpm import FirmwareInputs, platform_events
from measurements.shape import (
    BootOrder,
    CpuVendor,
    Disk,
    MachineShape,
    Nic,
    TpmInterface,
)

MEMORY_MIB = (512, 1024, 2048, 3072, 4096, 8192, 16384, 32768, 65536)
CPUS = (1, 2, 4, 8, 16)
_FIRMWARE_PCRS = (0, 1, 2)


def neighbours(shape: MachineShape) -> Iterator[tuple[str, MachineShape]]:
    """Shapes with one other choice, each with the choice in words, the most frequent ones first."""
    for memory in MEMORY_MIB:
        yield f"memory is {memory} MiB", replace(shape, memory_mib=memory)
    for cpus in CPUS:
        yield f"there are {cpus} CPUs", replace(shape, cpus=cpus)
    slots = {disk.slot for disk in shape.disks} | {nic.slot for nic in shape.nics}
    if Nic().slot not in slots:
        yield "there is a further network card", replace(shape, nics=(*shape.nics, Nic()))
    if shape.nics:
        yield "a network card is missing", replace(shape, nics=shape.nics[:-1])
    if len(shape.disks) > 1:
        yield "a disk is missing", replace(shape, disks=shape.disks[:-1])
    spare = Disk(slot=max(disk.slot for disk in shape.disks) + 1)
    if spare.slot not in slots:
        yield "there is a further disk", replace(shape, disks=(*shape.disks, spare))
    for tpm in TpmInterface:
        yield f"the TPM's interface is {tpm.value}", replace(shape, tpm=tpm)
    for vendor in CpuVendor:
        yield f"the CPU's vendor is {vendor.value}", replace(shape, cpu_vendor=vendor)
    for order in BootOrder:
        yield f"the boot order is decided by {order.value}", replace(shape, boot_order=order)


def matching_neighbours(log: EventLog, firmware: FirmwareInputs, shape: MachineShape) -> list[str]:
    """The choices, in words, that make the firmware's events those of ``log``; a shape that cannot be
    predicted is passed over.
    """
    booted = _booted(log)
    found: list[str] = []
    for words, neighbour in neighbours(shape):
        if neighbour == shape:
            continue
        try:
            platform = platform_events(firmware, neighbour)
        except KeyturnError:
            continue
        if _predicted([*platform.code, *platform.configuration], log) == booted:
            found.append(words)
    return found


def _booted(log: EventLog) -> list[tuple[int, list[bytes]]]:
    return [
        (event.pcr, [event.digests.get(ALGORITHMS[bank], b"") for bank in _banks(log)])
        for event in log.events
        if event.extends and event.pcr in _FIRMWARE_PCRS and event.event_type != EventType.EV_SEPARATOR
    ]


def _predicted(events: list[MeasuredEvent], log: EventLog) -> list[tuple[int, list[bytes]]]:
    return [(event.pcr, [event.digests[bank] for bank in _banks(log)]) for event in events]


def _banks(log: EventLog) -> list[Bank]:
    return [bank for bank, algorithm in ALGORITHMS.items() if algorithm in log.algorithms]
