"""EFI variables as firmware measures them.

``UEFI_VARIABLE_DATA`` (TCG PC Client Platform Firmware Profile 1.06, section 10.2.6; little endian)::

    16 bytes vendor GUID | u64 name length in UTF-16 units, no NUL | u64 data length | name, UTF-16 | data

The digest of EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_VARIABLE_AUTHORITY and EV_EFI_VARIABLE_BOOT is taken over
the whole structure; of EV_EFI_VARIABLE_BOOT2, and of EV_EFI_VARIABLE_BOOT in edk2, over the data alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from measurements.errors import FormatError

GLOBAL_VARIABLE = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SECURE_BOOT_ENABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")

_HEADER = struct.Struct("<16sQQ")


@dataclass(frozen=True, kw_only=True, slots=True)
class EfiVariable:
    """One variable: its name, vendor GUID and data."""

    name: str
    vendor: UUID
    data: bytes

    def measured_bytes(self) -> bytes:
        """The variable as ``UEFI_VARIABLE_DATA``."""
        name = self.name.encode("utf-16-le")
        return _HEADER.pack(self.vendor.bytes_le, len(name) // 2, len(self.data)) + name + self.data


def parse_variable_data(data: bytes, *, subject: str = "event data") -> EfiVariable:
    """Read ``UEFI_VARIABLE_DATA``; raises ``FormatError`` if lengths and bytes do not agree exactly."""
    if len(data) < _HEADER.size:
        raise _error("is too short for a variable", subject)
    vendor, name_units, data_size = _HEADER.unpack_from(data)
    if _HEADER.size + 2 * name_units + data_size != len(data):
        raise _error("has lengths that do not add up", subject)
    name_end = _HEADER.size + 2 * name_units
    try:
        name = data[_HEADER.size : name_end].decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise _error("has a name that is not UTF-16", subject) from error
    return EfiVariable(name=name, vendor=UUID(bytes_le=vendor), data=data[name_end:])


def _error(reason: str, subject: str) -> FormatError:
    return FormatError(reason, subject=subject, advice="give an intact variable or event log")
