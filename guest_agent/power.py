"""Waiting for the word to stop: the power button, or SIGTERM.

The kernel reports the button on an event device as ``struct input_event`` (linux/input.h, 64-bit),
little-endian::

    i64 seconds   i64 microseconds   u16 type (1 = EV_KEY)   u16 code (116 = KEY_POWER)
    s32 value (1 = pressed)
"""

from __future__ import annotations

import os
import select
import signal
import struct
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from measurements.errors import RefusedError

_EVENT = struct.Struct("<qqHHi")
_EV_KEY, _KEY_POWER, _PRESSED = 1, 116, 1


class PowerError(RefusedError):
    """Nothing can tell the machine to stop."""

    code = "power"


class Stop(Exception):  # noqa: N818
    """SIGTERM arrived."""


def pressed(data: bytes) -> bool:
    """Whether ``data`` holds a press of the power button; a cut-off event at its end is ignored."""
    whole = len(data) - len(data) % _EVENT.size
    return any(event[2:] == (_EV_KEY, _KEY_POWER, _PRESSED) for event in _EVENT.iter_unpack(data[:whole]))


def event_devices(root: Path = Path("/")) -> list[Path]:
    """All event devices."""
    return sorted((root / "dev/input").glob("event*"))


def listen(devices: Iterable[Path]) -> tuple[int, ...]:
    """Descriptors of the devices: a press from now on is kept until ``wait_for_stop``, and so is SIGTERM.

    Raises ``PowerError`` without any event device.
    """
    descriptors = tuple(os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) for device in devices)
    if not descriptors:
        raise PowerError(
            "there is no event device",
            subject="power button",
            advice="load the kernel modules button and evdev",
        )
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    return descriptors


def wait_for_stop(descriptors: Iterable[int]) -> str:
    """Sleep until the machine is told to stop; returns who said so."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        wait_for_press(descriptors)
    except Stop:
        return "SIGTERM"
    return "power button"


def wait_for_press(descriptors: Iterable[int]) -> None:
    """Sleep until the power button is pressed, or was since ``listen``."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    while not any(pressed(os.read(ready, 64 * _EVENT.size)) for ready, _ in poll.poll()):
        pass


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stop
