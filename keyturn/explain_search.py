"""Searches near misses with the files that a user gives: a shell around ``near_miss_search``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyturn.output import Output

if TYPE_CHECKING:
    from measurements.boot_sequence import ImageEvents
    from measurements.booted import Booted
    from measurements.near_miss import Change, NearMisses
    from measurements.platforms import PlatformPrediction, RegisterEvent
    from measurements.sev.kernel_hashes import KernelHashes


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFiles:
    """What the search may use: an image folder, OVMF's files, and others to try instead."""

    image: Path | None = None
    firmware_code: Path | None = None
    firmware_vars: Path | None = None
    firmware: Path | None = None
    other_firmware: Sequence[Path] = ()
    other_vars: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inputs:
    """Inputs of a platform, the changes of them, and how to predict from them."""

    inputs: Any = None
    predict: Any = None
    changes: Sequence[Change[Any]] = ()


def search_machine(
    out: Output,
    expected: PlatformPrediction,
    predictions: Sequence[PlatformPrediction],
    booted: Booted,
    *,
    files: SearchFiles,
    neighbours: bool,
) -> NearMisses:
    """Near misses of ``expected`` among all that can be tried; costly ones only with ``neighbours``."""
    from measurements.near_miss import Problem, values_to_explain
    from measurements.near_miss_edits import edits, other_predictions
    from measurements.near_miss_search import search

    image = _image(files.image)
    platform = _platform_inputs(expected, image, files, neighbours=neighbours)
    problem = Problem(
        expected=expected,
        found=values_to_explain(expected, booted.registers),
        inputs=platform.inputs,
        predict=platform.predict,
    )
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


def _image(folder: Path | None) -> ImageEvents | None:
    if folder is None:
        return None
    from image_builder.measured_image import read_measured_image
    from measurements.boot_sequence import measure_image

    return measure_image(read_measured_image(folder))


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


def _platform_inputs(
    expected: PlatformPrediction, image: ImageEvents | None, files: SearchFiles, *, neighbours: bool
) -> _Inputs:
    """The inputs of a platform, where the files for them are given."""
    from measurements.platforms import Platform

    if expected.platform is Platform.TPM:
        return _tpm_inputs(expected, image, files) if neighbours else _Inputs()
    if expected.platform in (Platform.SNP, Platform.SEV_ES, Platform.SEV) and files.firmware is not None:
        return _sev_inputs(expected, files.firmware, files)
    return _Inputs()


def _tpm_inputs(expected: PlatformPrediction, image: ImageEvents | None, files: SearchFiles) -> _Inputs:
    from keyturn.run_inputs import find_firmware
    from measurements.near_miss_tpm import TpmInputs, tpm_changes, tpm_predictor
    from measurements.predict_tpm import FirmwareInputs
    from measurements.shape import shape_from_mapping

    found = find_firmware(files.firmware_code, files.firmware_vars)
    inputs = TpmInputs(
        firmware=FirmwareInputs.read(code=found.code, variables=found.variables),
        shape=shape_from_mapping(expected.shape),
        image=image,
    )
    stores = [FirmwareInputs.of(inputs.firmware.firmware, variables=path) for path in files.other_vars]
    others = [FirmwareInputs.read(code=path, variables=found.variables) for path in files.other_firmware]
    changes = list(tpm_changes(inputs, stores=stores, firmware=others))
    return _Inputs(inputs=inputs, predict=tpm_predictor(expected), changes=changes)


def _sev_inputs(expected: PlatformPrediction, firmware: Path, files: SearchFiles) -> _Inputs:
    from measurements.near_miss_sev import SevPredictor, sev_changes, sev_inputs
    from measurements.sev.ovmf_metadata import parse_sev_image

    image, *others = (
        parse_sev_image(path.read_bytes(), name=str(path)) for path in (firmware, *files.other_firmware)
    )
    kernel, predict = _kernel_hashes(files.image), SevPredictor()
    inputs = sev_inputs(expected, image, kernel, predict)
    changes = list(sev_changes(inputs, kernel=kernel, firmware=others))
    return _Inputs(inputs=inputs, predict=predict, changes=changes)


def _kernel_hashes(folder: Path | None) -> KernelHashes | None:
    """The hashes of a direct boot of the image in ``folder``."""
    if folder is None:
        return None
    from image_builder.image import Artefact, load_image
    from measurements.sev.kernel_hashes import hash_kernel

    image = load_image(folder)
    return hash_kernel(
        kernel=image.path(Artefact.KERNEL).read_bytes(),
        initrd=image.path(Artefact.INITRD).read_bytes(),
        cmdline=image.path(Artefact.CMDLINE).read_text(encoding="ascii").rstrip("\n"),
    )
