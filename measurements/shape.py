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

Every device has a fixed PCI address, because firmware puts it into the boot entries that it measures.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, TypeVar

from measurements.errors import KeyturnError

FIRST_DISK_SLOT = 3
FIRST_NIC_SLOT = 16
LAST_SLOT = 27
MAX_CPUS = 255
MIN_MEMORY_MIB = 256
MAX_MEMORY_MIB = 1 << 22

_Choice = TypeVar("_Choice", bound=StrEnum)

_MEMORY = re.compile(r"([0-9]+)\s*(MiB|GiB|M|G)?")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MACHINE = re.compile(r"(pc-)?q35(-[0-9]+\.[0-9]+)?|pc-q35-[a-z]+(-v[0-9]+\.[0-9]+)?")


class ShapeError(KeyturnError):
    """A machine shape that cannot be."""

    code = "shape"


class TpmInterface(StrEnum):
    """The register interface of the TPM."""

    CRB = "crb"
    TIS = "tis"


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
    """What the host chooses; checked when made, so that a shape that exists can be started."""

    memory_mib: int = 2048
    cpus: int = 1
    machine: str = "q35"
    tpm: TpmInterface = TpmInterface.CRB
    cpu_vendor: CpuVendor = CpuVendor.AMD
    smm: bool = False
    boot_order: BootOrder = BootOrder.DISK
    disks: tuple[Disk, ...] = field(default=(Disk(),))
    nics: tuple[Nic, ...] = ()

    PHYSICAL_BITS: ClassVar[int] = 40
    """Width of physical addresses, the one that every QEMU accelerator offers."""

    def __post_init__(self) -> None:
        _check_range("memory", self.memory_mib, MIN_MEMORY_MIB, MAX_MEMORY_MIB, unit=" MiB")
        _check_range("cpus", self.cpus, 1, MAX_CPUS)
        if _MACHINE.fullmatch(self.machine) is None:
            raise _bad(
                "machine", f"{self.machine!r} is not a q35 machine", "use q35 or a version such as pc-q35-7.2"
            )
        if not self.disks:
            raise _bad("disk", "there is no disk to boot from", "give at least one disk")
        self._check_slots()
        for nic in self.nics:
            if _MAC.fullmatch(nic.mac) is None or int(nic.mac[:2], 16) & 1:
                raise _bad(
                    "nic.mac", f"{nic.mac!r} is not a unicast MAC address", "write it as 52:54:00:12:34:56"
                )

    def _check_slots(self) -> None:
        taken: set[int] = set()
        for slot in [disk.slot for disk in self.disks] + [nic.slot for nic in self.nics]:
            _check_range("slot", slot, FIRST_DISK_SLOT, LAST_SLOT)
            if slot in taken:
                raise _bad("slot", f"two devices are in PCI slot {slot}", "give every device its own slot")
            taken.add(slot)

    def as_json(self) -> dict[str, object]:
        """The shape in the keys of ``shape.toml``."""
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
        }


