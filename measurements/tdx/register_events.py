"""Events of RTMRs: one SHA-384 digest each, which extends the register ``r = SHA-384(r ‖ digest)``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from measurements.events import Bank, EventType, Provenance
from measurements.platforms import RegisterEvent
from measurements.tdx.cc_mapping import CcRegister

BANK = Bank.SHA384.value
RTMRS = (CcRegister.RTMR0, CcRegister.RTMR1, CcRegister.RTMR2, CcRegister.RTMR3)


def event_over(
    data: bytes,
    register: CcRegister,
    event_type: EventType,
    *,
    description: str,
    origin: str,
    provenance: Provenance = Provenance.COMPUTED,
) -> RegisterEvent:
    """An event whose digest is plainly the hash of ``data``."""
    return RegisterEvent(
        register=register.register,
        event_type=event_type.name,
        digests={BANK: hashlib.sha384(data).digest()},
        description=description,
        origin=origin,
        provenance=provenance,
    )


def separator(register: CcRegister) -> RegisterEvent:
    """The separator that ends the firmware's own measurements of a kind."""
    return event_over(bytes(4), register, EventType.EV_SEPARATOR, description="separator", origin="firmware")


def replay(events: Iterable[RegisterEvent]) -> dict[str, bytes]:
    """RTMR0 to RTMR3 after ``events``; what nothing extends stays zero."""
    values = {register.register: bytes(Bank.SHA384.size) for register in RTMRS}
    for event in events:
        before = values[event.register]
        values[event.register] = hashlib.sha384(before + event.digests[BANK]).digest()
    return values
