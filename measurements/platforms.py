"""What every platform's prediction looks like: registers, and the ordered events that yield them.

TPM systems, TDX, SEV and Nitro differ in how many registers they have and in how a register grows, not in
what a user wants to know: each value, what went into it in which order, and which input each part came from.
A platform whose values depend on choices of the host (CPU model, guest features) has one prediction per
choice; ``label`` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from measurements.events import Provenance


class Platform(StrEnum):
    """Platforms that are predicted."""

    TPM = "tpm"
    TDX = "tdx"
    SNP = "snp"
    SEV_ES = "sev-es"
    SEV = "sev"
    NITRO = "nitro"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterEvent:
    """One step of one register, in the order of the boot.

    ``register`` is ``0`` to ``23`` for PCRs, ``mrtd``, ``rtmr0`` to ``rtmr3``, or ``measurement`` (SEV).
    ``event_type`` is the name of the TCG event type, or for registers that are no chain of event digests the
    platform's own word (``MRTD section``, ``SNP pages``). ``digests`` holds, by bank, the digest that extends
    the register; where ``running`` is set, the register's value after this step.
    """

    register: str
    event_type: str
    digests: Mapping[str, bytes]
    description: str
    origin: str
    provenance: Provenance = Provenance.COMPUTED
    running: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformPrediction:
    """The registers of one image on one machine.

    ``registers`` maps register to bank to value; ``shape`` has the keys of ``shape.toml`` that the values
    hold for, ``label`` what tells this prediction from the others of the same platform, image and shape.
    """

    platform: Platform
    shape: Mapping[str, object]
    registers: Mapping[str, Mapping[str, bytes]]
    events: Sequence[RegisterEvent]
    label: Mapping[str, str] = field(default_factory=dict)

    def inputs(self, register: str) -> tuple[str, ...]:
        """The inputs that ``register`` comes from, each once, in the order in which they were measured."""
        return tuple(dict.fromkeys(event.origin for event in self.events if event.register == register))
