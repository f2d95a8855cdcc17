"""What a halted QEMU tells: ACPI tables, SMBIOS tables, option ROMs."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from measurements.acpi_tables import acpi_events, pci_window, read_acpi
from measurements.idle_machine import IdleMachine, IdleMachineError, idle_machine
from measurements.option_roms import option_rom_events
from measurements.qemu import QemuProgram
from measurements.qtest import QtestError
from measurements.shape import CpuVendor, MachineShape, Nic, NicModel, TpmInterface
from measurements.smbios import TABLES, parse_structures
from tests.support.tools import require_tool, unavailable

GIB = 1 << 30


@pytest.fixture(scope="module")
def program() -> QemuProgram:
    require_tool("swtpm", package="swtpm")
    return QemuProgram(command=(require_tool("qemu-system-x86_64", package="qemu-system-x86"),))


def _tables(blob: bytes) -> dict[str, bytes]:
    tables: dict[str, bytes] = {}
    position = 0
    while blob[position : position + 4].strip(b"\0"):
        (size,) = struct.unpack_from("<I", blob, position + 4)
        tables[blob[position : position + 4].decode("ascii")] = blob[position : position + size]
        position += size
    return tables


def test_tables_are_those_of_a_programmed_machine(program: QemuProgram) -> None:
    shape = MachineShape(memory_mib=1024, cpus=3)
    started = time.monotonic()
    with idle_machine(shape, program) as machine:
        files = read_acpi(machine, shape)
        window = pci_window(machine.config, shape)
    assert time.monotonic() - started < 5
    assert [name for name, _ in files.files] == ["etc/acpi/rsdp", "etc/tpm/log", "etc/acpi/tables"]
    tables = _tables(dict(files.files)["etc/acpi/tables"])
    assert {"FACP", "APIC", "DSDT", "MCFG", "TPM2"} <= tables.keys()
    assert struct.unpack_from("<Q", tables["MCFG"], 44) == (0xE0000000,)
    assert struct.unpack_from("<I", tables["FACP"], 56) == (0x600,)
    assert tables["APIC"].count(b"\x00\x08") >= 3
    assert struct.pack("<Q", window) in tables["DSDT"]


def test_window_moves_below_reserved_ranges(program: QemuProgram) -> None:
    amd, intel = MachineShape(), MachineShape(cpu_vendor=CpuVendor.INTEL)
    with idle_machine(amd, program) as machine:
        assert pci_window(machine.config, amd) == 768 * GIB
    with idle_machine(intel, program) as machine:
        assert pci_window(machine.config, intel) == 32 * GIB


@pytest.mark.parametrize(
    "other",
    [
        MachineShape(nics=(Nic(),)),
        MachineShape(cpus=2),
        MachineShape(tpm=TpmInterface.TIS),
        MachineShape(smm=True),
        MachineShape(cpu_vendor=CpuVendor.INTEL),
    ],
)
def test_shapes_differ_in_their_tables(program: QemuProgram, other: MachineShape) -> None:
    digests = []
    for shape in (MachineShape(), MachineShape(), other):
        with idle_machine(shape, program) as machine:
            events = acpi_events(read_acpi(machine, shape), qemu_version=machine.qemu_version)
        digests.append([event.digests for event in events])
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_boot_rom_is_read_from_the_card(program: QemuProgram) -> None:
    shape = MachineShape(nics=(Nic(model=NicModel.E1000E, rom=True), Nic(slot=17)))
    rom = Path("/usr/lib/ipxe/qemu/efi-e1000e.rom")
    if not rom.is_file():
        unavailable(f"{rom} is not installed (package ipxe-qemu)")
    with idle_machine(shape, program) as machine:
        (event,) = option_rom_events(machine, shape)
    assert event.pcr == 2
    assert "e1000e in slot 16" in event.description


def test_smbios_structures(program: QemuProgram) -> None:
    with idle_machine(MachineShape(cpus=2), program) as machine:
        structures = list(parse_structures(machine.config.read(TABLES)))
    assert [structure.fields[0] for structure in structures].count(4) == 1
    assert structures[-1].fields[0] == 127
    assert b"QEMU" in structures[0].strings


def test_file_that_is_not_offered(program: QemuProgram) -> None:
    def read(machine: IdleMachine) -> bytes:
        return machine.config.read("etc/nothing")

    with idle_machine(MachineShape(), program) as machine, pytest.raises(QtestError, match="no such file"):
        read(machine)


def test_program_that_is_no_qemu() -> None:
    require_tool("swtpm", package="swtpm")
    with (
        pytest.raises(IdleMachineError, match="QEMU did not start"),
        idle_machine(MachineShape(), QemuProgram(command=("/bin/false",))),
    ):
        pass
