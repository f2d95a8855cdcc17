"""The TPM oracle with OVMF 2026.08 of Debian sid: every event and register of real boots as predicted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from measurements.shape import Disk, Nic, TpmInterface
from measurements.shape_devices import ExtraDevice, NumaNode
from tests.support.oracle_boots import BASE, SMBIOS, OracleMachine, check
from tests.support.oracle_cc import check_image
from tests.support.oracle_direct import check_direct

pytestmark = pytest.mark.boot

MACHINES = {
    "262, profiles, files on the ESP, SMBIOS strings, two NUMA nodes": OracleMachine(
        firmware="sid",
        stub=262,
        profiles=True,
        extras=True,
        shape=replace(
            BASE,
            cpus=2,
            smbios=SMBIOS,
            numa=(NumaNode(memory_mib=256, cpus=(0,)), NumaNode(memory_mib=256, cpus=(1,))),
        ),
    ),
    "252, Secure Boot, files on the ESP": OracleMachine(
        firmware="sid", stub=252, extras=True, secure_boot=True
    ),
    "257, QEMU 11.1, two disks, network card, further devices, TIS, 2 GiB": OracleMachine(
        firmware="sid",
        stub=257,
        qemu="sid",
        shape=replace(
            BASE,
            memory_mib=2048,
            tpm=TpmInterface.TIS,
            disks=(Disk(), Disk(slot=4)),
            nics=(Nic(),),
            devices=(ExtraDevice(model="virtio-scsi-pci", slot=8),),
        ),
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_boot_is_as_predicted(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    check_image(check(machine, tmp_path), machine)


def test_direct_boot_is_as_predicted(tmp_path: Path) -> None:
    check_direct(
        "sid",
        replace(BASE, cpus=2, devices=(ExtraDevice(model="virtio-rng-pci", slot=9, root_port=True),)),
        tmp_path,
    )
