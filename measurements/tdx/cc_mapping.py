"""Where events of a TPM boot go in a trust domain: the CC measurement registers.

Source: UEFI 2.10, section 38.4.1 (the PCR mapping of EFI_CC_MEASUREMENT_PROTOCOL). A CC event log counts
registers as the protocol does: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3. Firmware and boot loaders say PCRs:

======== ======== =================================================
PCR      register what
======== ======== =================================================
0        MRTD     not extended: firmware code is measured at launch
1, 7     RTMR0    configuration of machine and firmware, Secure Boot
2 to 6   RTMR1    programs that firmware starts, partition table
8 to 15  RTMR2    what boot loaders and kernel measure
======== ======== =================================================

RTMR3 is left to the guest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

from measurements.errors import FormatError
from measurements.events import Bank, EventType, MeasuredEvent
from measurements.platforms import RegisterEvent


class CcRegister(IntEnum):
    """Measurement registers by their index in a CC event log."""

    MRTD = 0
    RTMR0 = 1
    RTMR1 = 2
    RTMR2 = 3
    RTMR3 = 4

    @property
    def register(self) -> str:
        """The name that predictions use."""
        return self.name.lower()


_OF_PCR: Mapping[int, CcRegister] = {
    0: CcRegister.MRTD,
    1: CcRegister.RTMR0,
    7: CcRegister.RTMR0,
    **dict.fromkeys(range(2, 7), CcRegister.RTMR1),
    **dict.fromkeys(range(8, 16), CcRegister.RTMR2),
}


def register_of(pcr: int) -> CcRegister:
    """The register that takes what firmware measures for ``pcr``; raises ``FormatError`` if there is none."""
    register = _OF_PCR.get(pcr)
    if register is None:
        raise FormatError(
            f"has no register in a trust domain, which takes PCR 0 to {max(_OF_PCR)} only",
            subject=f"PCR {pcr}",
            advice="measure into another PCR",
        )
    return register


def in_trust_domain(events: Iterable[MeasuredEvent]) -> list[RegisterEvent]:
    """The same events as a trust domain measures them, in their order.

    Separators are left out, because firmware extends them once per register and not once per PCR; so are
    events of PCR 0, whose register is fixed at launch.
    """
    return [
        cc_event(event, register_of(event.pcr))
        for event in events
        if event.event_type is not EventType.EV_SEPARATOR and register_of(event.pcr) is not CcRegister.MRTD
    ]


def cc_event(event: MeasuredEvent, register: CcRegister) -> RegisterEvent:
    """``event`` as an extend of ``register``; trust domains have SHA-384 only."""
    return RegisterEvent(
        register=register.register,
        event_type=event.event_type.name,
        digests={Bank.SHA384.value: event.digests[Bank.SHA384]},
        description=event.description,
        origin=event.origin,
        provenance=event.provenance,
    )
