"""What of a machine's ACPI tables depends on which choice of the host: found by reading the tables of
machines that differ in one choice, not by rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from measurements.acpi_blob import LOADER, AcpiTable, parse_tables
from measurements.acpi_dump import AcpiDump, AcpiMethod, acpi_dump
from measurements.idle_machine import IdleMachineError
from measurements.qemu import QemuProgram
from measurements.shape import CpuVendor, Disk, MachineShape, Nic, ShapeError, TpmInterface
from measurements.shape_devices import LAST_SLOT, ExtraDevice, SmbiosStrings

_OTHER_VERSIONS = 2
_MORE_MIB, _HIGH_MIB = 512, 8192
_OTHER_BITS, _OTHER_HOLE_MIB = (40, 46), 1 << 17


@dataclass(frozen=True, kw_only=True, slots=True)
class TableChange:
    """One table that differs: its signature, which of several it is (from 0), and where its bytes differ, as
    ranges of offsets in it (start, end). ``ranges`` is empty where its length differs or it came or went.
    """

    signature: str
    number: int
    ranges: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        name = self.signature + (f" {self.number}" if self.number else "")
        places = ", ".join(f"{start:#x}-{end - 1:#x}" for start, end in self.ranges)
        return f"{name} at {places}" if places else name


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependency:
    """What another choice at ``key`` changes: names of files, and tables. ``refused`` has QEMU's words where
    it makes no such machine.
    """

    key: str
    choice: str
    files: tuple[str, ...] = ()
    tables: tuple[TableChange, ...] = ()
    refused: str = ""


def dependencies(shape: MachineShape, program: QemuProgram) -> Iterator[Dependency]:
    """One dependency for each machine of ``variants``; raises ``ShapeError`` for a shape whose tables an idle
    machine does not give.
    """
    base = acpi_dump(shape, program, method=AcpiMethod.IDLE)
    for key, choice, other in variants(shape, qemu_version=base.qemu_version):
        try:
            dump = acpi_dump(other, program, method=AcpiMethod.IDLE)
        except (IdleMachineError, ShapeError) as refusal:
            yield Dependency(key=key, choice=choice, refused=refusal.reason)
            continue
        yield difference(base, dump, key=key, choice=choice)


def difference(old: AcpiDump, new: AcpiDump, *, key: str, choice: str) -> Dependency:
    """What differs between two dumps, as the effect of ``choice`` at ``key``."""
    return Dependency(
        key=key,
        choice=choice,
        files=changed_files(old, new),
        tables=tuple(changed_tables(old.files.tables, new.files.tables)),
    )


def variants(shape: MachineShape, *, qemu_version: str) -> Iterator[tuple[str, str, MachineShape]]:
    """Machines that differ from ``shape`` in one choice: its key, the other choice in words, the shape."""
    if not shape.numa:
        memory = shape.memory_mib + _MORE_MIB
        yield "memory", f"{memory} MiB", replace(shape, memory_mib=memory)
        if shape.memory_mib < _HIGH_MIB:
            yield "memory", f"{_HIGH_MIB} MiB", replace(shape, memory_mib=_HIGH_MIB)
        yield "cpus", str(shape.cpus + 1), replace(shape, cpus=shape.cpus + 1)
        yield "hugepages", _word(not shape.hugepages), replace(shape, hugepages=not shape.hugepages)
    for name in _machine_versions(qemu_version):
        if name != shape.machine:
            yield "machine", name, replace(shape, machine=name)
    yield from _switches(shape)
    yield from _devices(shape)


def _switches(shape: MachineShape) -> Iterator[tuple[str, str, MachineShape]]:
    for tpm in TpmInterface:
        if tpm is not shape.tpm:
            yield "tpm", tpm.value, replace(shape, tpm=tpm)
    for vendor in CpuVendor:
        if vendor is not shape.cpu_vendor:
            yield "cpu-vendor", vendor.value, replace(shape, cpu_vendor=vendor)
    for key, on, other in (
        ("smm", not shape.smm, replace(shape, smm=not shape.smm)),
        ("hpet", not shape.hpet, replace(shape, hpet=not shape.hpet)),
        ("pic", not shape.pic, replace(shape, pic=not shape.pic)),
        ("serial", not shape.serial, replace(shape, serial=not shape.serial)),
        ("sleep", not shape.sleep, replace(shape, sleep=not shape.sleep)),
        ("acpi-hotplug", not shape.acpi_hotplug, replace(shape, acpi_hotplug=not shape.acpi_hotplug)),
    ):
        yield key, _word(on), other
    bits = next(bits for bits in _OTHER_BITS if bits != shape.phys_bits)
    yield "phys-bits", str(bits), replace(shape, phys_bits=bits)
    hole = _OTHER_HOLE_MIB if shape.pci_hole64_mib != _OTHER_HOLE_MIB else None
    words = "QEMU's own" if hole is None else f"{hole} MiB"
    yield "pci-hole64", words, replace(shape, pci_hole64_mib=hole)


def _devices(shape: MachineShape) -> Iterator[tuple[str, str, MachineShape]]:
    slot = _free_slot(shape)
    if slot is not None:
        place = f"a further one in slot {slot}"
        port = ExtraDevice(model="virtio-rng-pci", slot=slot, root_port=True)
        yield "disk", place, replace(shape, disks=(*shape.disks, Disk(slot=slot)))
        yield "nic", place, replace(shape, nics=(*shape.nics, Nic(slot=slot)))
        yield "device", f"{place}, behind a root port", replace(shape, devices=(*shape.devices, port))
    strings = SmbiosStrings(type=1, fields=(("product", "Another"),))
    yield "smbios", "another product name", replace(shape, smbios=(*shape.smbios, strings))


def _free_slot(shape: MachineShape) -> int | None:
    parts: list[Sequence[Disk | Nic | ExtraDevice]] = [shape.disks, shape.nics, shape.devices]
    taken = {device.slot for devices in parts for device in devices}
    return next((slot for slot in range(LAST_SLOT, 0, -1) if slot not in taken), None)


def _machine_versions(qemu_version: str) -> list[str]:
    """Machine types of this release of QEMU and of those before it (three releases have a major number)."""
    major, minor = (int(part) for part in qemu_version.split(".")[:2])
    names = []
    for _ in range(_OTHER_VERSIONS):
        major, minor = (major, minor - 1) if minor else (major - 1, 2)
        names.append(f"pc-q35-{major}.{minor}")
    return names


def _word(on: bool) -> str:
    return "true" if on else "false"


def changed_files(old: AcpiDump, new: AcpiDump) -> tuple[str, ...]:
    """Names of the measured files that differ, came or went, in the order in which they are measured."""
    before = dict([(LOADER, old.files.loader), *old.files.files])
    after = dict([(LOADER, new.files.loader), *new.files.files])
    return tuple(name for name in before | after if before.get(name) != after.get(name))


def changed_tables(old: bytes, new: bytes) -> Iterator[TableChange]:
    """The tables that differ between two blobs; raises ``FormatError``."""
    before, after = _by_name(parse_tables(old)), _by_name(parse_tables(new))
    for name in before | after:
        one, other = before.get(name, b""), after.get(name, b"")
        if one != other:
            ranges = _ranges(one, other) if len(one) == len(other) else ()
            yield TableChange(signature=name[0], number=name[1], ranges=tuple(ranges))


def _by_name(tables: Sequence[AcpiTable]) -> dict[tuple[str, int], bytes]:
    found: dict[tuple[str, int], bytes] = {}
    for table in tables:
        number = sum(name == table.signature for name, _ in found)
        found[table.signature, number] = table.content
    return found


def _ranges(one: bytes, other: bytes) -> Iterator[tuple[int, int]]:
    start: int | None = None
    for index, (left, right) in enumerate(zip(one, other, strict=True)):
        if left != right and start is None:
            start = index
        elif left == right and start is not None:
            yield start, index
            start = None
    if start is not None:
        yield start, len(one)
