"""Parts of a machine shape beyond memory, processors, disks and network cards::

[[numa]]                    # nodes share out all memory and all processors
memory = "1GiB"
cpus = [0, 1]
[[smbios]]                  # strings that QEMU puts into SMBIOS tables
type = 1                    # 1, 2, 3, 4, 11 or 17, with QEMU's names of the fields
manufacturer = "Example"
[[device]]                  # any other PCI device of QEMU that needs no back end
model = "virtio-scsi-pci"
slot = 8                    # by default the next free one from 8
root-port = false           # true: behind a PCI Express root port in that slot
options = { iommu_platform = "on" }
[[pxb]]                     # a further PCI Express root bus
slot = 24                   # by default the next free one from 24
bus = 32                    # its bus number
numa-node = 0               # the node that it belongs to; left out for none
[[gpu]]                     # a passed-through GPU behind a root port; [[nvswitch]] is the same
slot = 20                   # slot of the root port, by default the next free one from 20
bars = ["16MiB", "128GiB"]  # sizes of its 64-bit memory windows, which decide about PCI windows
pxb = 0                     # the root bus that its port is on, counted from 0; left out for the first
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from measurements.shape_values import (
    bad,
    check_range,
    flag,
    integer,
    memory,
    refuse_unknown,
    split_flag,
    text,
)

FIRST_SLOT, LAST_SLOT = 1, 30
FIRST_DEVICE_SLOT, FIRST_PORT_SLOT, FIRST_PXB_SLOT = 8, 20, 24
MAX_BAR_MIB = 1 << 24
MAX_FUNCTIONS = 8

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_PRINTABLE = re.compile(r"[ -~]*")
_BACKED = frozenset(
    ["drive", "netdev", "chardev", "fsdev", "memdev", "tpmdev", "audiodev", "iommufd", "host"]
)
_RESERVED = frozenset(["id", "bus", "addr", "bootindex", "multifunction"])

_SMBIOS_FIELDS: Mapping[int, tuple[str, ...]] = {
    1: ("manufacturer", "product", "version", "serial", "uuid", "sku", "family"),
    2: ("manufacturer", "product", "version", "serial", "asset", "location"),
    3: ("manufacturer", "version", "serial", "asset", "sku"),
    4: ("sock_pfx", "manufacturer", "version", "serial", "asset", "part"),
    11: ("value",),
    17: ("loc_pfx", "bank", "manufacturer", "serial", "asset", "part"),
}
"""Structures and their fields of text in QEMU's ``-smbios`` (qemu-system-x86_64(1))."""


class PassedKind(StrEnum):
    """What a device of the host is that the guest gets as a whole."""

    GPU = "gpu"
    NVSWITCH = "nvswitch"


@dataclass(frozen=True, kw_only=True, slots=True)
class NumaNode:
    """A NUMA node: MiB of memory, and the numbers of its processors."""

    memory_mib: int
    cpus: tuple[int, ...]

    def as_json(self) -> dict[str, object]:
        """The node in the keys of ``shape.toml``."""
        return {"memory": f"{self.memory_mib}MiB", "cpus": list(self.cpus)}


@dataclass(frozen=True, kw_only=True, slots=True)
class SmbiosStrings:
    """Strings for one SMBIOS structure: QEMU's names of fields with their texts, in the given order."""

    type: int
    fields: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        known = _SMBIOS_FIELDS.get(self.type)
        if known is None:
            kinds = ", ".join(map(str, _SMBIOS_FIELDS))
            raise bad("smbios.type", f"type {self.type} cannot be given", f"use one of: {kinds}")
        if not self.fields:
            raise bad("smbios", f"type {self.type} has no field", f"give one of: {', '.join(known)}")
        for name, value in self.fields:
            refuse_unknown({name: value}, known, subject="smbios")
            if _PRINTABLE.fullmatch(value) is None:
                raise bad(f"smbios.{name}", f"{value!r} is not printable ASCII", "use letters and digits")

    def as_json(self) -> dict[str, object]:
        """The structure in the keys of ``shape.toml``; what is given several times is a list."""
        values: dict[str, list[str]] = {}
        for name, value in self.fields:
            values.setdefault(name, []).append(value)
        return {"type": self.type} | {
            name: found[0] if len(found) == 1 else found for name, found in values.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtraDevice:
    """A PCI device without back end: QEMU's model, its slot, QEMU's options for it."""

    model: str
    slot: int = FIRST_DEVICE_SLOT
    root_port: bool = False
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.model) is None:
            raise bad("device.model", f"{self.model!r} is not a model of QEMU", "see qemu -device help")
        for name, value in self.options:
            if name in _RESERVED:
                raise bad("device.options", f"{name} is set by keyturn", "use slot and root-port")
            if name in _BACKED:
                raise bad("device.options", f"{name} needs a back end", "use [[disk]], [[nic]] or [[gpu]]")
            if _NAME.fullmatch(name) is None or _PRINTABLE.fullmatch(value) is None or "," in value:
                raise bad("device.options", f"{name}={value} is not an option", "write name = 'value'")

    def as_json(self) -> dict[str, object]:
        """The device in the keys of ``shape.toml``."""
        found: dict[str, object] = {"model": self.model, "slot": self.slot}
        if self.root_port:
            found["root-port"] = True
        if self.options:
            found["options"] = dict(self.options)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Pxb:
    """A further PCI Express root bus: its slot on the first one, its bus number, its NUMA node."""

    slot: int = FIRST_PXB_SLOT
    bus: int
    numa_node: int | None = None

    def __post_init__(self) -> None:
        check_range("pxb.bus", self.bus, 2, 254)

    def as_json(self) -> dict[str, object]:
        """The bus in the keys of ``shape.toml``."""
        node = {} if self.numa_node is None else {"numa-node": self.numa_node}
        return {"slot": self.slot, "bus": self.bus, **node}


