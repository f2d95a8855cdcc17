"""A log as a prediction: what one machine measured, recorded as it is. Nothing is computed from inputs."""

from __future__ import annotations

from collections.abc import Mapping

from measurements.booted import BootedLog
from measurements.events import Provenance
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent

ORIGIN = "recorded from a log"


def recorded_prediction(
    platform: Platform, log: BootedLog, *, shape: Mapping[str, object] | None = None
) -> PlatformPrediction:
    """The log's events and the registers that they yield; descriptions are claims of the log."""
    events = tuple(
        RegisterEvent(
            register=event.register,
            event_type=event.type_name,
            digests=event.digests,
            description=event.facts.title,
            origin=ORIGIN,
            provenance=Provenance.DRY_BOOT,
        )
        for event in log.events
    )
    return PlatformPrediction(platform=platform, shape=shape or {}, registers=log.registers, events=events)
