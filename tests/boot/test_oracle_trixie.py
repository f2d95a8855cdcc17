"""The TPM oracle with OVMF 2025.02 of Debian 13: every event and register of real boots as predicted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from measurements.shape import Disk, Nic, TpmInterface
from measurements.shape_devices import ExtraDevice, NumaNode
from tests.support.foreign_qemu import foreign_qemu
from tests.support.oracle_boots import BASE, SMBIOS, OracleMachine, check
from tests.support.oracle_cc import check_image
from tests.support.oracle_direct import check_direct

pytestmark = pytest.mark.boot

MACHINES = {
    "254, files on the ESP, SMBIOS strings": OracleMachine(
        firmware="trixie", stub=254, extras=True, shape=replace(BASE, smbios=SMBIOS)
    ),
    "257, profiles, files on the ESP, two NUMA nodes, further devices": OracleMachine(
        firmware="trixie",
        stub=257,
        profiles=True,
        extras=True,
        shape=replace(
            BASE,
            cpus=2,
            numa=(NumaNode(memory_mib=256, cpus=(0,)), NumaNode(memory_mib=256, cpus=(1,))),
            devices=(
                ExtraDevice(model="virtio-scsi-pci", slot=8),
                ExtraDevice(model="virtio-rng-pci", slot=9, root_port=True),
            ),
        ),
    ),
    "262, Secure Boot, two disks, network card, TIS, 2 GiB": OracleMachine(
        firmware="trixie",
        stub=262,
        secure_boot=True,
        shape=replace(
            BASE, memory_mib=2048, tpm=TpmInterface.TIS, disks=(Disk(), Disk(slot=4)), nics=(Nic(),)
        ),
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_boot_is_as_predicted(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    check_image(check(machine, tmp_path), machine)


def test_direct_boot_with_trixie_s_qemu_is_as_predicted(tmp_path: Path) -> None:
    """QEMU 10.0 offers the kernel as the file is, and this firmware takes that."""
    shape = replace(BASE, memory_mib=4096, smbios=SMBIOS, tpm=TpmInterface.TIS)
    check_direct("trixie", shape, tmp_path, program=foreign_qemu("trixie"))
