"""An SVSM (COCONUT-SVSM) that runs below the firmware: where it lies and how its processors start.

QEMU of coconut-svsm loads the SVSM right below the variable store of the firmware, whose size counts although
nothing of it is measured: it ends at ``4 GiB - len(firmware) - variables``. The SVSM's image ends in the same
table of GUIDs as OVMF's, with its own SNP metadata and, in ``SVSM_INFO``, its first instruction (virtee/
sev-snp-measure, ``--svsm`` and ``--vars-size``, whose vector was measured on hardware).
"""

from __future__ import annotations

from collections.abc import Iterator

from measurements.sev.launch_digest import PageType, Region, metadata_regions
from measurements.sev.ovmf_metadata import PAGE, SevFirmwareError, SevImage, parse_sev_image


def parse_svsm(image: bytes, *, name: str, firmware: SevImage, variables_size: int) -> SevImage:
    """The SVSM below ``firmware`` and a variable store of ``variables_size`` bytes (whole pages)."""
    end = firmware.gpa - variables_size
    if variables_size < 0 or variables_size % PAGE or end <= 0:
        raise SevFirmwareError(
            f"cannot lie below a variable store of {variables_size} bytes",
            subject=name,
            advice="give the size of the firmware's VARS file, which is whole pages of 4096 bytes",
        )
    svsm = parse_sev_image(image, name=name, end=end)
    svsm_entry(svsm)
    return svsm


def svsm_entry(svsm: SevImage) -> int:
    """Where every processor starts: a guest physical address inside the SVSM."""
    if svsm.svsm_entry is None or svsm.svsm_entry >= len(svsm.image):
        raise SevFirmwareError(
            "names no first instruction of an SVSM in its table of GUIDs",
            subject=svsm.name,
            advice="give the image that COCONUT-SVSM's build makes (svsm.bin)",
        )
    return svsm.gpa + svsm.svsm_entry


def svsm_regions(svsm: SevImage) -> Iterator[Region]:
    """The steps of a launch after the firmware: the SVSM and its sections."""
    yield Region(
        page_type=PageType.NORMAL,
        gpa=svsm.gpa,
        size=len(svsm.image),
        contents=svsm.image,
        description="SVSM",
        origin=svsm.name,
    )
    yield from metadata_regions(svsm, None)
