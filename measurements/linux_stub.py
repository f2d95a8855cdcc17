"""PCR 9: what the EFI stub of Linux on x86 measures before it leaves boot services.

Rules (Linux ``drivers/firmware/efi/libstub/efi-stub-helper.c``, since 6.1): the load options that the image
was started with, as UTF-16LE with the terminating NUL, if there are any; then the initrd that it received
through the LoadFile2 protocol, if it is not empty. Both are ``EV_EVENT_TAG`` with the plain hash.
"""

from __future__ import annotations

from collections.abc import Mapping

from measurements.errors import FormatError
from measurements.events import Bank, EventType, MeasuredEvent, event_over

PCR = 9
OLDEST_KERNEL = (6, 1)
COMMAND_LINE_DESCRIPTION = "LOADED_IMAGE::LoadOptions, the kernel command line: "


def check_kernel_release(release: str) -> None:
    """Raise ``FormatError`` if the kernel ``release`` (``6.12.107+deb13``) is older than the rules."""
    numbers = release.split("-")[0].split("+")[0].split(".")[:2]
    if not all(number.isdigit() for number in numbers) or len(numbers) < 2:
        raise FormatError(
            f"has a release {release!r} that is not a version", subject="kernel", advice="rebuild the image"
        )
    if (int(numbers[0]), int(numbers[1])) < OLDEST_KERNEL:
        raise FormatError(
            f"is version {release}, whose EFI stub measures by other rules",
            subject="kernel",
            advice=f"use Linux {OLDEST_KERNEL[0]}.{OLDEST_KERNEL[1]} or later",
        )


def kernel_stub_events(
    *, command_line: str, initrd: bytes, command_line_origin: str, initrd_origin: str
) -> list[MeasuredEvent]:
    """The events of a kernel that is started with ``command_line`` and ``initrd``."""
    return [
        *command_line_event(command_line, origin=command_line_origin),
        *initrd_event(initrd, origin=initrd_origin),
    ]


def command_line_event(command_line: str, *, origin: str) -> list[MeasuredEvent]:
    """The load options; none where they are empty."""
    if not command_line:
        return []
    return [
        event_over(
            command_line.encode("utf-16-le") + b"\0\0",
            pcr=PCR,
            event_type=EventType.EV_EVENT_TAG,
            description=f"{COMMAND_LINE_DESCRIPTION}{command_line}",
            origin=origin,
        )
    ]


def initrd_event(
    initrd: bytes, *, origin: str, digests: Mapping[Bank, bytes] | None = None
) -> list[MeasuredEvent]:
    """The initrd; none where it is empty. ``digests`` are those of ``initrd``, if they are known already."""
    if not initrd:
        return []
    return [
        event_over(
            initrd,
            pcr=PCR,
            event_type=EventType.EV_EVENT_TAG,
            description="initrd as the kernel receives it (Linux initrd)",
            origin=origin,
            digests=digests,
        )
    ]
