"""Firmware profiles: differences, files, and a dry boot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.firmware_profile import (
    FirmwareProfile,
    differences,
    machine_key,
    read_profile,
    record_profile,
)
from measurements.firmware_volume import FirmwareError
from measurements.ovmf import read_firmware
from measurements.pcr0 import Patch, apply_patches, computed_patches
from measurements.qemu_args import FirmwareFiles
from measurements.shape import MachineShape
from tests.support.firmware import installed_firmware
from tests.support.tools import require_tool


@given(before=st.binary(max_size=200), data=st.data())
def test_differences_turn_one_into_the_other(before: bytes, data: st.DataObject) -> None:
    after = data.draw(st.binary(min_size=len(before), max_size=len(before)))
    patches = list(differences(before, after))
    assert apply_patches(before, patches) == after
    assert all(patch.data for patch in patches)


def test_near_differences_are_one_patch() -> None:
    patches = list(differences(bytes(100), b"\1" + bytes(4) + b"\2" + bytes(50) + b"\3" + bytes(43)))
    assert [(patch.offset, patch.data) for patch in patches] == [(0, b"\1\0\0\0\0\2"), (56, b"\3")]


def _profile(sha256: str, shape: MachineShape) -> FirmwareProfile:
    patches = (Patch(offset=1, data=b"a", reason="dry boot"),)
    return FirmwareProfile(firmware_sha256=sha256, machine=machine_key(shape), qemu="7.2.1", patches=patches)


def test_file_reads_back(tmp_path: Path) -> None:
    profile = _profile("1" * 64, MachineShape(smm=True))
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile.as_json()))
    assert read_profile(path) == profile
    assert json.loads(path.read_text())["source"] == "dry-boot"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "other/1"},
        {"source": "computed"},
        {"patches": [{"offset": -1, "data": "00"}]},
        {"patches": [{"offset": 1, "data": "zz"}]},
        {"patches": [{"offset": 1}]},
        {"machine": 5},
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({**_profile("1" * 64, MachineShape()).as_json(), **change}))
    with pytest.raises(FirmwareError, match="is not a firmware profile"):
        read_profile(path)


def test_profile_of_another_machine_is_refused() -> None:
    firmware = read_firmware(installed_firmware())
    profile = _profile(firmware.sha256, MachineShape(smm=True))
    assert profile.patches_for(firmware, MachineShape(smm=True))
    for shape in (MachineShape(), MachineShape(smm=True, memory_mib=4096), MachineShape(smm=True, cpus=2)):
        with pytest.raises(FirmwareError, match="another machine or firmware"):
            profile.patches_for(firmware, shape)


def test_rare_parts_of_a_shape_are_in_the_key_where_they_are_unusual() -> None:
    usual = machine_key(MachineShape())
    assert set(usual) == {"machine", "memory_mib", "cpus", "cpu_vendor", "smm"}
    assert machine_key(MachineShape(phys_bits=46)) == usual | {"phys_bits": 46}
    assert machine_key(MachineShape(sleep=True)) == usual | {"sleep": True}


@pytest.mark.boot
def test_dry_boot_agrees_with_what_is_computed() -> None:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    require_tool("swtpm", package="swtpm")
    files = FirmwareFiles(code=installed_firmware(), variables=installed_firmware("OVMF_VARS_4M.fd"))
    shape = MachineShape(memory_mib=1024)
    firmware = read_firmware(files.code)
    recorded = record_profile(files, shape).patches_for(firmware, shape)
    volume = firmware.pei.data
    assert apply_patches(volume, recorded) == apply_patches(volume, computed_patches(firmware, shape))
