"""The launch digest of SEV-SNP: a chain over every page that the VMM gives to the secure processor.

Each page extends the digest (SEV Secure Nested Paging Firmware ABI, 56860 revision 1.58, section 8.17.2,
``PAGE_INFO``; little endian, 112 bytes)::

    digest = SHA-384(48 bytes digest before, zeros at first | 48 bytes SHA-384 of the page, or zeros
                     | u16 112 | u8 page type | u8 initial migration image: 0
                     | u8 permissions of VMPL 3, 2, 1: 0 each | u8 0 | u64 guest physical address)

The contents count for normal pages and save areas only; a zero page, an unmeasured page, the secrets and the
CPUID page count by their type and address.

Order of QEMU (target/i386/sev.c): firmware, sections of the metadata in their order, save areas. EC2 puts the
CPUID page last, GCE leaves ``SEC_MEM`` unmeasured. With an SVSM: firmware, the SVSM below it, the SVSM's own
sections, save areas.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from measurements.errors import FormatError
from measurements.sev.kernel_hashes import KernelHashes
from measurements.sev.ovmf_metadata import PAGE, Section, SectionKind, SevFirmwareError, SevImage
from measurements.sev.vmsa import VMSA_GPA, Vmm

DIGEST_SIZE = 48
NO_CONTENTS = bytes(DIGEST_SIZE)
START = bytes(DIGEST_SIZE)

_PAGE_INFO_LENGTH = 112
_ADDRESSES = 1 << 52


class PageType(IntEnum):
    """Page types of SNP_LAUNCH_UPDATE (56860, table 67)."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6

    @property
    def info(self) -> bytes:
        """What follows the digests in ``PAGE_INFO``, up to the address."""
        return struct.pack("<HBBI", _PAGE_INFO_LENGTH, self.value, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """One step of a launch: ``size`` bytes at ``gpa``; ``contents`` (as many) where their bytes count."""

    page_type: PageType
    gpa: int
    size: int
    contents: bytes | None
    description: str
    origin: str


def extend_pages(digest: bytes, *, page_type: PageType, gpa: int, contents: bytes) -> bytes:
    """``digest`` (48 bytes) after pages whose contents are measured; ``contents`` are whole pages."""
    _check_range(gpa, len(contents))
    sha384, info = hashlib.sha384, page_type.info
    before, middle = b"", b""
    for offset in range(0, len(contents), PAGE):
        page = contents[offset : offset + PAGE]
        # Firmware has long runs of equal pages (free space), and comparing is cheaper than hashing.
        if page != before:
            before, middle = page, sha384(page).digest() + info
        digest = sha384(digest + middle + (gpa + offset).to_bytes(8, "little")).digest()
    return digest


def extend_without_contents(digest: bytes, *, page_type: PageType, gpa: int, size: int) -> bytes:
    """``digest`` (48 bytes) after ``size`` bytes of pages that count by type and address only."""
    _check_range(gpa, size)
    sha384, middle = hashlib.sha384, NO_CONTENTS + page_type.info
    for address in range(gpa, gpa + size, PAGE):
        digest = sha384(digest + middle + address.to_bytes(8, "little")).digest()
    return digest


def extend_save_area(digest: bytes, *, gpa: int, page: bytes) -> bytes:
    """``digest`` (48 bytes) after a save area (4096 bytes)."""
    _check_range(gpa, len(page))
    middle = _save_area_digest(page) + PageType.VMSA.info
    return hashlib.sha384(digest + middle + gpa.to_bytes(8, "little")).digest()


@lru_cache(maxsize=16)
def _save_area_digest(page: bytes) -> bytes:
    # All processors but the first start alike, so the same few pages come hundreds of times.
    return hashlib.sha384(page).digest()


def extend_region(digest: bytes, region: Region) -> bytes:
    """``digest`` (48 bytes) after one step of a launch."""
    if region.contents is None:
        return extend_without_contents(digest, page_type=region.page_type, gpa=region.gpa, size=region.size)
    if region.page_type is PageType.VMSA:
        return extend_save_area(digest, gpa=region.gpa, page=region.contents)
    return extend_pages(digest, page_type=region.page_type, gpa=region.gpa, contents=region.contents)


def firmware_digest(firmware: SevImage, *, digest: bytes = START) -> bytes:
    """The digest after the firmware alone: the first step of every launch, the same for all machines."""
    return extend_pages(digest, page_type=PageType.NORMAL, gpa=firmware.gpa, contents=firmware.image)


def firmware_region(firmware: SevImage) -> Region:
    """The firmware as the first step of a launch."""
    return Region(
        page_type=PageType.NORMAL,
        gpa=firmware.gpa,
        size=len(firmware.image),
        contents=firmware.image,
        description="firmware",
        origin=firmware.name,
    )


def metadata_regions(
    firmware: SevImage, kernel: KernelHashes | None, vmm: Vmm = Vmm.QEMU
) -> Iterator[Region]:
    """What the VMM adds for each section of the metadata, in the VMM's order.

    Raises SevFirmwareError if the firmware has no SNP metadata, or no place for kernel hashes that are given.
    """
    if not firmware.sections:
        raise SevFirmwareError(
            "has no SNP metadata, so no VMM can start it as an SNP guest",
            subject=firmware.name,
            advice="give an OVMF built with SNP support, such as OVMF.amdsev.fd (package ovmf-amdsev)",
        )
    check_kernel_place(firmware, kernel)
    return (_region(section, firmware, kernel, vmm) for section in _in_order(firmware.sections, vmm))


def check_kernel_place(firmware: SevImage, kernel: KernelHashes | None) -> None:
    """Raise SevFirmwareError if there are kernel hashes, but no section for them."""
    section = firmware.section(SectionKind.KERNEL_HASHES)
    if kernel is None:
        return
    table = firmware.hash_table
    if section is None or table is None:
        raise SevFirmwareError(
            "has no section for kernel hashes, so it cannot measure a direct boot",
            subject=firmware.name,
            advice="give an OVMF built for that (AmdSevX64.dsc, package ovmf-amdsev), or boot from a disk",
        )
    if not section.gpa <= table.gpa < section.gpa + section.size:
        raise SevFirmwareError(
            f"puts its table of hashes at {table.gpa:#x}, outside its section at {section.gpa:#x}",
            subject=firmware.name,
            advice="give an OVMF image as edk2 builds it",
        )


def _in_order(sections: Sequence[Section], vmm: Vmm) -> tuple[Section, ...]:
    if vmm is not Vmm.EC2:
        return tuple(sections)
    return tuple(sorted(sections, key=lambda section: section.kind is SectionKind.CPUID))


_SECTION_TYPES = {
    SectionKind.SEC_MEM: (PageType.ZERO, "memory of the first phase (SEC_MEM)"),
    SectionKind.SECRETS: (PageType.SECRETS, "secrets page"),
    SectionKind.CPUID: (PageType.CPUID, "CPUID page"),
    SectionKind.SVSM_CAA: (PageType.ZERO, "calling area of an SVSM"),
    SectionKind.KERNEL_HASHES: (PageType.ZERO, "page of the kernel hashes, unused"),
}


def _region(section: Section, firmware: SevImage, kernel: KernelHashes | None, vmm: Vmm) -> Region:
    page_type, description = _SECTION_TYPES[section.kind]
    contents, origin = None, f"metadata of {firmware.name}"
    if section.kind is SectionKind.SEC_MEM and vmm.is_google:
        page_type = PageType.UNMEASURED
    if section.kind is SectionKind.KERNEL_HASHES and kernel is not None and firmware.hash_table is not None:
        page_type, description = PageType.NORMAL, "hashes of command line, initrd and kernel"
        contents, origin = kernel.page(firmware.hash_table.gpa - section.gpa), "kernel, initrd, command line"
    return Region(
        page_type=page_type,
        gpa=section.gpa,
        size=section.size,
        contents=contents,
        description=description,
        origin=origin,
    )


def vmsa_region(page: bytes, *, description: str, origin: str, gpa: int = VMSA_GPA) -> Region:
    """A save area (4096 bytes) as a step of a launch."""
    return Region(
        page_type=PageType.VMSA,
        gpa=gpa,
        size=PAGE,
        contents=page,
        description=description,
        origin=origin,
    )


def _check_range(gpa: int, size: int) -> None:
    if gpa < 0 or gpa % PAGE or size <= 0 or size % PAGE or gpa + size > _ADDRESSES:
        raise FormatError(
            f"has {size:#x} bytes at {gpa:#x}, not whole pages below {_ADDRESSES:#x}",
            subject="launch",
            advice="give addresses and sizes in whole pages of 4096 bytes",
        )
