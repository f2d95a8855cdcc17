"""Tables after a run of firmware: equal to the idle machine's where that is said, and had where it is not.

Each case runs OVMF 2025.02 or 2026.08 once by emulation, on the QEMU of one of three Debian releases.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from measurements.acpi_blob import AcpiFiles, derive_files, parse_tables
from measurements.acpi_dry_boot import DryBootError, dry_boot
from measurements.acpi_dump import AcpiDump, AcpiMethod, acpi_dump, choose_method
from measurements.acpi_tables import idle_limits, read_acpi
from measurements.events import Provenance
from measurements.idle_machine import idle_machine
from measurements.ovmf import read_firmware
from measurements.qemu import QemuProgram
from measurements.qemu_args import DryBootFirmware
from measurements.shape import BootSource, CpuVendor, MachineShape, Nic, ShapeError, TpmInterface
from measurements.shape_devices import ExtraDevice, PassedDevice, PassedKind, Pxb
from tests.support.debian_packages import debian_package, debian_tree
from tests.support.foreign_qemu import foreign_qemu
from tests.support.tools import require_tool

pytestmark = pytest.mark.boot

GPU = PassedDevice(kind=PassedKind.GPU, bars_mib=(16, 1024), pxb=0)


def _program(suite: str) -> QemuProgram:
    require_tool("swtpm", package="swtpm")
    if suite != "installed":
        return foreign_qemu(suite)
    return QemuProgram(command=(require_tool("qemu-system-x86_64", package="qemu-system-x86"),))


def _firmware(name: str = "OVMF_CODE_4M.fd", *, suite: str = "trixie") -> DryBootFirmware:
    # In unstable the files are in packages that ovmf depends on.
    tree = debian_tree("ovmf", suite=suite) if suite == "sid" else debian_package("ovmf", suite=suite)
    folder = tree / "usr/share/OVMF"
    return DryBootFirmware(code=folder / name, variables=folder / "OVMF_VARS_4M.fd")


def _idle(shape: MachineShape, program: QemuProgram) -> AcpiFiles:
    with idle_machine(shape, program) as machine:
        return read_acpi(machine, shape)


@pytest.mark.parametrize(
    ("suite", "code", "shape"),
    [
        pytest.param(
            "installed",
            "OVMF_CODE_4M.fd",
            MachineShape(
                memory_mib=4096,
                cpus=2,
                hugepages=True,
                nics=(Nic(),),
                devices=(ExtraDevice(model="virtio-rng-pci", root_port=True),),
            ),
            id="huge pages and a root port on the installed QEMU",
        ),
        pytest.param(
            "trixie",
            "OVMF_CODE_4M.secboot.fd",
            MachineShape(smm=True, cpus=2, tpm=TpmInterface.TIS),
            id="SMM on QEMU 10.0",
        ),
        pytest.param(
            "sid",
            "OVMF_CODE_4M.fd",
            MachineShape(
                memory_mib=3072,
                tpm=TpmInterface.NONE,
                cpu_vendor=CpuVendor.INTEL,
                phys_bits=52,
                boot=BootSource.DIRECT,
                disks=(),
                hpet=False,
                pic=False,
                serial=False,
                sleep=True,
                acpi_hotplug=False,
                pci_hole64_mib=4 << 20,
                devices=(ExtraDevice(model="virtio-scsi-pci"),),
            ),
            id="a TDX host's machine on QEMU 11.1 with OVMF 2026.08",
        ),
    ],
)
def test_an_idle_machine_shows_what_firmware_gets(suite: str, code: str, shape: MachineShape) -> None:
    program = _program(suite)
    firmware = _firmware(code, suite="trixie" if suite == "installed" else suite)
    assert choose_method(shape, firmware=firmware) is AcpiMethod.IDLE
    idle = _idle(shape, program)
    dumped = acpi_dump(shape, program, firmware=firmware, method=AcpiMethod.DRY_BOOT)
    assert dumped.files == idle
    assert dumped.files == derive_files(dumped.files.tables)
    assert dumped.provenance is Provenance.DRY_BOOT
    assert "after a dry boot of OVMF_CODE_4M" in dumped.origin


@pytest.fixture(scope="module")
def second_bus() -> AcpiDump:
    """A GPU behind a root port on a second root bus, with the method that is chosen for it."""
    shape = MachineShape(memory_mib=4096, hugepages=True, pxbs=(Pxb(bus=32, numa_node=0),), passed=(GPU,))
    return acpi_dump(shape, _program("installed"), firmware=_firmware())


def test_a_second_root_bus_needs_the_firmware(second_bus: AcpiDump) -> None:
    assert second_bus.method is AcpiMethod.DRY_BOOT
    assert second_bus.files == derive_files(second_bus.files.tables)
    tables = {table.signature: table.content for table in parse_tables(second_bus.files.tables)}
    assert b"PC20" in tables["DSDT"]
    assert "SRAT" in tables
    assert second_bus.items["etc/extra-pci-roots"] == (1).to_bytes(8, "little")


def test_replaced_devices_are_named_in_the_origin(second_bus: AcpiDump) -> None:
    assert len(second_bus.replaced) == 1
    for event in second_bus.events():
        assert event.provenance is Provenance.DRY_BOOT
        assert "gpu behind the port in slot 20 of root bus 0 is replaced by pci-testdev" in event.origin


def test_room_behind_root_ports_needs_the_firmware() -> None:
    port = ExtraDevice(model="virtio-rng-pci", root_port=True)
    shape = MachineShape(tpm=TpmInterface.NONE, phys_bits=46, devices=(port,))
    program = _program("trixie")
    dumped = acpi_dump(shape, program, firmware=_firmware())
    assert dumped.method is AcpiMethod.DRY_BOOT
    assert dumped.files.tables != _idle(shape, program).tables


def test_early_firmware_is_not_taken_for_a_current_one() -> None:
    firmware = _firmware(suite="bookworm")
    shape, program = MachineShape(tpm=TpmInterface.NONE), _program("installed")
    limits = idle_limits(shape, read_firmware(firmware.code).dxe)
    assert limits is not None
    with pytest.raises(ShapeError, match=limits):
        choose_method(shape, firmware=firmware, wanted=AcpiMethod.IDLE)
    with dry_boot(shape, program, firmware) as machine:
        blob = machine.config.read("etc/acpi/tables")
    found = {table.signature: table.content for table in parse_tables(blob)}
    assert struct.unpack_from("<Q", found["MCFG"], 44) == (0xB0000000,)
    idle = _idle(shape, program).tables
    assert [a.signature for a, b in zip(parse_tables(idle), parse_tables(blob), strict=True) if a != b] == [
        "DSDT",
        "MCFG",
    ]


def test_firmware_that_is_none_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measurements.acpi_dry_boot.BOOT_SECONDS", 2)
    code = tmp_path / "halt.fd"
    # At the reset vector, 16 bytes before the end: hlt, and a jump back to it.
    code.write_bytes(bytes((1 << 20) - 16) + b"\xf4\xeb\xfd".ljust(16, b"\0"))
    firmware = DryBootFirmware(code=code)
    shape, program = MachineShape(tpm=TpmInterface.NONE), _program("installed")
    assert choose_method(shape, firmware=firmware) is AcpiMethod.DRY_BOOT
    with pytest.raises(DryBootError, match="did not come to its boot manager") as caught:
        acpi_dump(shape, program, firmware=firmware)
    assert caught.value.subject == str(code)


def test_missing_firmware_is_named(tmp_path: Path) -> None:
    firmware = DryBootFirmware(code=tmp_path / "absent.fd")
    with (
        pytest.raises(DryBootError, match="no such file"),
        dry_boot(MachineShape(), QemuProgram(command=("/bin/false",)), firmware),
    ):
        pass
