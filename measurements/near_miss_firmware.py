"""Near misses of MRTD by what is known of firmware files, which need not be at hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from measurements.firmware_catalogue import Catalogue
from measurements.near_miss import Change, NearMissKind
from measurements.near_miss_edits import with_events
from measurements.platforms import PlatformPrediction, RegisterEvent

MRTD, BANK = "mrtd", "sha384"


def known_mrtd_edits(known: Catalogue, expected: PlatformPrediction) -> Iterator[Change[Any]]:
    """The MRTD of each known file in each page order. For a file that ``expected`` is predicted for, another
    order is the cause, for all others the firmware.
    """
    predicted = expected.registers.get(MRTD, {}).get(BANK)
    for file in known.files.values():
        same = predicted in file.mrtd.values()
        kind = NearMissKind.PAGE_ORDER if same else NearMissKind.FIRMWARE
        for order, value in file.mrtd.items():
            name = f"{file.file} of {file.package} ({file.distribution})"
            words = (
                f"the hypervisor adds pages in the order {order.value}"
                if same
                else f"the firmware is {name}, pages in the order {order.value}"
            )
            yield mrtd_change(kind, words, value)
    for entry in known.mrtds:
        yield mrtd_change(NearMissKind.FIRMWARE, f"the firmware is {entry.name}", entry.mrtd)


def mrtd_change(kind: NearMissKind, words: str, value: bytes) -> Change[Any]:
    """A known value of MRTD."""
    edit = partial(_with_mrtd, value=value, words=words)
    return Change(kind=kind, words=words, registers=frozenset((MRTD,)), edit=edit)


def _with_mrtd(prediction: PlatformPrediction, *, value: bytes, words: str) -> PlatformPrediction | None:
    """The prediction with another MRTD; the sections that led to it are not known."""
    if MRTD not in prediction.registers:
        return None
    event = RegisterEvent(
        register=MRTD,
        event_type="MRTD",
        digests={BANK: value},
        description=f"known value: {words}",
        origin="known values of firmware",
        running=True,
    )
    kept = [each for each in prediction.events if each.register != MRTD]
    return with_events(prediction, [event, *kept])
