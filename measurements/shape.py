"""Machine shape: everything the host chooses that firmware measures.

A shape comes from flags or from a ``shape.toml``::

    memory = "2GiB"             # MiB or GiB
    cpus = 1
    machine = "q35"             # or a versioned one, pc-q35-7.2
    tpm = "crb"                 # or tis
    cpu-vendor = "AuthenticAMD" # or GenuineIntel
    smm = false                 # on for firmware with protected variables (secboot builds)
    boot-order = "disk"         # the boot disk first (bootindex); or "firmware": whatever the firmware finds
    [[disk]]                    # the first disk is the boot disk
    model = "virtio-blk-pci"
    slot = 3                    # PCI device number on the root bus; by default the next free one from 3
    [[nic]]
    model = "virtio-net-pci"
    slot = 16                   # by default the next free one from 16
    mac = "52:54:00:12:34:56"
    rom = false                 # true: the card carries its boot ROM, which firmware measures

Further keys, given only where a machine differs from the usual one::

    boot = "direct"             # the host gives kernel, initrd and command line; by default "disk"
    tpm = "none"
    phys-bits = 46              # width of physical addresses; by default 40
    hpet = false                # no high precision timer
    pic = false                 # no legacy interrupt controller
    serial = false              # no serial port, and so no console
    sleep = true                # states S3 and S4 are offered
    acpi-hotplug = false        # no hot plug of PCI devices by way of ACPI
    pci-hole64 = "4096GiB"      # least size of the 64-bit PCI window
    hugepages = true            # memory of huge pages; alone it is one NUMA node

and the tables of ``shape_devices``: numa, smbios, device, pxb, gpu, nvswitch.

Every device has a fixed PCI address, because firmware puts it into the boot entries that it measures.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from measurements import shape_devices, shape_values
from measurements.shape_devices import (
    FIRST_SLOT,
    LAST_SLOT,
    ExtraDevice,
    NumaNode,
    PassedDevice,
    PassedKind,
    Pxb,
    SmbiosStrings,
)
from measurements.shape_values import ShapeError as ShapeError
from measurements.shape_values import bad, check_range, split_flag
from measurements.shape_values import parse_memory as parse_memory

FIRST_DISK_SLOT = 3
FIRST_NIC_SLOT = 16
MAX_CPUS = 255
MIN_MEMORY_MIB = 256
MAX_MEMORY_MIB = 1 << 22
MIN_PHYS_BITS, MAX_PHYS_BITS = 36, 52

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MACHINE = re.compile(r"(pc-)?q35(-[0-9]+\.[0-9]+)?|pc-q35-[a-z]+(-v[0-9]+\.[0-9]+)?")
KNOWN_KEYS = (
    *("memory", "cpus", "machine", "tpm", "cpu-vendor", "smm", "boot-order", "disk", "nic"),
    *("boot", "phys-bits", "hpet", "pic", "serial", "sleep", "acpi-hotplug", "pci-hole64", "hugepages"),
    *("numa", "smbios", "device", "pxb", "gpu", "nvswitch"),
)


class TpmInterface(StrEnum):
    """The register interface of the TPM."""

    CRB = "crb"
    TIS = "tis"
    NONE = "none"


class DiskModel(StrEnum):
    """Disk controllers whose boot entries are predicted."""

    VIRTIO_BLK = "virtio-blk-pci"


class NicModel(StrEnum):
    """Network cards whose boot entries are predicted."""

    VIRTIO_NET = "virtio-net-pci"
    E1000E = "e1000e"


class CpuVendor(StrEnum):
    """What the guest's processor says that it is; firmware derives the PCI windows from it."""

    AMD = "AuthenticAMD"
    INTEL = "GenuineIntel"


class BootOrder(StrEnum):
    """Who decides the boot order."""

    DISK = "disk"
    FIRMWARE = "firmware"


class BootSource(StrEnum):
    """Where the kernel comes from: a disk, or directly from the host."""

    DISK = "disk"
    DIRECT = "direct"


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """One disk: controller model and PCI device number on the root bus."""

    model: DiskModel = DiskModel.VIRTIO_BLK
    slot: int = FIRST_DISK_SLOT


