"""Boot entries, against the bytes of real event logs."""

from __future__ import annotations

import hashlib
from uuid import UUID

import pytest

from measurements.boot_entries import (
    MENU_FILE,
    SETUP_FILE,
    SHELL_FILE,
    boot_entries,
    boot_events,
    boot_order,
)
from measurements.efi_variable import GLOBAL_VARIABLE, EfiVariable
from measurements.events import Bank
from measurements.firmware_volume import FirmwareError, FirmwareVolume
from measurements.ovmf import Firmware
from measurements.shape import BootOrder, BootSource, Disk, MachineShape, Nic, NicModel, ShapeError
from measurements.varstore import VariableStore

NETWORK = {UUID(int=1): "UefiPxeBcDxe", UUID(int=2): "HttpBootDxe", UUID(int=3): "Ip6Dxe"}
OLD = {SETUP_FILE: "UiApp", SHELL_FILE: "Shell", **NETWORK}
NEW = {MENU_FILE: "BootManagerMenuApp", **OLD}
FRESH = VariableStore(variables=())


def _firmware(files: dict[UUID, str]) -> Firmware:
    volume = FirmwareVolume(data=b"", name=None, files_at=0)
    return Firmware(name="test.fd", sha256="0" * 64, pei=volume, dxe=volume, pei_modules=(), dxe_files=files)


def test_known_digests_of_the_log() -> None:
    events = boot_events(_firmware(OLD), MachineShape(), FRESH)
    assert [event.digests[Bank.SHA256].hex()[:16] for event in events] == [
        "263d99957c7b574c",
        "674194f300ba1e54",
        "3197be1e300fa160",
        "4d387b02d63b2f4c",
    ]
    order = boot_events(_firmware(OLD), MachineShape(boot_order=BootOrder.FIRMWARE), FRESH)[0]
    assert order.digests[Bank.SHA256] == hashlib.sha256(bytes.fromhex("000001000200")).digest()


def test_new_boot_manager_has_a_menu_and_hidden_entries() -> None:
    shape = MachineShape()
    entries = boot_entries(_firmware(NEW), shape)
    assert [(entry.attributes, entry.description) for entry in entries] == [
        (0x109, "BootManagerMenuApp"),
        (0x101, "EFI Firmware Setup"),
        (0x001, "UEFI Misc Device"),
        (0x101, "EFI Internal Shell"),
    ]
    assert boot_order(entries, shape) == [2, 0, 1, 3]


def test_a_kernel_from_the_host_starts_before_devices_get_entries() -> None:
    shape = MachineShape(boot=BootSource.DIRECT, nics=(Nic(),), boot_order=BootOrder.FIRMWARE)
    for files, count in ((OLD, 1), (NEW, 2)):
        entries = boot_entries(_firmware(files), shape)
        assert [entry.device for entry in entries] == [False] * count
        assert boot_order(entries, shape) == list(range(count))


def test_firmware_order_shows_every_device() -> None:
    shape = MachineShape(
        boot_order=BootOrder.FIRMWARE,
        disks=(Disk(slot=9), Disk(slot=4)),
        nics=(
            Nic(slot=16),
            Nic(slot=17, model=NicModel.E1000E),
        ),
    )
    entries = boot_entries(_firmware(OLD), shape)
    assert [entry.description for entry in entries] == [
        "UiApp",
        "UEFI Misc Device",
        "UEFI Misc Device 2",
        "UEFI PXEv4 (MAC:525400123456)",
        "UEFI PXEv6 (MAC:525400123456)",
        "UEFI HTTPv4 (MAC:525400123456)",
        "UEFI HTTPv6 (MAC:525400123456)",
        "EFI Internal Shell",
    ]
    assert boot_order(entries, shape) == list(range(8))
    assert entries[1].path[17] == 4
    assert entries[6].path.hex() == (
        "02010c00d041030a00000000010106000010030b25005254001234560000000000000000000000000000000000"
        "00000000000000000001030d3c0000000000000000000000000000000000000000000000000000000000000000"
        "00000000000000004000000000000000000000000000000000031804007fff0400"
    )


def test_disk_order_hides_other_devices() -> None:
    shape = MachineShape(disks=(Disk(slot=9), Disk(slot=4)), nics=(Nic(),))
    entries = boot_entries(_firmware(OLD), shape)
    assert [entry.description for entry in entries] == ["UiApp", "UEFI Misc Device", "EFI Internal Shell"]
    assert entries[1].path[17] == 9


def test_build_without_shell_and_network() -> None:
    shape = MachineShape(boot_order=BootOrder.FIRMWARE, nics=(Nic(),))
    entries = boot_entries(_firmware({SETUP_FILE: "UiApp"}), shape)
    assert [entry.description for entry in entries] == ["UiApp", "UEFI Misc Device"]


def test_entries_of_an_earlier_boot_are_refused() -> None:
    store = VariableStore(variables=(EfiVariable(name="Boot0001", vendor=GLOBAL_VARIABLE, data=b"x"),))
    with pytest.raises(FirmwareError, match="already holds Boot0001"):
        boot_events(_firmware(OLD), MachineShape(), store)


def test_unknown_boot_manager_is_refused() -> None:
    with pytest.raises(FirmwareError, match="boot manager that is not known"):
        boot_entries(_firmware({}), MachineShape())


def test_entries_of_boot_roms_are_refused() -> None:
    shape = MachineShape(boot_order=BootOrder.FIRMWARE, nics=(Nic(rom=True),))
    with pytest.raises(ShapeError, match="not predicted"):
        boot_entries(_firmware(OLD), shape)
