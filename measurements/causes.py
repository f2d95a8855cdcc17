"""From differences to their causes: which input of the prediction the machine did not have, and the fix.

Every rule looks at all differences together: a changed UKI is one difference of PCR 4, but what drives it is
the section that differs in PCR 11; a new Boot entry with a MAC address is a network card, not a boot order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from measurements.alignment import Difference, DifferenceKind
from measurements.event_data import decode_event
from measurements.eventlog import LogEvent
from measurements.events import EventType, MeasuredEvent


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
    Input.DEV_IMAGE: "a development image marks itself; allow or build a release image instead",
}
_SECTION_INPUTS = {
    ".cmdline": Input.COMMAND_LINE,
    ".initrd": Input.INITRD,
    ".linux": Input.KERNEL,
    ".sbat": Input.STUB,
}
_EARLY_VOLUME = "PEI volume"
_CARD = re.compile(r"MAC\(|\(MAC:")
_DISK = re.compile(r"Pci\(|UEFI Misc Device")
_SECTION = re.compile(r"section (\.[a-z0-9]+) of")
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def causes_of(differences: Sequence[Difference], *, other_memory: bool = False) -> list[Cause]:
    """The cause of each difference, in the same order. ``other_memory`` says that unmeasured data of the log
    suggests another memory size.
    """
    context = _Context(differences, other_memory=other_memory)
    return [_cause(difference, context) for difference in differences]


def cause(which: Input, detail: str = "") -> Cause:
    """A cause with the fix that belongs to its input."""
    return Cause(input=which, detail=detail, fix=_FIXES[which])


class _Context:
    """What all differences together show."""

    def __init__(self, differences: Sequence[Difference], *, other_memory: bool) -> None:
        self._differences = differences
        self.shape_input = Input.MEMORY if other_memory else Input.MACHINE
        self.other_code = any(d.pcr == 0 and not _expects(d, _EARLY_VOLUME) for d in differences)
        self.sections = [name for d in differences if d.pcr == 11 and (name := _section_name(d))]
        self.add_on = any(_is_add_on(d) for d in differences)
        self.parameters = any(d.pcr == 12 for d in differences)
        entries = self._entries()
        self.mac = any(_CARD.search(text) for text in entries)
        self.new_disk = any(_DISK.search(text) and not _CARD.search(text) for text in entries)
        self.same_entries = not entries
        self.keys = any(
            d.pcr == 7 and d.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG for d in differences
        )

    def _entries(self) -> list[str]:
        """Device paths of boot entries that are new, and descriptions of those that are gone; an entry in
        another place is neither.
        """
        changes = [
            difference
            for difference in self._differences
            if difference.pcr == 1
            and difference.event_type == EventType.EV_EFI_VARIABLE_BOOT
            and not _is_boot_order(difference)
        ]
        gone = {_digest_of(d.expected): d.expected.description for d in changes if d.expected is not None}
        new = {
            _digest_of(d.booted): d.facts.details.get("device path", "")
            for d in changes
            if d.booted is not None
        }
        return [text for digest, text in gone.items() if digest not in new] + [
            text for digest, text in new.items() if digest not in gone
        ]


def _digest_of(event: MeasuredEvent | LogEvent) -> bytes:
    """A digest by which a predicted and a logged event can be compared."""
    digests = {len(digest): digest for digest in event.digests.values()}
    return digests[max(digests)]


def _cause(difference: Difference, context: _Context) -> Cause:
    if difference.event_type == EventType.EV_SEPARATOR:
        return cause(Input.BOOT_FLOW, "a separator differs: the firmware met an error")
    rule = _RULES.get(difference.pcr)
    return rule(difference, context) if rule is not None else cause(Input.BOOT_FLOW)


def _firmware(difference: Difference, context: _Context) -> Cause:
    if _expects(difference, _EARLY_VOLUME) and not context.other_code:
        return cause(context.shape_input, "early modules note it in the volume that is measured")
    if difference.event_type == EventType.EV_S_CRTM_VERSION and difference.booted is not None:
        return cause(Input.FIRMWARE, f"it says version {difference.facts.details.get('version', '?')}")
    return cause(Input.FIRMWARE)


def _machine(difference: Difference, context: _Context) -> Cause:
    if difference.event_type == EventType.EV_EFI_VARIABLE_BOOT:
        return _boot_variable(difference, context)
    if difference.event_type in (EventType.EV_EFI_HANDOFF_TABLES, EventType.EV_EFI_HANDOFF_TABLES2):
        return cause(Input.SMBIOS)
    if difference.event_type == EventType.EV_PLATFORM_CONFIG_FLAGS:
        if difference.kind is not DifferenceKind.CHANGED:
            return cause(Input.FIRMWARE, "this build measures other tables")
        return cause(Input.NIC) if context.mac else cause(context.shape_input, "ACPI tables")
    return cause(Input.BOOT_FLOW)


def _boot_variable(difference: Difference, context: _Context) -> Cause:
    details = difference.facts.details
    path = details.get("device path", "")
    if context.mac:
        return cause(Input.NIC, path)
    if context.new_disk:
        return cause(Input.DISK, path)
    if _is_boot_order(difference):
        return cause(Input.BOOT_ORDER, f"the machine's order is {details.get('order', 'missing')}")
    if context.same_entries:
        return cause(Input.BOOT_ORDER, "the entry is there, in another place")
    return cause(Input.BOOT_ENTRY, details.get("description", ""))


def _is_boot_order(difference: Difference) -> bool:
    return difference.facts.title == "variable BootOrder" or _expects(difference, "BootOrder")


def _option_rom(difference: Difference, context: _Context) -> Cause:
    return cause(Input.OPTION_ROM, difference.facts.details.get("device path", ""))


def _program(difference: Difference, context: _Context) -> Cause:
    if difference.event_type != EventType.EV_EFI_BOOT_SERVICES_APPLICATION:
        return cause(Input.BOOT_FLOW)
    if _is_add_on(difference):
        return cause(Input.ESP_ADD_ON, difference.facts.details.get("device path", "").rpartition("/")[2])
    inner = difference.facts.title == "kernel inside the UKI" or _expects(difference, "kernel inside")
    if inner and difference.kind is not DifferenceKind.CHANGED:
        return cause(Input.STUB, "whether the kernel is measured depends on stub version and Secure Boot")
    if inner:
        return cause(Input.KERNEL)
    if difference.kind is DifferenceKind.CHANGED:
        return _uki(context)
    return cause(Input.OTHER_PROGRAM, difference.facts.details.get("device path", ""))


def _uki(context: _Context) -> Cause:
    """What changed inside a UKI whose digest changed."""
    names = list(dict.fromkeys(context.sections))
    if not names:
        return cause(Input.STUB, "no measured section differs, so its headers or its own code do")
    which = _SECTION_INPUTS.get(names[0], Input.UKI_SECTION)
    return cause(which, "section " + ", ".join(names) + " differs" if len(names) == 1 else _several(names))


def _several(names: Sequence[str]) -> str:
    return "sections " + ", ".join(names) + " differ"


def _configuration(difference: Difference, context: _Context) -> Cause:
    if difference.event_type != EventType.EV_EFI_GPT_EVENT:
        return cause(Input.BOOT_FLOW)
    expected = set(_GUID.findall(difference.expected.description)) if difference.expected else set()
    shown = {name: _GUID.findall(text) for name, text in difference.facts.details.items()}
    new = [f"{name} {guid}" for name, guids in shown.items() for guid in guids if guid not in expected]
    return cause(Input.PARTITIONS, "unexpected: " + "; ".join(new) if new else "same GUIDs, other blocks")


def _secure_boot(difference: Difference, context: _Context) -> Cause:
    title = difference.facts.title
    if difference.event_type == EventType.EV_EFI_VARIABLE_AUTHORITY:
        if context.keys:
            return cause(Input.SECURE_BOOT_KEYS, "the UKI was accepted by another entry of db")
        return cause(Input.SIGNER, "the UKI was accepted by another entry of db")
    if "SecureBoot" in title or _expects(difference, "SecureBoot"):
        return cause(Input.SECURE_BOOT_MODE, f"it is {difference.facts.details.get('value', 'not measured')}")
    return cause(Input.SECURE_BOOT_KEYS, title)


def _kernel_stub(difference: Difference, context: _Context) -> Cause:
    is_line = "LoadOptions" in difference.facts.title or _expects(difference, "LoadOptions")
    if is_line:
        if context.add_on or (context.parameters and ".cmdline" not in context.sections):
            return cause(Input.ESP_ADD_ON, "it adds to the command line")
        return cause(Input.COMMAND_LINE)
    if ".initrd" not in context.sections and context.sections:
        return cause(_SECTION_INPUTS.get(context.sections[0], Input.UKI_SECTION), "the stub appends it")
    return cause(Input.INITRD) if context.sections else cause(Input.ESP_EXTRA)


def _section(difference: Difference, context: _Context) -> Cause:
    name = _section_name(difference)
    which = _SECTION_INPUTS.get(name, Input.UKI_SECTION)
    verb = {DifferenceKind.CHANGED: "differs", DifferenceKind.MISSING: "is missing"}.get(
        difference.kind, "was added"
    )
    return cause(which, f"section {name} {verb}" if name else "")


def _parameters(difference: Difference, context: _Context) -> Cause:
    return cause(Input.ESP_ADD_ON if context.add_on else Input.ESP_EXTRA, difference.facts.title)


def _extensions(difference: Difference, context: _Context) -> Cause:
    return cause(Input.ESP_EXTRA, difference.facts.title)


def _ima(difference: Difference, context: _Context) -> Cause:
    return cause(Input.IMA)


def _runtime(difference: Difference, context: _Context) -> Cause:
    return cause(Input.DEV_IMAGE)


def _section_name(difference: Difference) -> str:
    """Name of the UKI section that a difference of PCR 11 is about."""
    if difference.expected is not None:
        found = _SECTION.search(difference.expected.origin)
        return found[1] if found else ""
    title = difference.facts.title
    return title if title.startswith(".") else ""


def _is_add_on(difference: Difference) -> bool:
    if difference.booted is None or difference.pcr != 4:
        return False
    facts = decode_event(difference.booted.event_type, difference.booted.data)
    return facts.details.get("device path", "").lower().endswith(".addon.efi")


def _expects(difference: Difference, text: str) -> bool:
    return difference.expected is not None and text in difference.expected.description


_RULES = {
    0: _firmware,
    1: _machine,
    2: _option_rom,
    4: _program,
    5: _configuration,
    7: _secure_boot,
    9: _kernel_stub,
    10: _ima,
    11: _section,
    12: _parameters,
    13: _extensions,
    14: _runtime,
}