@dataclass(frozen=True, kw_only=True, slots=True)
class Nic:
    """One network card; ``mac`` is lower case with colons; ``rom``: it carries its boot ROM."""

    model: NicModel = NicModel.VIRTIO_NET
    slot: int = FIRST_NIC_SLOT
    mac: str = "52:54:00:12:34:56"
    rom: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineShape:
    """What the host chooses; checked when made, so that a shape that exists can be described to QEMU."""

    memory_mib: int = 2048
    cpus: int = 1
    machine: str = "q35"
    tpm: TpmInterface = TpmInterface.CRB
    cpu_vendor: CpuVendor = CpuVendor.AMD
    smm: bool = False
    boot_order: BootOrder = BootOrder.DISK
    disks: tuple[Disk, ...] = field(default=(Disk(),))
    nics: tuple[Nic, ...] = ()
    boot: BootSource = BootSource.DISK
    phys_bits: int = 40
    hpet: bool = True
    pic: bool = True
    serial: bool = True
    sleep: bool = False
    acpi_hotplug: bool = True
    pci_hole64_mib: int | None = None
    hugepages: bool = False
    numa: tuple[NumaNode, ...] = ()
    smbios: tuple[SmbiosStrings, ...] = ()
    devices: tuple[ExtraDevice, ...] = ()
    pxbs: tuple[Pxb, ...] = ()
    passed: tuple[PassedDevice, ...] = ()

    def __post_init__(self) -> None:
        check_range("memory", self.memory_mib, MIN_MEMORY_MIB, MAX_MEMORY_MIB, unit=" MiB")
        check_range("cpus", self.cpus, 1, MAX_CPUS)
        check_range("phys-bits", self.phys_bits, MIN_PHYS_BITS, MAX_PHYS_BITS)
        if self.pci_hole64_mib is not None:
            check_range("pci-hole64", self.pci_hole64_mib, 0, 1 << 30, unit=" MiB")
        if _MACHINE.fullmatch(self.machine) is None:
            raise bad(
                "machine", f"{self.machine!r} is not a q35 machine", "use q35 or a version such as pc-q35-7.2"
            )
        if not self.disks and self.boot is BootSource.DISK:
            raise bad("disk", "there is no disk to boot from", "give at least one disk")
        self._check_slots()
        self._check_numa()
        for nic in self.nics:
            if _MAC.fullmatch(nic.mac) is None or int(nic.mac[:2], 16) & 1:
                raise bad(
                    "nic.mac", f"{nic.mac!r} is not a unicast MAC address", "write it as 52:54:00:12:34:56"
                )

    def _check_slots(self) -> None:
        taken: set[tuple[int | None, int]] = set()
        for bus, slot in self._places():
            check_range("slot", slot, FIRST_SLOT, LAST_SLOT)
            if (bus, slot) in taken:
                raise bad("slot", f"two devices are in PCI slot {slot}", "give every device its own slot")
            if bus is not None and not 0 <= bus < len(self.pxbs):
                raise bad("pxb", f"there is no root bus {bus}", "describe it with [[pxb]]; the first is 0")
            taken.add((bus, slot))

    def _places(self) -> Iterator[tuple[int | None, int]]:
        """Root bus (None: the first one) and slot of every device."""
        yield from ((None, disk.slot) for disk in self.disks)
        yield from ((None, nic.slot) for nic in self.nics)
        yield from ((None, device.slot) for device in self.devices)
        yield from ((None, pxb.slot) for pxb in self.pxbs)
        for passed in self.passed:
            yield passed.pxb, passed.slot

    def _check_numa(self) -> None:
        nodes = self.numa_nodes
        cpus = sorted(cpu for node in nodes for cpu in node.cpus)
        if nodes and cpus != list(range(self.cpus)):
            raise bad("numa.cpus", "do not name every processor once", f"share out 0 to {self.cpus - 1}")
        if nodes and sum(node.memory_mib for node in nodes) != self.memory_mib:
            raise bad("numa.memory", "does not add up to the memory", f"share out {self.memory_mib} MiB")
        for bus in self.pxbs:
            if bus.numa_node is not None and not 0 <= bus.numa_node < len(nodes):
                raise bad("pxb.numa-node", f"there is no node {bus.numa_node}", "describe it with [[numa]]")

    @property
    def numa_nodes(self) -> tuple[NumaNode, ...]:
        """The NUMA nodes that the machine has: huge pages alone make one of everything."""
        if self.numa or not self.hugepages:
            return self.numa
        return (NumaNode(memory_mib=self.memory_mib, cpus=tuple(range(self.cpus))),)

    def as_json(self) -> dict[str, object]:
        """The shape in the keys of ``shape.toml``; the further keys only where they are not the default."""
        return {
            "memory": f"{self.memory_mib}MiB",
            "cpus": self.cpus,
            "machine": self.machine,
            "tpm": self.tpm.value,
            "cpu-vendor": self.cpu_vendor.value,
            "smm": self.smm,
            "boot-order": self.boot_order.value,
            "disk": [{"model": disk.model.value, "slot": disk.slot} for disk in self.disks],
            "nic": [
                {"model": nic.model.value, "slot": nic.slot, "mac": nic.mac, "rom": nic.rom}
                for nic in self.nics
            ],
            **self._further_json(),
        }

    def _further_json(self) -> dict[str, object]:
        default = MachineShape()
        hole = None if self.pci_hole64_mib is None else f"{self.pci_hole64_mib}MiB"
        values: dict[str, tuple[object, object]] = {
            "boot": (self.boot.value, default.boot.value),
            "phys-bits": (self.phys_bits, default.phys_bits),
            "hpet": (self.hpet, default.hpet),
            "pic": (self.pic, default.pic),
            "serial": (self.serial, default.serial),
            "sleep": (self.sleep, default.sleep),
            "acpi-hotplug": (self.acpi_hotplug, default.acpi_hotplug),
            "pci-hole64": (hole, None),
            "hugepages": (self.hugepages, default.hugepages),
        }
        lists = {
            "numa": [node.as_json() for node in self.numa],
            "smbios": [strings.as_json() for strings in self.smbios],
            "device": [device.as_json() for device in self.devices],
            "pxb": [pxb.as_json() for pxb in self.pxbs],
            "gpu": [device.as_json() for device in self.passed if device.kind is PassedKind.GPU],
            "nvswitch": [device.as_json() for device in self.passed if device.kind is PassedKind.NVSWITCH],
        }
        return {key: value for key, (value, usual) in values.items() if value != usual} | {
            key: parts for key, parts in lists.items() if parts
        }


