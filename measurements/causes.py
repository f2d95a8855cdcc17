"""From differences to their causes: which input of the prediction the machine did not have, and the fix.

Rules are those of TPM registers; an event of a TDX register is judged as the TPM register that firmware would
have extended instead (UEFI 2.10, section 38.4.1, joins several of them in one RTMR).

Every rule looks at all differences together: a changed UKI is one difference of PCR 4, but what drives it is
the section that differs in PCR 11; a new Boot entry with a MAC address is a network card, not a boot order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from measurements.alignment import Difference, DifferenceKind
from measurements.booted import BootedEvent
from measurements.cause_inputs import Cause, Input, cause
from measurements.events import EventType
from measurements.platforms import RegisterEvent
from measurements.runtime_events import DEV_IMAGE as DEV_IMAGE_EVENT

_SECTION_INPUTS = {
    ".cmdline": Input.COMMAND_LINE,
    ".initrd": Input.INITRD,
    ".linux": Input.KERNEL,
    ".sbat": Input.STUB,
}
_FROM_THE_VMM = {
    EventType.EV_EFI_HANDOFF_TABLES2.name: cause(Input.MEMORY, "the TD HOB lists the machine's memory"),
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2.name: cause(Input.FIRMWARE_VARIABLES),
}
_LOADER_TEXTS = ("MokList", "grub_cmd", "kernel_cmdline", "module_cmdline", "/", "(hd")
_EARLY_VOLUME = "PEI volume"
_CARD = re.compile(r"MAC\(|\(MAC:")
_DISK = re.compile(r"Pci\(|UEFI Misc Device")
_SECTION = re.compile(r"section (\.[a-z0-9]+) of")
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def role(difference: Difference) -> int:
    """The TPM register whose rules the difference falls under."""
    if difference.register.isdigit():
        return int(difference.register)
    find = _CC_ROLES.get(difference.register)
    return -1 if find is None else find(difference)


def causes_of(differences: Sequence[Difference], *, other_memory: bool = False) -> list[Cause]:
    """The cause of each difference, in the same order. ``other_memory`` says that unmeasured data of the log
    suggests another memory size.
    """
    context = _Context(differences, other_memory=other_memory)
    return [_cause(difference, context) for difference in differences]


class _Context:
    """What all differences together show."""

    def __init__(self, differences: Sequence[Difference], *, other_memory: bool) -> None:
        self._differences = differences
        self.shape_input = Input.MEMORY if other_memory else Input.MACHINE
        self.other_code = any(role(d) == 0 and not _expects(d, _EARLY_VOLUME) for d in differences)
        self.sections = [name for d in differences if role(d) == 11 and (name := _section_name(d))]
        self.add_on = any(_is_add_on(d) for d in differences)
        self.parameters = any(role(d) == 12 for d in differences)
        entries = self._entries()
        self.mac = any(_CARD.search(text) for text in entries)
        self.new_disk = any(_DISK.search(text) and not _CARD.search(text) for text in entries)
        self.same_entries = not entries
        self.keys = any(
            role(d) == 7 and d.type_name == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG.name for d in differences
        )

    def _entries(self) -> list[str]:
        """Device paths of boot entries that are new, and descriptions of those that are gone; an entry in
        another place is neither.
        """
        changes = [
            difference
            for difference in self._differences
            if role(difference) == 1
            and difference.type_name == EventType.EV_EFI_VARIABLE_BOOT.name
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


def _digest_of(event: RegisterEvent | BootedEvent) -> bytes:
    """A digest by which a predicted and a logged event can be compared."""
    digests = {len(digest): digest for digest in event.digests.values()}
    return digests[max(digests)]


def _cause(difference: Difference, context: _Context) -> Cause:
    if difference.type_name == EventType.EV_SEPARATOR.name:
        return _separator(difference)
    rule = _RULES.get(role(difference))
    return rule(difference, context) if rule is not None else cause(Input.BOOT_FLOW)


def _separator(difference: Difference) -> Cause:
    if difference.register in ("rtmr0", "rtmr1") and difference.kind is not DifferenceKind.CHANGED:
        verb = "missing from" if difference.kind is DifferenceKind.MISSING else "extra in"
        return cause(Input.SEPARATOR_PLACE, f"it is {verb} {difference.register.upper()}")
    return cause(Input.BOOT_FLOW, "a separator differs: the firmware met an error")


def _firmware(difference: Difference, context: _Context) -> Cause:
    if _expects(difference, _EARLY_VOLUME) and not context.other_code:
        return cause(context.shape_input, "early modules note it in the volume that is measured")
    if difference.type_name == EventType.EV_S_CRTM_VERSION.name and difference.booted is not None:
        return cause(Input.FIRMWARE, f"it says version {difference.facts.details.get('version', '?')}")
    return cause(Input.FIRMWARE)


def _machine(difference: Difference, context: _Context) -> Cause:
    if difference.type_name == EventType.EV_EFI_VARIABLE_BOOT.name:
        return _boot_variable(difference, context)
    if difference.register == "rtmr0" and difference.type_name in _FROM_THE_VMM:
        return _FROM_THE_VMM[difference.type_name]
    if difference.type_name in (
        EventType.EV_EFI_HANDOFF_TABLES.name,
        EventType.EV_EFI_HANDOFF_TABLES2.name,
    ):
        return cause(Input.SMBIOS)
    if difference.type_name == EventType.EV_PLATFORM_CONFIG_FLAGS.name:
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
    if difference.type_name != EventType.EV_EFI_BOOT_SERVICES_APPLICATION.name:
        return cause(Input.BOOT_FLOW)
    if _is_add_on(difference):
        return cause(Input.ESP_ADD_ON, difference.facts.details.get("device path", "").rpartition("/")[2])
    inner = difference.facts.title == "kernel inside the UKI" or _expects(difference, "kernel inside")
    if inner and difference.kind is not DifferenceKind.CHANGED:
        return cause(Input.STUB, "whether the kernel is measured depends on stub version and Secure Boot")
    if inner:
        return cause(Input.KERNEL)
    if _is_host_kernel(difference) and difference.kind is DifferenceKind.CHANGED:
        return cause(
            Input.KERNEL, "another file, or QEMU's changes to its header, which depend on version and memory"
        )
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
    if difference.type_name != EventType.EV_EFI_GPT_EVENT.name:
        return cause(Input.BOOT_FLOW)
    expected = set(_GUID.findall(difference.expected.description)) if difference.expected else set()
    shown = {name: _GUID.findall(text) for name, text in difference.facts.details.items()}
    new = [f"{name} {guid}" for name, guids in shown.items() for guid in guids if guid not in expected]
    return cause(Input.PARTITIONS, "unexpected: " + "; ".join(new) if new else "same GUIDs, other blocks")


def _secure_boot(difference: Difference, context: _Context) -> Cause:
    title = difference.facts.title
    if difference.type_name == EventType.EV_EFI_VARIABLE_AUTHORITY.name:
        if context.keys:
            return cause(Input.SECURE_BOOT_KEYS, "the UKI was accepted by another entry of db")
        return cause(Input.SIGNER, "the UKI was accepted by another entry of db")
    if "SecureBoot" in title or _expects(difference, "SecureBoot"):
        return cause(Input.SECURE_BOOT_MODE, f"it is {difference.facts.details.get('value', 'not measured')}")
    return cause(Input.SECURE_BOOT_KEYS, title)


def _kernel_stub(difference: Difference, context: _Context) -> Cause:
    is_line = "LoadOptions" in difference.facts.title or _expects(difference, "command line")
    if is_line:
        if context.add_on or (context.parameters and ".cmdline" not in context.sections):
            return cause(Input.ESP_ADD_ON, "it adds to the command line")
        return cause(Input.COMMAND_LINE)
    if ".initrd" not in context.sections and context.sections:
        return cause(_SECTION_INPUTS.get(context.sections[0], Input.UKI_SECTION), "the stub appends it")
    of_the_uki = difference.expected is None or "uki.efi" in difference.expected.origin
    return cause(Input.INITRD) if context.sections or not of_the_uki else cause(Input.ESP_EXTRA)


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
    if difference.type_name == EventType.EV_IPL.name:
        return _boot_loader(difference, context)
    names = (difference.facts.title, difference.expected.description if difference.expected else "")
    if any(DEV_IMAGE_EVENT.name in name for name in names):
        return cause(Input.DEV_IMAGE)
    return cause(Input.RUNTIME_EVENTS, difference.facts.title)


def _boot_loader(difference: Difference, context: _Context) -> Cause:
    return cause(Input.BOOT_LOADER, difference.facts.title)


def _section_name(difference: Difference) -> str:
    """Name of the UKI section that a difference of PCR 11 is about."""
    if difference.expected is not None:
        found = _SECTION.search(difference.expected.origin)
        return found[1] if found else ""
    title = difference.facts.title
    return title if title.startswith(".") else ""


def _is_add_on(difference: Difference) -> bool:
    if difference.booted is None or role(difference) != 4:
        return False
    return difference.facts.details.get("device path", "").lower().endswith(".addon.efi")


def _is_host_kernel(difference: Difference) -> bool:
    """Whether a kernel is expected that the host gives directly, without a UKI."""
    expected = difference.expected
    return expected is not None and (
        expected.description == "kernel" or expected.description.startswith("kernel (Authenticode)")
    )


def _expects(difference: Difference, text: str) -> bool:
    return difference.expected is not None and text in difference.expected.description


def _rtmr0_role(difference: Difference) -> int:
    secure_boot = (EventType.EV_EFI_VARIABLE_DRIVER_CONFIG.name, EventType.EV_EFI_VARIABLE_AUTHORITY.name)
    return 7 if difference.type_name in secure_boot else 1


def _rtmr1_role(difference: Difference) -> int:
    if difference.type_name == EventType.EV_EFI_BOOT_SERVICES_DRIVER.name:
        return 2
    leaves = any("Exit Boot Services" in text for text in _texts(difference))
    return 5 if difference.type_name == EventType.EV_EFI_GPT_EVENT.name or leaves else 4


def _rtmr2_role(difference: Difference) -> int:
    if difference.type_name == EventType.EV_EVENT_TAG.name:
        return 9
    if _section_name(difference):
        return 11
    return 8 if any(text.startswith(_LOADER_TEXTS) for text in _texts(difference)) else 12


def _texts(difference: Difference) -> tuple[str, ...]:
    """What prediction and log say that was measured."""
    expected = () if difference.expected is None else (difference.expected.description,)
    return (*expected, difference.facts.title)


_CC_ROLES: Mapping[str, Callable[[Difference], int]] = {
    "mrtd": lambda difference: 0,
    "rtmr0": _rtmr0_role,
    "rtmr1": _rtmr1_role,
    "rtmr2": _rtmr2_role,
    "rtmr3": lambda difference: 14,
}
_RULES = {
    0: _firmware,
    1: _machine,
    2: _option_rom,
    4: _program,
    5: _configuration,
    7: _secure_boot,
    8: _boot_loader,
    9: _kernel_stub,
    10: _ima,
    11: _section,
    12: _parameters,
    13: _extensions,
    14: _runtime,
}
