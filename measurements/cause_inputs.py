"""Inputs of a prediction, as explanations name them, and what to do about one that differs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Input(StrEnum):
    """Inputs of a prediction, as explanations name them."""

    FIRMWARE = "firmware"
    SECURE_BOOT_MODE = "Secure Boot mode"
    SECURE_BOOT_KEYS = "Secure Boot keys"
    SIGNER = "signature of the UKI"
    MEMORY = "memory size"
    MACHINE = "machine shape (memory, CPUs, devices or machine type)"
    SMBIOS = "machine type (SMBIOS)"
    NIC = "network card"
    DISK = "disk"
    OPTION_ROM = "option ROM of a device"
    BOOT_ORDER = "boot entry order"
    BOOT_ENTRY = "boot entry"
    PARTITIONS = "partition table (GPT)"
    UKI = "UKI"
    STUB = "systemd-stub in the UKI"
    COMMAND_LINE = "kernel command line"
    INITRD = "initrd"
    VERITY_ROOT = "verity root"
    KERNEL = "kernel"
    UKI_SECTION = "UKI section"
    ESP_ADD_ON = "add-on on the ESP"
    ESP_EXTRA = "credentials or extensions on the ESP"
    OTHER_PROGRAM = "another boot program"
    BOOT_FLOW = "course of the boot"
    IMA = "kernel modules or IMA policy"
    DEV_IMAGE = "development image"
    SEPARATOR_PLACE = "place of a separator (edk2 release)"
    FIRMWARE_VARIABLES = "variables in the firmware file (CFV)"
    BOOT_LOADER = "boot loader (shim, GRUB) or its configuration"
    RUNTIME_EVENTS = "runtime events of the guest"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """The input that drives a difference. ``detail`` narrows it down, ``fix`` is what to do."""

    input: Input
    detail: str
    fix: str


_REBUILD = "boot the image that was predicted, or predict the image that was booted"
_MACHINE = "start the machine with the predicted shape, or predict its real shape (--shape)"
_ESP = "remove it: the ESP of a keyturn image holds the UKI only; the host added a file"
_FIXES = {
    Input.FIRMWARE: "start the machine with the predicted firmware, or predict with the real one "
    "(--firmware-code, --firmware-vars)",
    Input.SECURE_BOOT_MODE: "use the variable store that was predicted, or predict with the machine's "
    "(--firmware-vars)",
    Input.SECURE_BOOT_KEYS: "enrol the predicted keys, or predict with the machine's variable store "
    "(--firmware-vars)",
    Input.SIGNER: "sign the UKI with the predicted key, or predict the UKI as it is signed",
    Input.MEMORY: _MACHINE,
    Input.MACHINE: _MACHINE,
    Input.SMBIOS: _MACHINE,
    Input.NIC: _MACHINE + "; list the network cards with --nic",
    Input.DISK: _MACHINE + "; list the disks with --disk",
    Input.OPTION_ROM: "switch the ROM off (romfile= on the device), or predict with it",
    Input.BOOT_ORDER: "restore the boot order (a fresh variable store), or predict the real one",
    Input.BOOT_ENTRY: "use a fresh variable store, or predict with the machine's (--firmware-vars)",
    Input.PARTITIONS: _REBUILD,
    Input.UKI: _REBUILD,
    Input.STUB: _REBUILD,
    Input.COMMAND_LINE: _REBUILD,
    Input.INITRD: _REBUILD,
    Input.VERITY_ROOT: _REBUILD,
    Input.KERNEL: _REBUILD,
    Input.UKI_SECTION: _REBUILD,
    Input.ESP_ADD_ON: _ESP,
    Input.ESP_EXTRA: _ESP,
    Input.OTHER_PROGRAM: "boot from the image's disk first; something else was started",
    Input.BOOT_FLOW: "look at the events around this place: the firmware took another course",
    Input.IMA: "boot without ima_ parameters, and with the modules of the predicted image",
    Input.SEPARATOR_PLACE: "predict with the machine's firmware release, or start the predicted one: before "
    "2024.11, edk2 extended RTMR0 with the separator that belongs into RTMR1",
    Input.FIRMWARE_VARIABLES: "start the machine with the predicted firmware file, whose variables (keys, "
    "settings) are measured, too",
    Input.BOOT_LOADER: "boot the image that was predicted; boot loaders measure what they read and run",
    Input.RUNTIME_EVENTS: "compare the app, its configuration and the key provider with what was predicted",
    Input.DEV_IMAGE: "a development image marks itself; allow or build a release image instead",
}


def cause(which: Input, detail: str = "") -> Cause:
    """A cause with the fix that belongs to its input."""
    return Cause(input=which, detail=detail, fix=_FIXES[which])
