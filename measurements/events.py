"""Measured events: what extends a register, with the input that it comes from.

A register is a running hash, ``r = H(r ‖ digest)``, starting at zeros (TCG PC Client Platform Firmware
Profile 1.06, section 3.2.2). An event has one digest per hash bank. Prediction yields these events in the
order of the boot; replaying them yields the registers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Bank(StrEnum):
    """Hash banks that keyturn predicts and checks."""

    SHA256 = "sha256"
    SHA384 = "sha384"

    @property
    def size(self) -> int:
        """Digest length in bytes."""
        return hashlib.new(self.value).digest_size


class EventType(IntEnum):
    """TCG event types (PC Client Platform Firmware Profile 1.06, section 10.4.1)."""

    EV_POST_CODE = 0x00000001
    EV_NO_ACTION = 0x00000003
    EV_SEPARATOR = 0x00000004
    EV_ACTION = 0x00000005
    EV_EVENT_TAG = 0x00000006
    EV_S_CRTM_CONTENTS = 0x00000007
    EV_S_CRTM_VERSION = 0x00000008
    EV_PLATFORM_CONFIG_FLAGS = 0x0000000A
    EV_COMPACT_HASH = 0x0000000C
    EV_IPL = 0x0000000D
    EV_NONHOST_INFO = 0x00000011
    KEYTURN_RUNTIME = 0x08000001
    EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EV_EFI_VARIABLE_BOOT = 0x80000002
    EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EV_EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EV_EFI_GPT_EVENT = 0x80000006
    EV_EFI_ACTION = 0x80000007
    EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EV_EFI_HANDOFF_TABLES = 0x80000009
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EV_EFI_HANDOFF_TABLES2 = 0x8000000B
    EV_EFI_VARIABLE_BOOT2 = 0x8000000C
    EV_EFI_HCRTM_EVENT = 0x80000010
    EV_EFI_VARIABLE_AUTHORITY = 0x800000E0
    EV_EFI_SPDM_FIRMWARE_BLOB = 0x800000E1


class Provenance(StrEnum):
    """How a predicted digest came about."""

    COMPUTED = "computed"
    DRY_BOOT = "dry-boot"


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredEvent:
    """One predicted extend: ``digests`` maps every bank to raw bytes; ``origin`` names the input that
    drives it.
    """

    pcr: int
    event_type: EventType
    digests: Mapping[Bank, bytes]
    description: str
    origin: str
    provenance: Provenance = Provenance.COMPUTED


def digests_of(data: bytes) -> dict[Bank, bytes]:
    """The digest of ``data`` in every bank."""
    return {bank: hashlib.new(bank.value, data).digest() for bank in Bank}


def event_over(
    data: bytes,
    *,
    pcr: int,
    event_type: EventType,
    description: str,
    origin: str,
    digests: Mapping[Bank, bytes] | None = None,
) -> MeasuredEvent:
    """An event whose digest is plainly the hash of ``data``; ``digests`` if that is known already."""
    return MeasuredEvent(
        pcr=pcr,
        event_type=event_type,
        digests=digests_of(data) if digests is None else digests,
        description=description,
        origin=origin,
    )


def extend(register: bytes, digest: bytes, *, bank: Bank) -> bytes:
    """``H(register ‖ digest)``."""
    return hashlib.new(bank.value, register + digest).digest()


def replay(events: Iterable[MeasuredEvent], *, pcrs: Iterable[int]) -> dict[Bank, dict[int, bytes]]:
    """Register values, by bank and PCR, after ``events``; a register without events stays zero.
    EV_NO_ACTION never extends.
    """
    registers = {bank: {pcr: bytes(bank.size) for pcr in pcrs} for bank in Bank}
    for event in events:
        if event.event_type is EventType.EV_NO_ACTION:
            continue
        for bank, values in registers.items():
            values[event.pcr] = extend(values[event.pcr], event.digests[bank], bank=bank)
    return registers
