"""What each register covers, in a few words for tables."""

from __future__ import annotations

from measurements.platforms import Platform

COVERS = {
    0: "firmware version and code volumes",
    1: "machine: ACPI where measured, boot order, boot entries",
    2: "option ROMs",
    3: "nothing but the separator",
    4: "boot manager, UKI, kernel in it",
    5: "partition table, end of boot services",
    6: "nothing but the separator",
    7: "Secure Boot: mode, keys, who signed the UKI",
    8: "nothing",
    9: "kernel command line, final initrd",
    10: "IMA: PCR 0 to 9 once more, kernel modules",
    11: "sections of the UKI",
    12: "nothing: no add-ons or credentials on the ESP",
    13: "nothing: no extensions on the ESP",
    14: "keyturn's runtime events (a dev image marks itself)",
}
_TDX = {
    "mrtd": "firmware, as the host adds its pages",
    "rtmr0": "machine: memory, variables, Secure Boot, ACPI, boot entries",
    "rtmr1": "partition table, UKI or kernel, end of boot services",
    "rtmr2": "sections of the UKI, kernel command line, final initrd",
    "rtmr3": "keyturn's runtime events",
    "mrconfigid": "set by the host at launch",
    "mrowner": "set by the host at launch",
    "mrownerconfig": "set by the host at launch",
}
_SEV = {"measurement": "firmware, kernel hashes, processors"}
_NITRO = {
    "0": "kernel, command line, all RAM disks",
    "1": "kernel, command line, first RAM disk",
    "2": "further RAM disks",
    "3": "role of the parent instance",
    "4": "id of the parent instance",
    "8": "certificate that signed the image",
}
_WORDS = {
    Platform.TPM: {str(pcr): words for pcr, words in COVERS.items()},
    Platform.TDX: _TDX,
    Platform.SNP: _SEV,
    Platform.SEV_ES: _SEV,
    Platform.SEV: _SEV,
    Platform.NITRO: _NITRO,
}


def covers(platform: Platform, register: str) -> str:
    """What a register covers; a dash where there is nothing to say."""
    return _WORDS[platform].get(register, "-")
