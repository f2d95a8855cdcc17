"""Runtime events: what the guest itself extends after the firmware and the kernel are done (PCR 14 on TPM
systems).

The digest of an event, with ``H`` the hash of the bank (design 5; replays with existing dstack tools)::

    H(u32le(0x08000001) ‖ ":" ‖ name ‖ ":" ‖ payload)      name: [a-z0-9-]+, payload: any bytes

Names hold no colon, so the concatenation is unambiguous. The module ships in the guest: standard library
only, and named tuples instead of data classes because importing ``dataclasses`` costs the guest more time
than everything else the agent does.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from measurements.errors import FormatError

EVENT_TYPE = 0x08000001
"""Type of a runtime event, hashed as four bytes, little-endian."""

RUNTIME_PCR = 14
"""The register of runtime events on TPM systems."""

RUNTIME_BANKS = ("sha256", "sha384")
"""The banks that the guest extends."""

_NAME = re.compile(r"[a-z0-9-]+")


class RuntimeEventError(FormatError):
    """A runtime event that is not well formed."""

    code = "runtime-event"


class RuntimeEvent(NamedTuple):
    """One event: its name and the raw payload."""

    name: str
    payload: bytes


DEV_IMAGE = RuntimeEvent("dev-image", b"")
"""Extended first, and only, by images with ``[image] dev = true``."""


def event_digest(event: RuntimeEvent, *, algorithm: str) -> bytes:
    """Digest of ``event`` in the bank ``algorithm`` (``sha256`` or ``sha384``)."""
    if not _NAME.fullmatch(event.name):
        raise RuntimeEventError(
            f"name {event.name!r} is not of the form [a-z0-9-]+",
            subject="runtime event",
            advice="use lower-case letters, digits and hyphens",
        )
    data = EVENT_TYPE.to_bytes(4, "little") + b":" + event.name.encode("ascii") + b":" + event.payload
    return hashlib.new(algorithm, data).digest()