def parse_disk(text: str, *, index: int) -> Disk:
    """A disk of the flag form ``virtio-blk-pci[,slot=4]``; ``index`` is its place, for the default slot."""
    model, options = split_flag(text, known=("slot",), subject="--disk")
    slot = (
        shape_values.integer(options["slot"], subject="--disk slot")
        if "slot" in options
        else FIRST_DISK_SLOT + index
    )
    return Disk(model=shape_values.choice(DiskModel, model, subject="--disk"), slot=slot)


def parse_nic(text: str, *, index: int) -> Nic:
    """A card of the flag form ``virtio-net-pci[,slot=17][,mac=…][,rom=on|off]``."""
    model, options = split_flag(text, known=("slot", "mac", "rom"), subject="--nic")
    slot = (
        shape_values.integer(options["slot"], subject="--nic slot")
        if "slot" in options
        else FIRST_NIC_SLOT + index
    )
    rom = options.get("rom", "off")
    if rom not in ("on", "off"):
        raise bad("--nic", f"rom={rom} is neither on nor off", "write rom=on or rom=off")
    return Nic(
        model=shape_values.choice(NicModel, model, subject="--nic"),
        slot=slot,
        mac=options.get("mac", default_mac(index)).lower(),
        rom=rom == "on",
    )


def default_mac(index: int) -> str:
    """The address of the card number ``index`` when none is given: QEMU's own default, counted up."""
    return f"52:54:00:12:34:{0x56 + index:02x}"


