"""What QEMU offers to a trust domain's firmware: the items of real machines, with and without a kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from measurements.acpi_dump import acpi_dump
from measurements.errors import FormatError
from measurements.firmware_catalogue import hypervisor
from measurements.fw_cfg import FirmwareConfig
from measurements.idle_machine import IdleMachineError
from measurements.qemu import QemuProgram
from measurements.shape import BootOrder, BootSource, Disk, MachineShape, TpmInterface
from measurements.tdx.machine_reader import offered_items, parse_qemu_version, tdx_machine
from measurements.tdx.predict import TdxFirmware, predict_tdx
from measurements.tdx.rtmr0 import FW_CFG_ITEMS
from tests.measurements.tdx.kernel_files import bzimage
from tests.measurements.tdx.qemu_halted import halted
from tests.measurements.tdx.tdx_boots import DIRECT, image, ubuntu_firmware
from tests.support.debian_packages import debian_package
from tests.support.tools import require_tool

LOADER = b"/rom@genroms/linuxboot_dma.bin"
DISK = ("-blockdev", "null-co,node-name=d", "-device", "virtio-blk-pci,drive=d,addr=3,bootindex=1")


@pytest.fixture(scope="module")
def program() -> QemuProgram:
    return QemuProgram(command=(require_tool("qemu-system-x86_64", package="qemu-system-x86"),))


@pytest.mark.parametrize("disk", [(), DISK], ids=["no disk", "disk"])
def test_the_boot_order_of_a_direct_boot_is_that_of_qemu(
    program: QemuProgram, tmp_path: Path, disk: tuple[str, ...]
) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bzimage())
    with halted(program, *disk) as config:
        derived = offered_items(items(config), direct=True)
        without = offered_items(items(config), direct=False)
    with halted(program, *disk, "-kernel", str(kernel)) as config:
        assert derived["bootorder"] == config.read("bootorder")
        assert offered_items(items(config), direct=True) == derived
    assert derived["bootorder"].startswith(LOADER)
    assert without["bootorder"] == (b"/pci@i0cf8/scsi@3/disk@0,0\0" if disk else b"")
    assert derived["BootMenu"] == bytes(2)


def items(config: FirmwareConfig) -> dict[str, bytes]:
    return {name: config.read(name) for name in FW_CFG_ITEMS if name in config.files}


def shape(**changes: Any) -> MachineShape:
    return MachineShape(tpm=TpmInterface.NONE, memory_mib=512, **changes)


def test_a_shape_that_qemu_refuses_is_an_error(program: QemuProgram) -> None:
    with pytest.raises(IdleMachineError):
        acpi_dump(shape(machine="pc-q35-1.0"), program)


def test_stubs_that_measure_smbios_need_it(program: QemuProgram) -> None:
    dump = acpi_dump(shape(), program)
    on = tdx_machine(shape(), hypervisor("qemu"), dump)
    assert on.qemu_version == parse_qemu_version(dump.qemu_version)
    assert on.acpi_origin == dump.origin
    newest = replace(image(), run=replace(image().run, version=262))
    (found,) = predict_tdx(ubuntu_firmware(), on, newest)
    last = [event for event in found.events if event.register == "rtmr0"][-1]
    assert last.description.startswith("SMBIOS structure")
    with pytest.raises(FormatError, match="SMBIOS tables: are not given, but this UKI's stub measures them"):
        predict_tdx(ubuntu_firmware(), replace(on, smbios=None), newest)


@pytest.mark.network
def test_newest_firmware_is_predicted_with_what_qemu_offers(program: QemuProgram) -> None:
    path = next(debian_package("ovmf-generic", suite="sid").rglob("OVMF.fd"))
    firmware = TdxFirmware.parse(path.read_bytes(), name="OVMF.fd")
    assert firmware.facts.bios is not None
    disk = shape(disks=(Disk(slot=3),), boot_order=BootOrder.DISK)
    on = tdx_machine(disk, hypervisor("qemu"), acpi_dump(disk, program))
    (found,) = predict_tdx(firmware, on, image())
    described = [event.description for event in found.events if event.register == "rtmr0"]
    assert described[2:4] == ["QEMU fw_cfg item BootMenu", "QEMU fw_cfg item bootorder"]
    assert "SMBIOS tables" in described
    assert described.index("SMBIOS tables") == [text[:9] for text in described].index("BootOrder") - 1
    diskless = shape(boot=BootSource.DIRECT, disks=())
    other = tdx_machine(diskless, hypervisor("qemu"), acpi_dump(diskless, program))
    (direct,) = predict_tdx(firmware, other, DIRECT)
    assert direct.registers["rtmr0"] != found.registers["rtmr0"]
    assert other.fw_cfg is not None
    assert other.fw_cfg["bootorder"] == LOADER + b"\0"


@pytest.mark.parametrize(
    ("text", "version"), [("10.0.13", (10, 0)), ("7.2.22 (Debian 1:7.2+dfsg-7)", (7, 2)), ("11.1", (11, 1))]
)
def test_versions_of_qemu(text: str, version: tuple[int, int]) -> None:
    assert parse_qemu_version(text) == version


@pytest.mark.parametrize("text", ["", "QEMU 9", "9"])
def test_other_texts_are_no_version(text: str) -> None:
    with pytest.raises(FormatError, match="version of QEMU"):
        parse_qemu_version(text)