@dataclass(frozen=True, kw_only=True, slots=True)
class PassedDevice:
    """A device of the host behind a root port: the port's slot, MiB of each 64-bit window, index of the root
    bus (None: the first).
    """

    kind: PassedKind
    slot: int = FIRST_PORT_SLOT
    bars_mib: tuple[int, ...]
    pxb: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.bars_mib) <= MAX_FUNCTIONS:
            raise bad(
                f"{self.kind}.bars",
                f"{len(self.bars_mib)} windows cannot be",
                f'give 1 to {MAX_FUNCTIONS} sizes, such as ["16MiB", "128GiB", "32MiB"] (see lspci -v)',
            )
        for size in self.bars_mib:
            check_range(f"{self.kind}.bars", size, 1, MAX_BAR_MIB, unit=" MiB")
            if size & (size - 1):
                raise bad(f"{self.kind}.bars", f"{size} MiB is not a power of two", "see lspci -v")

    def as_json(self) -> dict[str, object]:
        """The device in the keys of ``shape.toml``."""
        bus = {} if self.pxb is None else {"pxb": self.pxb}
        return {"slot": self.slot, "bars": [f"{size}MiB" for size in self.bars_mib], **bus}


def numa_node(table: Mapping[str, object]) -> NumaNode:
    """A node of a ``[[numa]]`` table."""
    refuse_unknown(table, ("memory", "cpus"), subject="numa")
    cpus = table.get("cpus", [])
    if not isinstance(cpus, list):
        raise bad("numa.cpus", f"{cpus!r} is not a list of numbers", "write cpus = [0, 1]")
    return NumaNode(
        memory_mib=memory(table.get("memory", ""), subject="numa.memory"),
        cpus=tuple(integer(cpu, subject="numa.cpus") for cpu in cpus),
    )


def smbios_strings(table: Mapping[str, object]) -> SmbiosStrings:
    """A structure of an ``[[smbios]]`` table."""
    fields: list[tuple[str, str]] = []
    for name, value in table.items():
        if name != "type":
            values = value if isinstance(value, list) else [value]
            fields += [(name, text(each, subject=f"smbios.{name}")) for each in values]
    return SmbiosStrings(type=integer(table.get("type"), subject="smbios.type"), fields=tuple(fields))


def parse_smbios(flag_text: str) -> SmbiosStrings:
    """A structure of the flag form ``type=1,manufacturer=Example``."""
    pairs = [part.partition("=")[::2] for part in flag_text.split(",")]
    kind = dict(pairs).get("type")
    return SmbiosStrings(
        type=integer(kind, subject="--smbios type"),
        fields=tuple(pair for pair in pairs if pair[0] != "type"),
    )


def extra_device(table: Mapping[str, object], index: int) -> ExtraDevice:
    """A device of a ``[[device]]`` table."""
    refuse_unknown(table, ("model", "slot", "root-port", "options"), subject="device")
    options = table.get("options", {})
    if not isinstance(options, dict):
        raise bad("device.options", f"{options!r} is not a table", "write options = { name = 'value' }")
    return ExtraDevice(
        model=text(table.get("model"), subject="device.model"),
        slot=integer(table.get("slot", FIRST_DEVICE_SLOT + index), subject="device.slot"),
        root_port=flag(table.get("root-port", False), subject="device.root-port"),
        options=tuple((name, text(value, subject=f"device.{name}")) for name, value in options.items()),
    )


def parse_device(flag_text: str, *, index: int) -> ExtraDevice:
    """A device of the flag form ``MODEL[,slot=9][,root-port=on][,option=value…]``."""
    model, options = split_flag(flag_text, known=None, subject="--device")
    slot = options.pop("slot", str(FIRST_DEVICE_SLOT + index))
    port = options.pop("root-port", "off")
    if port not in ("on", "off"):
        raise bad("--device", f"root-port={port} is neither on nor off", "write root-port=on")
    return ExtraDevice(
        model=model,
        slot=integer(slot, subject="--device slot"),
        root_port=port == "on",
        options=tuple(options.items()),
    )


def pxb(table: Mapping[str, object], index: int) -> Pxb:
    """A root bus of a ``[[pxb]]`` table."""
    refuse_unknown(table, ("slot", "bus", "numa-node"), subject="pxb")
    node = table.get("numa-node")
    return Pxb(
        slot=integer(table.get("slot", FIRST_PXB_SLOT + index), subject="pxb.slot"),
        bus=integer(table.get("bus"), subject="pxb.bus"),
        numa_node=None if node is None else integer(node, subject="pxb.numa-node"),
    )


def passed_device(kind: PassedKind, table: Mapping[str, object], index: int) -> PassedDevice:
    """A device of a ``[[gpu]]`` or ``[[nvswitch]]`` table; ``index`` counts both."""
    refuse_unknown(table, ("slot", "bars", "pxb"), subject=kind)
    bars = table.get("bars", [])
    bus = table.get("pxb")
    return PassedDevice(
        kind=kind,
        slot=integer(table.get("slot", FIRST_PORT_SLOT + index), subject=f"{kind}.slot"),
        bars_mib=tuple(
            memory(size, subject=f"{kind}.bars") for size in (bars if isinstance(bars, list) else [bars])
        ),
        pxb=None if bus is None else integer(bus, subject=f"{kind}.pxb"),
    )
