"""The inputs of near misses from the files that a user gives: read here, tried by ``explain_search``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measurements.platforms import Platform

if TYPE_CHECKING:
    from measurements.boot_sequence import ImageEvents
    from measurements.dstack.vm_config import VmConfig
    from measurements.near_miss import Change
    from measurements.near_miss_tdx import MachineReader
    from measurements.platforms import PlatformPrediction
    from measurements.sev.kernel_hashes import KernelHashes
    from measurements.tdx.predict import DirectBoot


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFiles:
    """What the search may use: an image folder, firmware, and firmware, variables and QEMUs to try instead.

    ``release`` names the edk2 release of firmware that is not recognised.
    """

    image: Path | None = None
    firmware_code: Path | None = None
    firmware_vars: Path | None = None
    firmware: Path | None = None
    qemu: Path | None = None
    release: str | None = None
    other_firmware: Sequence[Path] = ()
    other_vars: Sequence[Path] = ()
    other_qemus: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformInputs:
    """Inputs of a platform, the changes of them, and how to predict from them."""

    inputs: Any = None
    predict: Callable[[Any], PlatformPrediction] | None = None
    changes: Sequence[Change[Any]] = ()


def platform_inputs(
    expected: PlatformPrediction,
    image: ImageEvents | None,
    files: SearchFiles,
    *,
    neighbours: bool,
    vm_config: VmConfig | None = None,
) -> PlatformInputs:
    """The inputs of a platform, where the files for them are given; those that need QEMU with
    ``neighbours`` only. A dstack guest's ``vm_config`` may hold what stands for its firmware.
    """
    if expected.platform is Platform.TPM:
        return _tpm_inputs(expected, image, files) if neighbours else PlatformInputs()
    if files.firmware is None:
        return PlatformInputs() if vm_config is None else _dstack_inputs(expected, vm_config)
    if expected.platform is Platform.NITRO:
        return PlatformInputs()
    if expected.platform is Platform.TDX:
        return _tdx_inputs(expected, image, files.firmware, files)
    return _sev_inputs(expected, image, files.firmware, files)


def read_image(folder: Path | None) -> ImageEvents | None:
    """The measured events of the image in ``folder``."""
    if folder is None:
        return None
    from image_builder.measured_image import read_measured_image
    from measurements.boot_sequence import measure_image

    return measure_image(read_measured_image(folder))


def _tpm_inputs(
    expected: PlatformPrediction, image: ImageEvents | None, files: SearchFiles
) -> PlatformInputs:
    from keyturn.run_inputs import find_firmware
    from measurements.near_miss_tpm import TpmInputs, tpm_changes, tpm_predictor
    from measurements.predict_tpm import FirmwareInputs
    from measurements.qemu import QemuProgram
    from measurements.shape import BootSource, shape_from_mapping

    found = find_firmware(files.firmware_code, files.firmware_vars)
    shape = shape_from_mapping(expected.shape)
    firmware = FirmwareInputs.read(code=found.code, variables=found.variables)
    inputs = TpmInputs(
        firmware=replace(firmware, release=files.release),
        shape=shape,
        image=None if shape.boot is BootSource.DIRECT else image,
        qemu=None if files.qemu is None else QemuProgram.at(files.qemu),
    )
    stores = [FirmwareInputs.of(inputs.firmware.firmware, variables=path) for path in files.other_vars]
    others = [FirmwareInputs.read(code=path, variables=found.variables) for path in files.other_firmware]
    programs = [QemuProgram.at(path) for path in files.other_qemus]
    changes = list(tpm_changes(inputs, stores=stores, firmware=others, programs=programs))
    return PlatformInputs(inputs=inputs, predict=tpm_predictor(expected), changes=changes)


def _sev_inputs(
    expected: PlatformPrediction, image: ImageEvents | None, firmware: Path, files: SearchFiles
) -> PlatformInputs:
    from measurements.near_miss_sev import SevPredictor, sev_changes, sev_inputs
    from measurements.sev.ovmf_metadata import parse_sev_image

    own, *others = (
        parse_sev_image(path.read_bytes(), name=str(path)) for path in (firmware, *files.other_firmware)
    )
    kernel, predict = _kernel_hashes(image), SevPredictor()
    inputs = sev_inputs(expected, own, kernel, predict)
    changes = list(sev_changes(inputs, kernel=kernel, firmware=others))
    return PlatformInputs(inputs=inputs, predict=predict, changes=changes)


def _dstack_inputs(expected: PlatformPrediction, config: VmConfig) -> PlatformInputs:
    from measurements.dstack.lite import parse_snp_measurement, parse_tdx_measurement
    from measurements.near_miss_dstack import (
        dstack_snp_changes,
        dstack_snp_inputs,
        dstack_snp_predictor,
        dstack_tdx_edits,
    )

    if expected.platform is Platform.TDX and config.tdx is not None:
        document = parse_tdx_measurement(config.tdx.measurement)
        return PlatformInputs(changes=list(dstack_tdx_edits(document)))
    if expected.platform is Platform.SNP and config.snp is not None:
        predict = dstack_snp_predictor(parse_snp_measurement(config.snp.document.measurement))
        inputs = dstack_snp_inputs(expected, config.snp, predict)
        return PlatformInputs(inputs=inputs, predict=predict, changes=list(dstack_snp_changes()))
    return PlatformInputs()


def _kernel_hashes(image: ImageEvents | None) -> KernelHashes | None:
    """The hashes of a direct boot of the image."""
    if image is None:
        return None
    from measurements.sev.kernel_hashes import hash_kernel

    boot = _direct_boot(image)
    return hash_kernel(kernel=boot.kernel, initrd=boot.initrd, cmdline=boot.command_line)


def _direct_boot(image: ImageEvents) -> DirectBoot:
    """Kernel, initrd and command line of the image, as a host gives them."""
    from measurements.systemd_stub import final_command_line
    from measurements.tdx.predict import DirectBoot

    return DirectBoot(
        kernel=image.uki.kernel,
        initrd=image.uki.sections.get(".initrd", b""),
        command_line=final_command_line(image.uki),
    )


def _tdx_inputs(
    expected: PlatformPrediction, image: ImageEvents | None, firmware: Path, files: SearchFiles
) -> PlatformInputs:
    from measurements.near_miss_tdx import ORDER_LABEL, TdxInputs, tdx_changes, tdx_edits, tdx_predictor
    from measurements.qemu import QemuProgram
    from measurements.shape import BootSource, shape_from_mapping
    from measurements.tdx.mrtd import PageOrder
    from measurements.tdx.predict import TdxFirmware

    own, *others = (
        TdxFirmware.parse(path.read_bytes(), name=str(path), release=files.release)
        for path in (firmware, *files.other_firmware)
    )
    stores = [
        TdxFirmware.parse(
            firmware.read_bytes(),
            name=str(firmware),
            release=files.release,
            variables=(str(path), path.read_bytes()),
        )
        for path in files.other_vars
    ]
    shape = shape_from_mapping(expected.shape)
    direct = _direct_boot(image) if image is not None and shape.boot is BootSource.DIRECT else None
    inputs = TdxInputs(
        firmware=own,
        shape=shape,
        order=PageOrder(expected.label.get(ORDER_LABEL, PageOrder.SINGLE_PASS)),
        boot=direct or image,
    )
    programs = [QemuProgram.at(path).name for path in files.other_qemus]
    changes = [
        *tdx_edits(own, shape.memory_mib, direct=direct, others=others, stores=stores),
        *tdx_changes(inputs, programs=programs, others=others),
    ]
    reader = _machine_reader(expected.label.get("hypervisor", "qemu"), files.qemu)
    return PlatformInputs(inputs=inputs, predict=tdx_predictor(expected, reader), changes=changes)


def _machine_reader(host: str, qemu: Path | None) -> MachineReader:
    """Reads machines from QEMU, with their firmware where an idle machine does not show all."""
    from measurements.acpi_cache import cached_dump
    from measurements.firmware_catalogue import hypervisor
    from measurements.near_miss_tdx import TdxInputs
    from measurements.qemu import QemuProgram
    from measurements.qemu_args import DryBootFirmware
    from measurements.tdx.machine_reader import tdx_machine
    from measurements.tdx.predict import TdxMachine

    def read(inputs: TdxInputs) -> TdxMachine:
        program = QemuProgram.at(Path(inputs.qemu) if inputs.qemu else qemu)
        booted = DryBootFirmware(code=Path(inputs.firmware.tdvf.name))
        dump = cached_dump(inputs.shape, program, firmware=booted)
        return tdx_machine(inputs.shape, hypervisor(host), dump)

    return read
