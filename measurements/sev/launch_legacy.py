"""The launch digests of SEV and SEV-ES: one SHA-256 over all that the VMM gives to the secure processor.

Order (QEMU, target/i386/sev.c; AMD SEV API, 55766 revision 3.24, LAUNCH_UPDATE_DATA and LAUNCH_UPDATE_VMSA)::

    firmware | table of kernel hashes with its padding, 176 bytes, for a direct boot | SEV-ES: save areas

The digest is what LAUNCH_MEASURE authenticates to the owner together with the policy and a nonce. Addresses
do not count. SEV-ES guests have no features: their save areas hold zero there.
"""

from __future__ import annotations

from collections.abc import Iterator

from measurements.sev.kernel_hashes import KernelHashes
from measurements.sev.launch_digest import PageType, Region, firmware_region
from measurements.sev.ovmf_metadata import SevFirmwareError, SevImage

SEV_ES_FEATURES = 0


def legacy_regions(firmware: SevImage, kernel: KernelHashes | None) -> Iterator[Region]:
    """The steps of a launch up to the save areas.

    Raises SevFirmwareError if there is a kernel, but no place in the firmware for its hashes.
    """
    yield firmware_region(firmware)
    if kernel is None:
        return
    if firmware.hash_table is None:
        raise SevFirmwareError(
            "has no table of kernel hashes, so it cannot measure a direct boot",
            subject=firmware.name,
            advice="give an OVMF built for that (AmdSevX64.dsc, package ovmf-amdsev), or boot from a disk",
        )
    table = kernel.table()
    yield Region(
        page_type=PageType.NORMAL,
        gpa=firmware.hash_table.gpa,
        size=len(table),
        contents=table,
        description="hashes of command line, initrd and kernel",
        origin="kernel, initrd, command line",
    )
