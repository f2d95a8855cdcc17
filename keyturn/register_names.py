"""What each TPM register covers, in a few words for tables."""

from __future__ import annotations

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