def read_shape(path: Path) -> MachineShape:
    """The shape in a ``shape.toml``."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise ShapeError(
            f"cannot be read: {problem}", subject=str(path), advice="give a TOML file"
        ) from problem
    return shape_from_mapping(document)


def shape_from_mapping(document: Mapping[str, object]) -> MachineShape:
    """The shape in a parsed ``shape.toml``; an unknown key is refused with the nearest known one."""
    shape_values.refuse_unknown(document, KNOWN_KEYS, subject="shape")
    reader = _Reader(document)
    default = MachineShape()
    boot = reader.choice(BootSource, "boot", default.boot)
    disks = tuple(_disk_of(table, index) for index, table in enumerate(reader.tables("disk")))
    return MachineShape(
        memory_mib=reader.memory("memory", default.memory_mib),
        cpus=reader.integer("cpus", default.cpus),
        machine=shape_values.text(document.get("machine", default.machine), subject="machine"),
        tpm=reader.choice(TpmInterface, "tpm", default.tpm),
        cpu_vendor=reader.choice(CpuVendor, "cpu-vendor", default.cpu_vendor),
        smm=reader.flag("smm", default.smm),
        boot_order=reader.choice(BootOrder, "boot-order", default.boot_order),
        disks=disks or (default.disks if boot is BootSource.DISK else ()),
        nics=tuple(_nic_of(table, index) for index, table in enumerate(reader.tables("nic"))),
        boot=boot,
        phys_bits=reader.integer("phys-bits", default.phys_bits),
        hpet=reader.flag("hpet", default.hpet),
        pic=reader.flag("pic", default.pic),
        serial=reader.flag("serial", default.serial),
        sleep=reader.flag("sleep", default.sleep),
        acpi_hotplug=reader.flag("acpi-hotplug", default.acpi_hotplug),
        pci_hole64_mib=reader.memory("pci-hole64", 0) if "pci-hole64" in document else None,
        hugepages=reader.flag("hugepages", default.hugepages),
        numa=tuple(map(shape_devices.numa_node, reader.tables("numa"))),
        smbios=tuple(map(shape_devices.smbios_strings, reader.tables("smbios"))),
        devices=tuple(
            shape_devices.extra_device(table, index) for index, table in enumerate(reader.tables("device"))
        ),
        pxbs=tuple(shape_devices.pxb(table, index) for index, table in enumerate(reader.tables("pxb"))),
        passed=_passed_of(reader),
    )


class _Reader:
    """Values of a document by key."""

    def __init__(self, document: Mapping[str, object]) -> None:
        self._document = document

    def memory(self, key: str, default: int) -> int:
        return shape_values.memory(self._document.get(key, default), subject=key)

    def integer(self, key: str, default: int) -> int:
        return shape_values.integer(self._document.get(key, default), subject=key)

    def flag(self, key: str, default: bool) -> bool:
        return shape_values.flag(self._document.get(key, default), subject=key)

    def choice(
        self, kind: type[shape_values.Choice], key: str, default: shape_values.Choice
    ) -> shape_values.Choice:
        return shape_values.choice(kind, self._document.get(key, default), subject=key)

    def tables(self, key: str) -> list[Mapping[str, object]]:
        return shape_values.tables(self._document, key)


def _passed_of(reader: _Reader) -> tuple[PassedDevice, ...]:
    found = [(kind, table) for kind in PassedKind for table in reader.tables(kind.value)]
    return tuple(shape_devices.passed_device(kind, table, index) for index, (kind, table) in enumerate(found))


def _disk_of(table: Mapping[str, object], index: int) -> Disk:
    shape_values.refuse_unknown(table, ("model", "slot"), subject="disk")
    return Disk(
        model=shape_values.choice(DiskModel, table.get("model", DiskModel.VIRTIO_BLK), subject="disk.model"),
        slot=shape_values.integer(table.get("slot", FIRST_DISK_SLOT + index), subject="disk.slot"),
    )


def _nic_of(table: Mapping[str, object], index: int) -> Nic:
    shape_values.refuse_unknown(table, ("model", "slot", "mac", "rom"), subject="nic")
    return Nic(
        model=shape_values.choice(NicModel, table.get("model", NicModel.VIRTIO_NET), subject="nic.model"),
        slot=shape_values.integer(table.get("slot", FIRST_NIC_SLOT + index), subject="nic.slot"),
        mac=shape_values.text(table.get("mac", default_mac(index)), subject="nic.mac").lower(),
        rom=shape_values.flag(table.get("rom", False), subject="nic.rom"),
    )
