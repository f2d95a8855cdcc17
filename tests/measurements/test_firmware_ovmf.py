"""OVMF files: what is found in real ones, and what is refused."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from measurements.firmware_volume import FirmwareError
from measurements.ovmf import MACHINE_IA32, MACHINE_X64, parse_firmware, read_firmware, version_text
from measurements.pcr0 import computed_patches, needs_dry_boot
from measurements.shape import MachineShape
from tests.support.firmware import installed_firmware
from tests.support.vectors import vector

UBUNTU = "firmware/OVMF-2025.02-3ubuntu2.fd.xz"


def test_combined_file_of_ubuntu() -> None:
    firmware = parse_firmware(lzma.decompress(vector(UBUNTU).read_bytes()), name="OVMF.fd")
    assert firmware.sha256 == "9e807cb2cd4313406a3aa4becc0836671a5c64ca7bdc08a45e15260184b446bf"
    assert version_text(firmware) == "2025.02-3ubuntu2"
    assert [module.name for module in firmware.pei_modules][:2] == ["PeiCore", "PcdPeim"]
    assert {module.machine for module in firmware.pei_modules} == {MACHINE_X64}


def test_timer_port_is_found_in_the_code_of_ubuntu() -> None:
    firmware = parse_firmware(lzma.decompress(vector(UBUNTU).read_bytes()), name="OVMF.fd")
    (patch,) = computed_patches(firmware, MachineShape())
    assert patch.data == bytes.fromhex("08060000")
    core = firmware.pei_modules[0]
    assert core.start <= patch.offset < core.start + len(core.image)


def test_smm_relocation_is_not_guessed() -> None:
    firmware = parse_firmware(lzma.decompress(vector(UBUNTU).read_bytes()), name="OVMF.fd")
    assert not needs_dry_boot(firmware, MachineShape())
    with pytest.raises(FirmwareError, match="only a boot shows") as caught:
        computed_patches(firmware, MachineShape(smm=True))
    assert "keyturn firmware profile" in caught.value.advice


def test_installed_firmware_is_read() -> None:
    firmware = read_firmware(installed_firmware())
    assert firmware.pei_modules[0].machine in (MACHINE_IA32, MACHINE_X64)
    assert "Tcg2Dxe" in firmware.dxe_names


@pytest.mark.parametrize("name", ["OVMF_VARS_4M.fd"])
def test_variable_store_is_no_firmware(name: str) -> None:
    with pytest.raises(FirmwareError, match="is not an OVMF firmware") as caught:
        read_firmware(installed_firmware(name))
    assert "/usr/share/OVMF/OVMF_CODE_4M.fd" in caught.value.advice


@pytest.mark.parametrize("data", [b"", b"\0" * 4096, b"MZ" + b"\xff" * 100000])
def test_other_bytes_are_no_firmware(data: bytes) -> None:
    with pytest.raises(FirmwareError, match="is not an OVMF firmware"):
        parse_firmware(data, name="bios.bin")


def test_firmware_cut_short() -> None:
    data = installed_firmware().read_bytes()
    with pytest.raises(FirmwareError, match="is not an OVMF firmware"):
        parse_firmware(data[: len(data) // 4], name="cut.fd")


def test_firmware_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FirmwareError, match="cannot be read"):
        read_firmware(tmp_path / "none.fd")
