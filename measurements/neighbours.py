"""Machine shapes that differ from a predicted one in one choice of the host, as changes for the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from measurements.near_miss import Change, NearMissKind
from measurements.shape import (
    BootOrder,
    CpuVendor,
    Disk,
    MachineShape,
    Nic,
    TpmInterface,
)

MEMORY_MIB = (512, 1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768, 65536, 131072, 262144)
CPUS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
QEMU_VERSIONS = ("7.2", "8.0", "8.1", "8.2", "9.0", "9.1", "9.2", "10.0", "10.1", "10.2", "11.0", "11.1")
"""Versions whose machine types are tried; a QEMU refuses those that it does not have."""

ADDRESS_BITS = (36, 39, 40, 42, 46, 48, 52)

_SWITCHES = {
    "hpet": "the high precision timer (HPET)",
    "pic": "the legacy interrupt controller (PIC)",
    "serial": "the serial port",
    "sleep": "offering of the sleep states S3 and S4",
    "acpi_hotplug": "hot plug by way of ACPI",
}
"""Fields of a shape that are on or off."""

ShapeChange = Callable[[MachineShape], MachineShape]


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """One other choice of the host, in words, and the shape that has it."""

    kind: NearMissKind
    words: str
    shape: ShapeChange


def neighbours(shape: MachineShape) -> Iterator[Neighbour]:
    """Other choices for a machine of ``shape``, the most frequent ones first."""
    for memory in MEMORY_MIB:
        yield _neighbour(NearMissKind.MEMORY, f"memory is {memory} MiB", memory_mib=memory)
    for cpus in CPUS:
        words = f"there are {cpus} CPUs" if cpus > 1 else "there is 1 CPU"
        yield _neighbour(NearMissKind.CPUS, words, cpus=cpus)
    for version in QEMU_VERSIONS:
        words = f"the machine is that of QEMU {version}"
        yield _neighbour(NearMissKind.QEMU_VERSION, words, machine=f"pc-q35-{version}")
    yield from _devices(shape)
    for name, what in _SWITCHES.items():
        on = not getattr(shape, name)
        yield _neighbour(NearMissKind.MACHINE_SWITCH, f"{what} is {'on' if on else 'off'}", **{name: on})
    for bits in ADDRESS_BITS:
        words = f"physical addresses have {bits} bits"
        yield _neighbour(NearMissKind.ADDRESS_BITS, words, phys_bits=bits)
    for tpm in (TpmInterface.CRB, TpmInterface.TIS):
        yield _neighbour(NearMissKind.TPM_INTERFACE, f"the TPM's interface is {tpm.value}", tpm=tpm)
    for vendor in CpuVendor:
        words = f"the CPU's vendor is {vendor.value}"
        yield _neighbour(NearMissKind.CPU_VENDOR, words, cpu_vendor=vendor)
    for order in BootOrder:
        words = f"the boot order is decided by {order.value}"
        yield _neighbour(NearMissKind.BOOT_ORDER, words, boot_order=order)


def shape_changes(
    shape: MachineShape, registers: Callable[[NearMissKind], frozenset[str]], *, costly: bool
) -> Iterator[Change[Any]]:
    """The neighbours of ``shape`` as changes of inputs with a field ``shape``; ``registers`` says which
    registers a kind can change, and a kind with none is left out.
    """
    for neighbour in neighbours(shape):
        changed = registers(neighbour.kind)
        if changed:
            yield Change(
                kind=neighbour.kind,
                words=neighbour.words,
                registers=changed,
                inputs=_inputs_with(neighbour.shape),
                costly=costly,
            )


def _devices(shape: MachineShape) -> Iterator[Neighbour]:
    slots = {disk.slot for disk in shape.disks} | {nic.slot for nic in shape.nics}
    if Nic().slot not in slots:
        words = "there is a further network card"
        yield _neighbour(NearMissKind.NIC, words, nics=(*shape.nics, Nic()))
    if shape.nics:
        yield _neighbour(NearMissKind.NIC, "a network card is missing", nics=shape.nics[:-1])
    if len(shape.disks) > 1:
        yield _neighbour(NearMissKind.DISK, "a disk is missing", disks=shape.disks[:-1])
    spare = Disk(slot=max((disk.slot for disk in shape.disks), default=Disk().slot) + 1)
    if spare.slot not in slots:
        yield _neighbour(NearMissKind.DISK, "there is a further disk", disks=(*shape.disks, spare))


def _neighbour(kind: NearMissKind, words: str, **fields: Any) -> Neighbour:
    def changed(shape: MachineShape) -> MachineShape:
        return replace(shape, **fields)

    return Neighbour(kind=kind, words=words, shape=changed)


def _inputs_with(change: ShapeChange) -> Callable[[Any], Any]:
    def changed(inputs: Any) -> Any:
        return replace(inputs, shape=change(inputs.shape))

    return changed
