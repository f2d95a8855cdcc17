"""The boot as a state machine: which phases there are, and that each is entered once and in order. Pure."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from measurements.errors import RefusedError


class Phase(Enum):
    """Phases of a boot, in order."""

    MOUNT = "mount"
    IDENTIFY = "identify"
    MARK = "mark"
    MEASURE = "measure"
    REPORT = "report"
    WAIT = "wait"


class PhaseError(RefusedError):
    """A phase that is entered twice, too early, or not at all."""

    code = "phase"


class Boot(NamedTuple):
    """How far the boot is: the phases that were entered."""

    entered: tuple[Phase, ...] = ()

    def enter(self, phase: Phase) -> Boot:
        """The boot after entering ``phase``. Raises ``PhaseError`` unless it is the next one."""
        expected = self.next_phase
        if phase is not expected:
            wanted = "none is left" if expected is None else f"{expected.value} is next"
            raise PhaseError(
                f"entered while {wanted}", subject=f"phase {phase.value}", advice="report this as a bug"
            )
        return Boot((*self.entered, phase))

    @property
    def next_phase(self) -> Phase | None:
        """The phase that must come now; ``None`` after the last one."""
        phases = tuple(Phase)
        return phases[len(self.entered)] if len(self.entered) < len(phases) else None
