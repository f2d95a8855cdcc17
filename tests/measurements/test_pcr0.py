"""PCR 0: the platform information block, and the volume in the memory of real machines."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from measurements.events import Bank, Provenance, digests_of
from measurements.firmware_volume import FILE_PEI_CORE, FILE_PEIM, FirmwareVolume
from measurements.ovmf import MACHINE_X64, Firmware, Module, read_firmware
from measurements.pcr0 import Patch, apply_patches, code_events, computed_patches
from measurements.platform_info import HOST_BRIDGE_AT, address_space, platform_info
from measurements.qemu import Machine, MachineSpec
from measurements.qemu_args import DiskFile, FirmwareFiles
from measurements.shape import CpuVendor, MachineShape
from tests.support.firmware import installed_firmware
from tests.support.tools import require_tool

GIB = 1 << 30


def test_block_has_the_layout_of_edk2() -> None:
    block = platform_info(MachineShape(memory_mib=6144, cpus=4, cpu_vendor=CpuVendor.INTEL))
    assert len(block) == 138 + 2
    assert block[:24] == bytes(24)
    assert struct.unpack_from("<H", block, HOST_BRIDGE_AT) == (0x29C0,)
    assert struct.unpack_from("<QBI", block, 44) == (64 * GIB, 36, 0x80000000)
    assert struct.unpack_from("<QQII", block, 70) == (32 * GIB, 32 * GIB, 0xC0000000, 0x3C000000)
    assert struct.unpack_from("<III", block, 118) == (4, 4, 64)
    assert block[138:] == b"\1\1"


def test_block_with_smm() -> None:
    plain, guarded = platform_info(MachineShape()), platform_info(MachineShape(smm=True))
    assert [index for index in range(len(plain)) if plain[index] != guarded[index]] == [40, 41, 42]
    assert guarded[40:44] == b"\1\1\x10\0"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (MachineShape(), (896 * GIB, 128 * GIB, 64 * GIB, 40)),
        (MachineShape(cpu_vendor=CpuVendor.INTEL), (32 * GIB, 32 * GIB, 64 * GIB, 36)),
        (MachineShape(memory_mib=40 << 10, cpu_vendor=CpuVendor.INTEL), (64 * GIB, 32 * GIB, 96 * GIB, 37)),
        (MachineShape(memory_mib=900 << 10), (928 * GIB, 32 * GIB, 960 * GIB, 40)),
    ],
)
def test_pci_window(shape: MachineShape, expected: tuple[int, int, int, int]) -> None:
    assert address_space(shape) == expected


def _firmware(code: bytes, *, kind: int = FILE_PEIM, name: str = "PlatformPei") -> Firmware:
    image = code.ljust(0x400, b"\0")
    module = Module(name=name, kind=kind, start=0x100, image=image, machine=MACHINE_X64, image_base=0x820100)
    volume = FirmwareVolume(data=bytes(0x100) + image + bytes(0x100), name=None, files_at=0)
    return Firmware(
        name="test.fd", sha256="0" * 64, pei=volume, dxe=volume, pei_modules=(module,), dxe_files={}
    )


def _store_word(at: int, target: int) -> bytes:
    return b"\x66\x89\x05" + struct.pack("<i", target - (at + 7))


def _store_true(at: int, target: int) -> bytes:
    return b"\xc6\x05" + struct.pack("<i", target - (at + 7)) + b"\x01"


def test_block_is_found_by_the_two_stores_into_it() -> None:
    code = _store_word(0, 0x200 + 24)
    code += _store_true(len(code), 0x200 + 39)
    code += _store_word(len(code), 0x180)
    (patch,) = computed_patches(_firmware(code), MachineShape())
    assert patch.offset == 0x300
    assert patch.data == platform_info(MachineShape())


def test_one_store_alone_is_no_block() -> None:
    assert computed_patches(_firmware(_store_word(0, 0x200)), MachineShape()) == []


def test_timer_port_counts_in_the_core_only() -> None:
    code = b"\xc7\x05" + struct.pack("<iI", 0x300 - 10, 0x608)
    (patch,) = computed_patches(_firmware(code, kind=FILE_PEI_CORE, name="PeiCore"), MachineShape())
    assert (patch.offset, patch.data) == (0x400, b"\x08\x06\0\0")
    assert computed_patches(_firmware(code, name="CpuMpPei"), MachineShape()) == []


def test_recorded_patches_are_marked() -> None:
    firmware = read_firmware(installed_firmware())
    recorded = [Patch(offset=5, data=b"ab", reason="dry boot")]
    version, pei, dxe = code_events(firmware, MachineShape(), recorded=recorded)
    assert [event.provenance for event in (version, pei, dxe)] == [
        Provenance.COMPUTED,
        Provenance.DRY_BOOT,
        Provenance.COMPUTED,
    ]
    assert pei.digests == digests_of(apply_patches(firmware.pei.data, recorded))


@pytest.mark.boot
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("OVMF_CODE_4M.fd", MachineShape(memory_mib=512)),
        ("OVMF_CODE_4M.fd", MachineShape(memory_mib=3072, cpus=2, cpu_vendor=CpuVendor.INTEL)),
    ],
)
def test_volume_in_the_memory_of_a_machine(name: str, shape: MachineShape, tmp_path: Path) -> None:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    require_tool("swtpm", package="swtpm")
    files = FirmwareFiles(code=installed_firmware(name), variables=installed_firmware("OVMF_VARS_4M.fd"))
    firmware = read_firmware(files.code)
    disk = tmp_path / "empty.raw"
    disk.write_bytes(bytes(1 << 20))
    with Machine.start(MachineSpec(shape=shape, firmware=files, disks=[DiskFile(path=disk)])) as machine:
        machine.wait_for("BdsDxe", seconds=120)
        machine.stop()
        core = firmware.pei_modules[0]
        address = core.image_base - core.start
        in_memory = machine.read_memory(address, len(firmware.pei.data), tmp_path / "memory")
    assert apply_patches(firmware.pei.data, computed_patches(firmware, shape)) == in_memory
    predicted = code_events(firmware, shape)[1].digests
    assert predicted[Bank.SHA256] == digests_of(in_memory)[Bank.SHA256]