def parse_memory(text: str) -> int:
    """MiB of ``2048``, ``2048MiB``, ``2GiB`` or ``2G``."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise _bad("memory", f"{text!r} is not a memory size", "write it as 2048MiB or 2GiB")
    return int(match[1]) * (1024 if (match[2] or "").startswith("G") else 1)


def parse_disk(text: str, *, index: int) -> Disk:
    """A disk of the flag form ``virtio-blk-pci[,slot=4]``; ``index`` is its place, for the default slot."""
    model, options = _split_flag(text, known=("slot",), subject="--disk")
    slot = _integer(options["slot"], subject="--disk slot") if "slot" in options else FIRST_DISK_SLOT + index
    return Disk(model=_choice(DiskModel, model, subject="--disk"), slot=slot)


def parse_nic(text: str, *, index: int) -> Nic:
    """A card of the flag form ``virtio-net-pci[,slot=17][,mac=…][,rom=on|off]``."""
    model, options = _split_flag(text, known=("slot", "mac", "rom"), subject="--nic")
    slot = _integer(options["slot"], subject="--nic slot") if "slot" in options else FIRST_NIC_SLOT + index
    rom = options.get("rom", "off")
    if rom not in ("on", "off"):
        raise _bad("--nic", f"rom={rom} is neither on nor off", "write rom=on or rom=off")
    return Nic(
        model=_choice(NicModel, model, subject="--nic"),
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
    known = ("memory", "cpus", "machine", "tpm", "cpu-vendor", "smm", "boot-order", "disk", "nic")
    _refuse_unknown(document, known, subject="shape")
    default = MachineShape()
    disks = _tables(document, "disk")
    nics = _tables(document, "nic")
    return MachineShape(
        memory_mib=_memory(document["memory"]) if "memory" in document else default.memory_mib,
        cpus=_integer(document.get("cpus", default.cpus), subject="cpus"),
        machine=_text(document.get("machine", default.machine), subject="machine"),
        tpm=_choice(TpmInterface, document.get("tpm", default.tpm), subject="tpm"),
        cpu_vendor=_choice(CpuVendor, document.get("cpu-vendor", default.cpu_vendor), subject="cpu-vendor"),
        smm=_flag(document.get("smm", default.smm), subject="smm"),
        boot_order=_choice(BootOrder, document.get("boot-order", default.boot_order), subject="boot-order"),
        disks=tuple(_disk_of(table, index) for index, table in enumerate(disks)) or default.disks,
        nics=tuple(_nic_of(table, index) for index, table in enumerate(nics)),
    )


def _disk_of(table: Mapping[str, object], index: int) -> Disk:
    _refuse_unknown(table, ("model", "slot"), subject="disk")
    return Disk(
        model=_choice(DiskModel, table.get("model", DiskModel.VIRTIO_BLK), subject="disk.model"),
        slot=_integer(table.get("slot", FIRST_DISK_SLOT + index), subject="disk.slot"),
    )


def _nic_of(table: Mapping[str, object], index: int) -> Nic:
    _refuse_unknown(table, ("model", "slot", "mac", "rom"), subject="nic")
    return Nic(
        model=_choice(NicModel, table.get("model", NicModel.VIRTIO_NET), subject="nic.model"),
        slot=_integer(table.get("slot", FIRST_NIC_SLOT + index), subject="nic.slot"),
        mac=_text(table.get("mac", default_mac(index)), subject="nic.mac").lower(),
        rom=_flag(table.get("rom", False), subject="nic.rom"),
    )


def _bad(subject: str, reason: str, advice: str) -> ShapeError:
    return ShapeError(reason, subject=subject, advice=advice)


def _check_range(subject: str, value: int, low: int, high: int, *, unit: str = "") -> None:
    if not low <= value <= high:
        raise _bad(subject, f"{value}{unit} is out of range", f"give {low} to {high}{unit}")


def _refuse_unknown(document: Mapping[str, object], known: Iterable[str], *, subject: str) -> None:
    for key in document:
        if key not in known:
            nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)[0]
            raise _bad(subject, f"unknown key {key!r}", f"the nearest known key is {nearest!r}")


def _tables(document: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _bad(key, "is not a list of tables", f"write [[{key}]]")
    return tables


def _split_flag(text: str, *, known: tuple[str, ...], subject: str) -> tuple[str, dict[str, str]]:
    model, *parts = text.split(",")
    options = dict(part.partition("=")[::2] for part in parts)
    _refuse_unknown(options, known, subject=subject)
    return model, options


def _memory(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else parse_memory(str(value))


def _integer(value: object, *, subject: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(str(value), 0) if not isinstance(value, bool) else _not_a_number(value, subject)
    except ValueError:
        return _not_a_number(value, subject)


def _not_a_number(value: object, subject: str) -> int:
    raise _bad(subject, f"{value!r} is not a whole number", "give a whole number")


def _text(value: object, *, subject: str) -> str:
    if not isinstance(value, str):
        raise _bad(subject, f"{value!r} is not a string", "put it in quotes")
    return value


def _flag(value: object, *, subject: str) -> bool:
    if not isinstance(value, bool):
        raise _bad(subject, f"{value!r} is neither true nor false", "write true or false")
    return value


def _choice(kind: type[_Choice], value: object, *, subject: str) -> _Choice:
    try:
        return kind(str(value))
    except ValueError as problem:
        raise _bad(subject, f"{value!r} is not supported", f"use one of: {', '.join(kind)}") from problem
