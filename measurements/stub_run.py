"""What systemd-stub measures between the UKI's sections and the kernel, and what it hands to the kernel.

In this order (systemd ``src/boot/stub.c``, ``src/boot/measure-smbios.c`` and
``docs/TPM2_PCR_MEASUREMENTS.md``; confirmed by boots of 252, 254, 257 and 262):

1. each add-on, as firmware loads it (PCR 4, with Secure Boot also PCR 7);
2. the command lines of the add-ons as one text, then that of the host's SMBIOS string
   ``io.systemd.stub.kernel-cmdline-extra=`` (PCR 12; UTF-16LE with NUL); 254 loads and measures the add-ons
   of one folder before it looks at the next;
3. from 262 on, the SMBIOS structures of type 1, 2 and 11 with their strings, the wake-up type of type 1 as
   zero (PCR 1, ``EV_EVENT_TAG``);
4. the archives of ``measurements.esp_files`` (PCR 12, 13);
5. microcode of the add-ons in reverse order, their initrds in order (PCR 12, ``EV_EVENT_TAG``).

From 262 on the stub also adds ``console=`` for what it finds on the machine to a command line that has none;
such command lines are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from measurements.errors import FormatError
from measurements.esp_files import (
    ADDONS_SINCE,
    CONFIG_PCR,
    Addon,
    EspFiles,
    Sidecar,
    addons,
    check_esp,
    sidecars,
)
from measurements.events import EventType, MeasuredEvent, event_over
from measurements.systemd_stub import Uki, final_command_line, final_initrd, section_text, trimmed

if TYPE_CHECKING:
    from measurements.smbios import Structure

SMBIOS_SINCE = 262
CONSOLE_SINCE = 262
PLATFORM_PCR = 1
EXTRA_LINE = b"io.systemd.stub.kernel-cmdline-extra="
_SMBIOS_TYPES = (1, 2, 11)
_BY_FOLDER_UNTIL = 254
_WAKE_UP_TYPE = 0x18


@dataclass(frozen=True, kw_only=True, slots=True)
class AddonGroup:
    """Add-ons that are loaded one after another and whose command lines are measured as one text."""

    addons: tuple[Addon, ...]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StubRun:
    """What image and partition contribute, whatever the machine."""

    version: int
    command_line: str
    groups: tuple[AddonGroup, ...]
    sidecars: tuple[Sidecar, ...]
    initrd: bytes

    @property
    def addons(self) -> tuple[Addon, ...]:
        """All add-ons in order."""
        return tuple(addon for group in self.groups for addon in group.addons)


def prepare_run(uki: Uki, esp: EspFiles) -> StubRun:
    """The run of the UKI's stub with the files of ``esp``; raises ``FormatError`` where it is not known."""
    check_esp(esp, stub=uki.version)
    loaded = addons(esp, stub=uki.version, uname=uki.sections.get(".uname"))
    packed = sidecars(esp, stub=uki.version)
    return StubRun(
        version=uki.version,
        command_line=final_command_line(uki),
        groups=tuple(_groups(loaded, uki.version)),
        sidecars=tuple(packed),
        initrd=final_initrd(
            uki,
            microcode=[data for _, data in _microcodes(loaded)],
            sidecars=[sidecar.data for sidecar in packed],
            initrds=[data for _, data in _initrds(loaded)],
        ),
    )


def kernel_command_line(run: StubRun, oem_strings: Sequence[bytes]) -> str:
    """The command line that the kernel receives on a machine with these SMBIOS strings."""
    parts = [run.command_line, *(group.text for group in run.groups), _host_text(run, oem_strings)]
    line = " ".join(part for part in parts if part)
    if run.version >= CONSOLE_SINCE and not f" {line}".count(" console="):
        raise FormatError(
            f"has no console=, and systemd-stub {run.version} adds one for what it finds on the machine",
            subject="kernel command line",
            advice="name the console, such as console=ttyS0",
        )
    return line


