"""Which bytes of a logged event its digest covers: the only ones of a record that somebody may rely on.

A digest that extended a quoted register is true. The data beside it is what the log says was hashed, and for
many types that is only a description: an address, a file name. So data counts only where its hash is the
digest, and for the types below it has to be (TCG PC Client Platform Firmware Profile 1.06, section 10.4.1,
table of event types; held against the real logs of the test vectors, numbers of digests in brackets):

=================================  ======================================================================
EV_SEPARATOR                       data (468). A separator that reports an error logs other data than it
                                   measures and is refused: something was not measured
EV_S_CRTM_VERSION                  data (56; one bare-metal host measures something else and is refused)
EV_ACTION, EV_EFI_ACTION           data (157)
EV_EFI_GPT_EVENT                   data (63)
EV_EFI_VARIABLE_DRIVER_CONFIG      data: the whole ``UEFI_VARIABLE_DATA`` (352)
EV_EFI_VARIABLE_BOOT, ..._BOOT2    the variable's data alone (263), which leaves its name uncovered; or the
                                   whole structure, as the text of the profile up to 1.05 can be read (69)
EV_EFI_VARIABLE_AUTHORITY          data (73). shim and edk2 of 2020 and before log six bytes more than the
                                   structure has, and measure all but the last (17): see ``_PADDED``
EV_EVENT_TAG of the tag AAEL       data: an entry of the application event log of Confidential Containers
EV_IPL of GRUB                     what follows ``grub_cmd: ``, ``kernel_cmdline: `` or ``module_cmdline: ``,
                                   without the NUL (850; ``grub-core/commands/tpm.c`` of GRUB 2.04 and later)
EV_NO_ACTION                       extends nothing: zeros (or the data, as Windows has it)
=================================  ======================================================================

Elsewhere data is covered if it happens to be what was hashed. systemd-stub's EV_IPL names a section in UTF-16
and measures the name in ASCII with a NUL, then the section, with the same data; the first is recognised.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from functools import cache

from measurements.errors import FormatError
from measurements.events import EventType

AAEL_TAG = b"LEAA"
"""Tag 0x4141454C, little-endian, which begins the data."""

_WHOLE = frozenset(
    {
        EventType.EV_SEPARATOR,
        EventType.EV_S_CRTM_VERSION,
        EventType.EV_ACTION,
        EventType.EV_EFI_ACTION,
        EventType.EV_EFI_GPT_EVENT,
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
    }
)
_BOOT_VARIABLES = frozenset({EventType.EV_EFI_VARIABLE_BOOT, EventType.EV_EFI_VARIABLE_BOOT2})
_GRUB_TEXTS = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")
_VARIABLE = struct.Struct("<16sQQ")
_PADDED = 6
"""``sizeof`` of a C structure of 32 bytes with a UTF-16 and an 8-bit array of one element, padded to 8,
minus what is in use: what firmware of 2020 logs too much.
"""


def covered_data(event_type: int, data: bytes, digests: Mapping[str, bytes]) -> bytes | None:
    """The bytes whose digest is ``digests`` (by bank), in all banks, or ``None``. Raises ``FormatError`` if
    the type says that it must be the digest of its data, and it is not.
    """
    if event_type == EventType.EV_NO_ACTION and not any(map(any, digests.values())):
        return None
    defined = _defined(event_type, data)
    for candidate in defined or _likely(event_type, data):
        if all(hash_in(bank, candidate) == digest for bank, digest in digests.items()):
            return candidate
    if defined:
        raise FormatError(
            "has a digest that is not that of its data",
            subject="record",
            advice="read the log again from the machine: this one was edited, or its firmware is not known",
        )
    return None


def hash_in(bank: str, data: bytes) -> bytes:
    """The digest of ``data`` in a bank; raises ``FormatError`` for one that this Python lacks (SM3)."""
    return _hasher(bank)(data).digest()


@cache
def _hasher(bank: str) -> Callable[[bytes], hashlib._Hash]:
    try:
        if bank != "sm3_256":
            constructor: Callable[[bytes], hashlib._Hash] = getattr(hashlib, bank)
            return constructor
        hashlib.new("sm3")
        return lambda data: hashlib.new("sm3", data)
    except (ValueError, AttributeError) as error:
        raise FormatError(
            f"needs the hash of the bank {bank}, which this Python lacks",
            subject="event log",
            advice="use a machine with a SHA-2 bank",
        ) from error


def _defined(event_type: int, data: bytes) -> tuple[bytes, ...]:
    """What the digest can be taken over, if the type says so."""
    if event_type in _WHOLE or event_type == EventType.EV_NO_ACTION:
        return (data,)
    if event_type in _BOOT_VARIABLES:
        return (_variable_contents(data), data)
    if event_type == EventType.EV_EFI_VARIABLE_AUTHORITY:
        return (data, data[:-1]) if _excess(data) == _PADDED else (data,)
    if event_type == EventType.EV_EVENT_TAG and data.startswith(AAEL_TAG):
        return (data,)
    if event_type == EventType.EV_IPL:
        return tuple(
            data.rstrip(b"\0").removeprefix(prefix) for prefix in _GRUB_TEXTS if data.startswith(prefix)
        )
    return ()


def _likely(event_type: int, data: bytes) -> tuple[bytes, ...]:
    """What the digest may have been taken over, where the type does not say."""
    if event_type == EventType.EV_IPL:
        return (data, _section_name(data))
    return (data,)


def _section_name(data: bytes) -> bytes:
    """A name in UTF-16 as ASCII with one NUL; bytes that are none as they are."""
    text = data.decode("utf-16-le", errors="replace").rstrip("\0")
    return text.encode("ascii") + b"\0" if text.isascii() else data


def _variable_contents(data: bytes) -> bytes:
    """The data of a ``UEFI_VARIABLE_DATA``; all of it where lengths do not fit, which then matches nothing
    but the whole.
    """
    if len(data) < _VARIABLE.size or _excess(data):
        return data
    _, name_units, _ = _VARIABLE.unpack_from(data)
    start: int = _VARIABLE.size + 2 * name_units
    return data[start:]


def _excess(data: bytes) -> int | None:
    """Bytes beyond those that a ``UEFI_VARIABLE_DATA`` counts."""
    if len(data) < _VARIABLE.size:
        return None
    _, name_units, size = _VARIABLE.unpack_from(data)
    excess: int = len(data) - (_VARIABLE.size + 2 * name_units + size)
    return excess
