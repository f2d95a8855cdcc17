"""The machine that dstack's host makes of a ``vm_config``, as a shape that an unmodified QEMU can be given.

dstack's host (``dstack/vmm/src/app/qemu.rs``) leaves PCI slots to QEMU, which fills them from 1 on: root
disk, data disk, network cards, vsock, then the share (9p, or another disk), verity volumes, then a root port
for each GPU and NVSwitch. All but the ports are virtio devices of one form, so their order does not show in
ACPI tables. Sleep states stay on, there is one serial port, no HPET and no TPM.

What stands in for what:

- a passed-through device is a small virtio device behind the same port: the tables hold the port, and the
  lowest 64-bit window of any device, which is where firmware starts its range, whatever the sizes are;
- vsock and 9p are replaced as ``stand_ins`` says.

The width of addresses is the host's and in no ``vm_config``. 46 bits give the tables of a public quote, with
firmware that keeps no room behind root ports: that is how dstack's own build of OVMF is.

What is not known is refused: huge pages (dstack's host and its own predictor disagree about the root buses),
a TPM, and QEMU before 9.2, because TDX hosts ran a patched one then, whose interrupts are edge-triggered in
the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from measurements.acpi_blob import RSDP, TABLES, AcpiFiles, parse_tables
from measurements.acpi_dump import AcpiDump, AcpiMethod, acpi_dump
from measurements.dstack.boot_log import AcpiDigests
from measurements.dstack.errors import DstackInputError
from measurements.dstack.predict import acpi_digests
from measurements.dstack.vm_config import VmConfig
from measurements.qemu import QemuProgram
from measurements.shape import BootSource, CpuVendor, Disk, MachineShape, Nic, TpmInterface, default_mac
from measurements.shape_devices import FIRST_SLOT, LAST_SLOT, ExtraDevice

MIB = 1 << 20
USUAL_PHYS_BITS = 46
UPSTREAM_SINCE = (9, 2)
"""The first QEMU whose tables on TDX hosts are those of the unmodified program."""

SAME_TABLES = {(9, 2): ((9, 2), (8, 2))}
"""Releases of QEMU whose tables are the same but for the flag of ``pic``, so that one can speak for another:
8.2.2 gives the tables of a public quote of 9.2.1, and between 8.2.2 and 10.0 nothing changed but the list of
processors to eject, which 9.2.1 does not have. Releases that are not listed speak for themselves only.
"""

PIC_FLAG_SINCE = (9, 1)
"""Before, QEMU set PCAT_COMPAT also without a PIC ("hw/i386/acpi: Set PCAT_COMPAT bit only when pic is not
disabled").
"""

_MADT_FLAGS_AT, _PCAT_COMPAT = 40, 1
_PORT_DEVICE = "virtio-rng-pci"


class Dumper(Protocol):
    """Reads what QEMU offers on a machine: ``acpi_dump``, or the same from a cache."""

    def __call__(self, shape: MachineShape, program: QemuProgram, *, method: AcpiMethod | None) -> AcpiDump:
        """The dump."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DstackAcpi:
    """The files for a machine, how they were had, and in words what stood in for what."""

    files: AcpiFiles
    digests: AcpiDigests
    notes: tuple[str, ...]


def vm_shape(config: VmConfig, *, machine: str = "q35", phys_bits: int = USUAL_PHYS_BITS) -> MachineShape:
    """The shape of the host's choices; raises ``DstackInputError`` for those that are not known."""
    _check_known(config)
    if config.memory % MIB:
        raise _unknown("memory_size is not whole MiB", "give the vm_config as the host wrote it")
    slots = iter(range(FIRST_SLOT, LAST_SLOT + 1))
    disks = 2 + config.verity_volumes + (config.share_mode in ("vvfat", "vhd"))
    ports = config.gpus + config.nvswitches
    plain = ["vhost-vsock-pci"] + ["virtio-9p-pci"] * (config.share_mode in ("", "9p"))
    needed = disks + config.nics + len(plain) + ports
    if needed > LAST_SLOT:
        raise _unknown(f"needs {needed} PCI slots, more than a root bus has", "use fewer devices")
    return MachineShape(
        memory_mib=config.memory // MIB,
        cpus=config.cpus,
        machine=machine,
        tpm=TpmInterface.NONE,
        cpu_vendor=CpuVendor.INTEL,
        boot=BootSource.DIRECT,
        disks=tuple(Disk(slot=next(slots)) for _ in range(disks)),
        nics=tuple(Nic(slot=next(slots), mac=default_mac(index)) for index in range(config.nics)),
        devices=(
            *(ExtraDevice(model=model, slot=next(slots)) for model in plain),
            *(ExtraDevice(model=_PORT_DEVICE, slot=next(slots), root_port=True) for _ in range(ports)),
        ),
        hpet=False,
        pic=config.pic,
        sleep=True,
        acpi_hotplug=not config.hotplug_off,
        pci_hole64_mib=config.pci_hole64 // MIB or None,
        phys_bits=phys_bits,
    )


def machine_acpi(
    config: VmConfig,
    program: QemuProgram,
    *,
    machine: str = "q35",
    phys_bits: int = USUAL_PHYS_BITS,
    dump: Dumper = acpi_dump,
) -> DstackAcpi:
    """The machine's ACPI files from an unmodified QEMU; ``dump`` may be one that keeps what it read.

    Raises ``DstackInputError`` if this release of QEMU does not speak for the host's, and the errors of
    ``acpi_dump``.
    """
    shape = vm_shape(config, machine=machine, phys_bits=phys_bits)
    found = dump(shape, program, method=AcpiMethod.IDLE_WITHOUT_ROOM)
    version = _version(found.qemu_version)
    wanted = config.qemu[:2]
    if version not in SAME_TABLES.get(wanted, (wanted,)):
        raise DstackInputError(
            f"is QEMU {found.qemu_version}, whose tables are not those of the host's "
            f"{'.'.join(map(str, config.qemu))}",
            subject=program.name,
            advice=f"give a QEMU {' or '.join(f'{a}.{b}' for a, b in SAME_TABLES.get(wanted, (wanted,)))}",
        )
    files = found.files
    notes = [*found.replaced, f"addresses of {phys_bits} bits, which vm_config does not tell"]
    if config.gpus + config.nvswitches:
        notes.append(f"passed-through devices are replaced by {_PORT_DEVICE} behind the same ports")
    if version != wanted:
        notes.append(f"QEMU {found.qemu_version} speaks for {'.'.join(map(str, config.qemu))}")
    if not config.pic and version < PIC_FLAG_SINCE:
        files = without_pic_flag(files)
        notes.append("the MADT's flag for a PIC is cleared, as QEMU does from 9.1 on")
    return DstackAcpi(files=files, digests=_digests(files, found, notes), notes=tuple(notes))


def without_pic_flag(files: AcpiFiles) -> AcpiFiles:
    """The files with PCAT_COMPAT (bit 0 of the MADT's flags, ACPI 6.5 section 5.2.12) cleared."""
    (madt,) = (table for table in parse_tables(files.tables) if table.signature == "APIC")
    tables = bytearray(files.tables)
    tables[madt.offset + _MADT_FLAGS_AT] &= ~_PCAT_COMPAT & 0xFF
    changed = {TABLES: bytes(tables)}
    return AcpiFiles(
        loader=files.loader, files=tuple((name, changed.get(name, data)) for name, data in files.files)
    )


def _digests(files: AcpiFiles, dump: AcpiDump, notes: list[str]) -> AcpiDigests:
    assert RSDP in dict(files.files)
    origin = "; ".join([f"ACPI generator of QEMU {dump.qemu_version} for this vm_config", *notes])
    return acpi_digests(files, origin=origin, provenance=dump.provenance)


def _check_known(config: VmConfig) -> None:
    if config.hugepages:
        raise _unknown(
            "has huge pages, whose root buses dstack's host and its predictor do not agree about",
            "give the tables' digests yourself",
        )
    if config.swtpm:
        raise _unknown("has a TPM, which no layout of dstack's log knows", "use a deployment without swtpm")
    if config.qemu[:2] < UPSTREAM_SINCE:
        raise _unknown(
            f"names QEMU {'.'.join(map(str, config.qemu))}; before 9.2 TDX hosts ran a patched one, whose "
            "tables an unmodified one does not give",
            "compare with a deployment on QEMU 9.2 or later",
        )


def _version(text: str) -> tuple[int, int]:
    major, minor, *_ = (int(part) for part in text.split(".")[:2])
    return major, minor


def _unknown(reason: str, advice: str) -> DstackInputError:
    return DstackInputError(reason, subject="vm_config", advice=advice)
