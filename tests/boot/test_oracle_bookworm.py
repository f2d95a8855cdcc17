"""The TPM oracle with OVMF 2022.11 of Debian 12: every event and register of real boots as predicted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from measurements.shape import BootSource, Disk, Nic, TpmInterface
from tests.support.oracle_boots import BASE, SMBIOS, OracleMachine, check
from tests.support.oracle_direct import check_direct

pytestmark = pytest.mark.boot

MACHINES = {
    "252, files on the ESP, SMBIOS strings": OracleMachine(
        firmware="bookworm", stub=252, extras=True, shape=replace(BASE, smbios=SMBIOS)
    ),
    "254, files on the ESP, Secure Boot": OracleMachine(
        firmware="bookworm", stub=254, extras=True, secure_boot=True
    ),
    "257, two disks, network card, TIS, 2 GiB": OracleMachine(
        firmware="bookworm",
        stub=257,
        shape=replace(
            BASE, memory_mib=2048, tpm=TpmInterface.TIS, disks=(Disk(), Disk(slot=4)), nics=(Nic(),)
        ),
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_boot_is_as_predicted(name: str, tmp_path: Path) -> None:
    check(MACHINES[name], tmp_path)


def test_direct_boot_is_as_predicted(tmp_path: Path) -> None:
    check_direct(
        "bookworm", replace(BASE, boot=BootSource.DIRECT, memory_mib=1024, disks=(), nics=(Nic(),)), tmp_path
    )