def stub_events(
    run: StubRun,
    *,
    load: Callable[[Addon], Iterable[MeasuredEvent]],
    oem_strings: Sequence[bytes],
    smbios: Callable[[], Sequence[Structure]],
) -> Iterator[MeasuredEvent]:
    """The events between the UKI's sections and the kernel. ``load`` gives the events of a program that
    firmware loads, ``oem_strings`` are the host's SMBIOS strings (type 11), ``smbios`` reads the machine's
    tables, if they are needed.
    """
    for group in run.groups:
        for addon in group.addons:
            yield from load(addon)
        yield from _line_events(group.text, "add-ons")
    yield from _line_events(_host_text(run, oem_strings), "the host's SMBIOS string")
    if run.version >= SMBIOS_SINCE:
        yield from map(_smbios_event, _measured_structures(smbios()))
    for sidecar in run.sidecars:
        yield event_over(
            sidecar.data,
            pcr=sidecar.pcr,
            event_type=EventType.EV_IPL,
            description=sidecar.description,
            origin=sidecar.origin,
        )
    for what, found in (("microcode", _microcodes(run.addons)), ("initrd", _initrds(run.addons))):
        for path, data in found:
            yield event_over(
                data,
                pcr=CONFIG_PCR,
                event_type=EventType.EV_EVENT_TAG,
                description=f"{what} of an add-on",
                origin=f"{path} of the EFI system partition",
            )


def _groups(loaded: Sequence[Addon], version: int) -> Iterator[AddonGroup]:
    """All in one, or in 254 one per folder."""
    by_folder = version <= _BY_FOLDER_UNTIL
    for _, found in groupby(loaded, key=lambda addon: by_folder and addon.path.rpartition("/")[0]):
        members = tuple(found)
        yield AddonGroup(addons=members, text=_joined_text(members, version))


def _joined_text(members: Sequence[Addon], version: int) -> str:
    """The command lines of add-ons, joined; old stubs trim only the whole."""
    texts = [
        section_text(addon.command_line, subject=addon.path)
        for addon in members
        if addon.command_line is not None
    ]
    each = texts if version <= _BY_FOLDER_UNTIL else map(trimmed, texts)
    return trimmed(" ".join(text for text in each if text))


def _host_text(run: StubRun, oem_strings: Sequence[bytes]) -> str:
    if run.version < ADDONS_SINCE:
        return ""
    found = (text.removeprefix(EXTRA_LINE) for text in oem_strings if text.startswith(EXTRA_LINE))
    return trimmed(section_text(next(found, b""), subject="SMBIOS string of the machine"))


def _line_events(text: str, whose: str) -> Iterator[MeasuredEvent]:
    if text:
        yield event_over(
            text.encode("utf-16-le") + b"\0\0",
            pcr=CONFIG_PCR,
            event_type=EventType.EV_IPL,
            description=f"command line of {whose}: {text}",
            origin=whose,
        )


def _measured_structures(structures: Sequence[Structure]) -> Iterator[Structure]:
    for structure in structures:
        kind = structure.fields[0]
        if kind not in _SMBIOS_TYPES:
            continue
        fields = bytearray(structure.fields)
        if kind == 1:
            fields[_WAKE_UP_TYPE] = 0
        yield replace(structure, fields=bytes(fields))


def _smbios_event(structure: Structure) -> MeasuredEvent:
    return event_over(
        structure.encode(),
        pcr=PLATFORM_PCR,
        event_type=EventType.EV_EVENT_TAG,
        description=f"SMBIOS structure of type {structure.fields[0]}, as the stub finds it",
        origin="SMBIOS tables of the machine shape",
    )


def _microcodes(loaded: Sequence[Addon]) -> list[tuple[str, bytes]]:
    """Reversed: the kernel takes the first that fits, and later add-ons shall win."""
    return [(addon.path, addon.microcode) for addon in reversed(loaded) if addon.microcode is not None]


def _initrds(loaded: Sequence[Addon]) -> list[tuple[str, bytes]]:
    return [(addon.path, addon.initrd) for addon in loaded if addon.initrd is not None]
