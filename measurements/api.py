"""``measurements.predict``: every register of an image on a machine, for every platform, as typed values.

This is where files are read and QEMU is asked; the values come from the modules of the platforms. A
``Predictor`` reads each file and measures the image once, whatever number of shapes and platforms follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from measurements.errors import KeyturnError
from measurements.kept import kept
from measurements.platforms import Platform, PlatformPrediction
from measurements.shape import BootSource, MachineShape, TpmInterface

if TYPE_CHECKING:
    from measurements.acpi_dump import AcpiDump
    from measurements.boot_sequence import ImageEvents, ImageInputs
    from measurements.direct_boot import DirectInputs
    from measurements.firmware_volume import Section
    from measurements.ovmf import Firmware
    from measurements.qemu import QemuProgram
    from measurements.qemu_args import DryBootFirmware, FirmwareFiles
    from measurements.runtime_events import RuntimeEvent
    from measurements.sev.predict import SevChoices
    from measurements.systemd_stub import Uki
    from measurements.tdx.predict import DirectBoot, TdxFirmware, TdxMachine
    from measurements.uki_digests import UkiDigests

DEFAULT_HYPERVISOR = "qemu"
_WORKERS = 3
"""One more than there are works that wait for another one."""


class PredictionInputError(KeyturnError):
    """An input that a platform's prediction needs and that was not given."""

    code = "prediction-input"


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What a host puts below an image, besides the machine's shape.

    ``firmware`` are OVMF's code and variables; ``whole`` is the firmware in one file, as TDX and SEV load
    it, by default the variables followed by the code; ``store`` takes the place of its variables (TDX).
    ``release`` names the edk2 release of a firmware that
    is not recognised, ``profile`` is a dry boot's record where PCR 0 cannot be computed. ``hypervisors`` are
    names of ``measurements/profiles/hypervisors.toml``, each with its own predictions. ``sev`` are choices of
    SEV hosts besides the vCPU count, which is the shape's; ``svsm`` runs below ``firmware``, ``igvm`` stands
    for all of it. ``enclave`` reads the enclave image file (EIF) for Nitro. ``launch`` are values that the
    host gives a trust domain; ``runtime_events`` are what the guest extends for an app, which RTMR3 then
    shows (PCR 14 is predicted without an app).
    """

    firmware: FirmwareFiles | None = None
    whole: Path | None = None
    store: Path | None = None
    release: str | None = None
    profile: Path | None = None
    qemu: QemuProgram | None = None
    hypervisors: Sequence[str] = (DEFAULT_HYPERVISOR,)
    sev: SevChoices | None = None
    svsm: Path | None = None
    igvm: Path | None = None
    enclave: Callable[[], bytes] | None = None
    launch: Mapping[str, bytes] = field(default_factory=dict)
    runtime_events: Sequence[RuntimeEvent] = ()


def predict(
    *, image: ImageInputs, shape: MachineShape, platform: Platform, host: Host
) -> tuple[PlatformPrediction, ...]:
    """The predictions of ``image`` on a machine of ``shape``: one, or one per choice of the host that is not
    known (``label`` tells them apart).

    Raises ``KeyturnError`` for anything whose measurements are not known, and for inputs that are missing.
    """
    with Predictor(image=lambda: image, host=host) as predictor:
        return predictor.predict(platform, shape)


class Predictor:
    """Predictions of one image below one host; a context manager: it works in the background.

    ``image`` is called at most once, and only by platforms that measure the image.
    """

    def __init__(self, *, image: Callable[[], ImageInputs], host: Host) -> None:
        self._read_image = image
        self._host = host
        self._pool = ThreadPoolExecutor(max_workers=_WORKERS)
        self._inputs: Future[ImageInputs] | None = None
        self._enclave: Future[PlatformPrediction] | None = None
        self._measured: Future[ImageEvents] | None = None
        self._unpacked: Future[Firmware] | None = None
        self._trust_domain: TdxFirmware | None = None
        self._machines: dict[MachineShape, AcpiDump] = {}

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def prepare(self, platforms: Collection[Platform]) -> None:
        """Start in the background what the predictions of ``platforms`` will need of the image: hashing and
        unpacking leave the interpreter's lock alone, so modules are loaded meanwhile.
        """
        if Platform.TPM in platforms:
            self._firmware()
        if Platform.TPM in platforms or Platform.TDX in platforms:
            self._image_events()
        if Platform.NITRO in platforms and self._host.enclave is not None:
            self._enclave_prediction(self._host.enclave)

    def predict(self, platform: Platform, shape: MachineShape) -> tuple[PlatformPrediction, ...]:
        """As the function ``predict``."""
        works: dict[Platform, Callable[[MachineShape], tuple[PlatformPrediction, ...]]] = {
            Platform.TPM: self._tpm,
            Platform.TDX: self._tdx,
            Platform.NITRO: self._nitro,
        }
        work = works.get(platform)
        return self._sev(platform, shape) if work is None else work(shape)

    def _tpm(self, shape: MachineShape) -> tuple[PlatformPrediction, ...]:
        firmware = self._firmware()
        from measurements.boot_sequence import assemble
        from measurements.predict_tpm import FirmwareInputs, platform_events, predict_direct_boot
        from measurements.reference import tpm_prediction

        if shape.tpm is TpmInterface.NONE:
            raise _missing("tpm", "the shape is that of a machine without a TPM", "use crb or tis")
        image = None if shape.boot is BootSource.DIRECT else self._image_events()
        inputs = replace(
            FirmwareInputs.of(
                firmware.result(),
                variables=self._firmware_files().variables,
                profile=self._host.profile,
            ),
            release=self._host.release,
        )
        if image is None:
            prediction = predict_direct_boot(self._direct_inputs(), inputs, shape, program=self._host.qemu)
        else:
            platform = platform_events(inputs, shape, program=self._host.qemu)
            prediction = assemble(image.result(), platform, tpm=shape.tpm)
        return (tpm_prediction(prediction, shape=shape.as_json()),)

    def _tdx(self, shape: MachineShape) -> tuple[PlatformPrediction, ...]:
        image = None if shape.boot is BootSource.DIRECT else self._image_events()
        from measurements.tdx.predict import TdxFirmware, predict_tdx

        if self._trust_domain is None:
            name, data = self._whole()
            store = self._host.store
            self._trust_domain = TdxFirmware.parse(
                data,
                name=name,
                release=self._host.release,
                variables=None if store is None else (store.name, _read(store)),
            )
        machines = [self._tdx_machine(shape, name) for name in self._host.hypervisors]
        boot = self._direct_boot() if image is None else image.result()
        return tuple(
            prediction
            for machine in machines
            for prediction in predict_tdx(
                self._trust_domain,
                machine,
                boot,
                runtime_events=self._runtime_events(),
                launch=self._host.launch,
            )
        )

    def _sev(self, platform: Platform, shape: MachineShape) -> tuple[PlatformPrediction, ...]:
        from measurements.sev.predict import SevChoices

        choices = replace(self._host.sev or SevChoices(), vcpus=(shape.cpus,))
        if self._host.igvm is not None:
            from measurements.sev.igvm_launch import igvm_predictions

            data = _read(self._host.igvm)
            found = igvm_predictions(data, name=self._host.igvm.name, platform=platform, choices=choices)
        else:
            found = self._sev_firmware(platform, shape, choices)
        return tuple(replace(prediction, shape=shape.as_json()) for prediction in found)

    def _sev_firmware(
        self, platform: Platform, shape: MachineShape, choices: SevChoices
    ) -> tuple[PlatformPrediction, ...]:
        from measurements.sev.kernel_hashes import hash_kernel
        from measurements.sev.ovmf_metadata import parse_sev_image
        from measurements.sev.predict import predict_sev
        from measurements.sev.svsm import parse_svsm

        kernel = svsm = None
        if shape.boot is BootSource.DIRECT:
            boot = self._direct_boot()
            kernel = hash_kernel(kernel=boot.kernel, initrd=boot.initrd, cmdline=boot.command_line)
        if self._host.svsm is None:
            name, data = self._whole()
            firmware = parse_sev_image(data, name=name)
        else:
            files = self._firmware_files()
            firmware = parse_sev_image(_read(files.code), name=files.code.name)
            svsm = parse_svsm(
                _read(self._host.svsm),
                name=self._host.svsm.name,
                firmware=firmware,
                variables_size=len(_read(files.variables)),
            )
        return predict_sev(platform, firmware, kernel=kernel, choices=choices, svsm=svsm)

    def _nitro(self, shape: MachineShape) -> tuple[PlatformPrediction, ...]:
        if self._host.enclave is None:
            raise _missing("enclave image file", "Nitro boots one", "write it with keyturn eif build")
        prediction = self._enclave_prediction(self._host.enclave).result()
        return (replace(prediction, shape=shape.as_json()),)

    def _enclave_prediction(self, enclave: Callable[[], bytes]) -> Future[PlatformPrediction]:
        def work() -> PlatformPrediction:
            from measurements.nitro.predict import predict_nitro

            return predict_nitro(enclave())

        if self._enclave is None:
            self._enclave = self._pool.submit(work)
        return self._enclave

    def _firmware(self) -> Future[Firmware]:
        if self._unpacked is None:
            self._unpacked = self._pool.submit(_read_firmware, self._firmware_files().code)
        return self._unpacked

    def _image_inputs(self) -> Future[ImageInputs]:
        if self._inputs is None:
            self._inputs = self._pool.submit(self._read_image)
        return self._inputs

    def _image(self) -> ImageInputs:
        return self._image_inputs().result()

    def _image_events(self) -> Future[ImageEvents]:
        def work() -> ImageEvents:
            from measurements.boot_sequence import measure_image

            return measure_image(inputs.result(), hasher=_hash_uki)

        if self._measured is None:
            inputs = self._image_inputs()
            self._measured = self._pool.submit(work)
        return self._measured

    def _direct_boot(self) -> DirectBoot:
        """The kernel, initrd and command line of the image, as a host gives them."""
        from measurements.systemd_stub import final_command_line, parse_uki
        from measurements.tdx.predict import DirectBoot

        uki = parse_uki(self._image().uki, subject="uki.efi")
        return DirectBoot(
            kernel=uki.kernel, initrd=uki.sections[".initrd"], command_line=final_command_line(uki)
        )

    def _direct_inputs(self) -> DirectInputs:
        """The same with what IMA goes by."""
        from measurements.direct_boot import DirectInputs

        image, boot = self._image(), self._direct_boot()
        return DirectInputs(
            kernel=boot.kernel,
            initrd=boot.initrd,
            command_line=boot.command_line,
            kernel_config=image.kernel_config,
            load_modules=image.load_modules,
            dev=image.dev,
        )

    def _runtime_events(self) -> Sequence[RuntimeEvent]:
        from measurements.runtime_events import DEV_IMAGE

        return self._host.runtime_events or ((DEV_IMAGE,) if self._image().dev else ())

    def _firmware_files(self) -> FirmwareFiles:
        if self._host.firmware is None:
            raise _missing(
                "firmware", "TPM systems need OVMF's code and variables", "install it: apt install ovmf"
            )
        return self._host.firmware

    def _whole(self) -> tuple[str, bytes]:
        """Name and bytes of the firmware in one file."""
        if self._host.whole is not None:
            return self._host.whole.name, _read(self._host.whole)
        files = self._firmware_files()
        name = f"{files.variables.name} + {files.code.name}"
        return name, _read(files.variables) + _read(files.code)

    def _tdx_machine(self, shape: MachineShape, name: str) -> TdxMachine:
        from measurements.firmware_catalogue import hypervisor
        from measurements.tdx.machine_reader import tdx_machine

        return tdx_machine(shape, hypervisor(name), self._machine(shape))

    def _machine(self, shape: MachineShape) -> AcpiDump:
        if shape not in self._machines:
            self._machines[shape] = _read_machine(shape, self._host)
        return self._machines[shape]


def _read_firmware(code: Path) -> Firmware:
    from measurements.firmware_volume import unpack_lzma
    from measurements.ovmf import read_firmware

    def unpack(section: Section) -> bytes:
        source = hashlib.sha256(section.payload).digest()
        return kept("ovmf-lzma/1", source, lambda: unpack_lzma(section))

    return read_firmware(code, unpack=unpack)


def _hash_uki(image: bytes, uki: Uki) -> UkiDigests:
    from measurements.uki_digests import KIND, decode_uki_digests, encode_uki_digests, hash_uki

    source = hashlib.sha256(image).digest()
    return decode_uki_digests(kept(KIND, source, lambda: encode_uki_digests(hash_uki(image, uki))))


def _read_machine(shape: MachineShape, host: Host) -> AcpiDump:
    from measurements.acpi_cache import cached_dump
    from measurements.qemu import QemuProgram

    return cached_dump(shape, host.qemu or QemuProgram.installed(), firmware=_dry_boot_firmware(host))


def _dry_boot_firmware(host: Host) -> DryBootFirmware | None:
    from measurements.qemu_args import DryBootFirmware

    if host.whole is not None:
        return DryBootFirmware(code=host.whole)
    if host.firmware is None:
        return None
    return DryBootFirmware(code=host.firmware.code, variables=host.firmware.variables)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise PredictionInputError(
            f"cannot be read: {problem.strerror}", subject=str(path), advice="check the path"
        ) from problem


def _missing(subject: str, reason: str, advice: str) -> PredictionInputError:
    return PredictionInputError(f"is not given: {reason}", subject=subject, advice=advice)
