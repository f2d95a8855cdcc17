"""Searches near misses with the files that a user gives: a shell around ``near_miss_search``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keyturn.explain_inputs import SearchFiles, platform_inputs, read_image
from keyturn.output import Output

if TYPE_CHECKING:
    from measurements.boot_sequence import ImageEvents
    from measurements.booted import Booted
    from measurements.booted_files import BootedMachine
    from measurements.near_miss import Change, NearMisses
    from measurements.platforms import PlatformPrediction, RegisterEvent


def search_machine(
    out: Output,
    expected: PlatformPrediction,
    predictions: Sequence[PlatformPrediction],
    machine: BootedMachine,
    *,
    files: SearchFiles,
    neighbours: bool,
) -> NearMisses:
    """Near misses of ``expected`` among all that can be tried; costly ones only with ``neighbours``."""
    from measurements.near_miss import Problem, values_to_explain
    from measurements.near_miss_edits import edits, other_predictions
    from measurements.near_miss_search import search

    found = values_to_explain(expected, machine.booted.registers)
    problem: Problem[Any] = Problem(expected=expected, found=found, log=machine.booted.platform_events)
    if not problem.wrong:
        return search(problem, ())
    image = read_image(files.image)
    platform = platform_inputs(expected, image, files, neighbours=neighbours, vm_config=machine.vm_config)
    problem = replace(problem, inputs=platform.inputs, predict=platform.predict)
    changes = [
        *other_predictions(expected, predictions),
        *edits(expected, inner_kernel=_inner_kernel(expected, image)),
        *_known_firmware(expected),
        *platform.changes,
    ]
    with out.progress() as bars:
        return search(
            problem,
            changes,
            costly=neighbours,
            progress=lambda done, total: bars.update("near misses", done=done, total=total),
        )


def search_log(booted: Booted) -> NearMisses | None:
    """Near misses of the log itself: how it would yield the registers that were told; None if it does, or if
    there is no log or nothing else that tells registers.
    """
    from measurements.near_miss import Problem
    from measurements.near_miss_edits import edits
    from measurements.near_miss_search import search
    from measurements.recorded import recorded_prediction

    if booted.log is None or booted.reported is None:
        return None
    recorded = recorded_prediction(booted.platform, booted.log)
    problem: Problem[None] = Problem(expected=recorded, found=booted.reported)
    return search(problem, list(edits(recorded))) if problem.wrong else None


def _known_firmware(expected: PlatformPrediction) -> Sequence[Change[Any]]:
    """Values of known firmware files, which need not be at hand."""
    if "mrtd" not in expected.registers:
        return ()
    from measurements.firmware_catalogue import catalogue
    from measurements.near_miss_firmware import known_mrtd_edits

    return list(known_mrtd_edits(catalogue(), expected))


def _inner_kernel(expected: PlatformPrediction, image: ImageEvents | None) -> RegisterEvent | None:
    """The event of the kernel inside the image's UKI on the platform of ``expected``, if it can have one."""
    from measurements.platforms import Platform
    from measurements.reference import register_event
    from measurements.tdx.cc_mapping import CcRegister, cc_event

    if image is None:
        return None
    if expected.platform is Platform.TDX:
        return cc_event(image.inner_kernel, CcRegister.RTMR1)
    return register_event(image.inner_kernel) if expected.platform is Platform.TPM else None
