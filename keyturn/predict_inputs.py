"""What ``keyturn predict`` predicts with: the platforms' shapes, and what the host puts below the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from keyturn.run_inputs import find_firmware
from keyturn.shape_options import OptionError
from measurements.platforms import Platform

if TYPE_CHECKING:
    from measurements.api import Host
    from measurements.esp_files import EspFiles
    from measurements.qemu import QemuProgram
    from measurements.runtime_events import RuntimeEvent
    from measurements.sev.predict import SevChoices
    from measurements.shape import MachineShape

ALL = "all"
MAX_ESP = 1 << 30
_WHOLE_FIRMWARE = (Platform.TDX, Platform.SNP, Platform.SEV_ES, Platform.SEV)


class PlatformChoice(StrEnum):
    """Values of ``--platform``."""

    TPM = "tpm"
    TDX = "tdx"
    SNP = "snp"
    SEV_ES = "sev-es"
    SEV = "sev"
    NITRO = "nitro"
    ALL = "all"


def chosen_platforms(choices: Sequence[PlatformChoice] | None) -> list[Platform]:
    """The platforms, in their usual order; without any, TPM systems."""
    words = {choice.value for choice in choices or (PlatformChoice.TPM,)}
    return [platform for platform in Platform if ALL in words or platform.value in words]


def usual_shape(shape: MachineShape, platform: Platform, *, tpm_given: bool) -> MachineShape:
    """``shape`` as hosts of the platform start it: only TPM systems have a TPM unless one is asked for, and
    QEMU gives a trust domain neither the legacy interrupt controller nor, in the common launch scripts, a
    high precision timer.
    """
    from measurements.shape import TpmInterface

    if platform is Platform.TPM:
        return shape
    without = shape if tpm_given else replace(shape, tpm=TpmInterface.NONE)
    return replace(without, hpet=False, pic=False) if platform is Platform.TDX else without


def make_host(
    *,
    platforms: Sequence[Platform],
    code: Path | None,
    variables: Path | None,
    whole: Path | None,
    release: str | None,
    profile: Path | None,
    qemu: Path | None,
    hypervisors: Sequence[str] | None,
    sev: SevChoices | None,
    svsm: Path | None,
    igvm: Path | None,
    enclave: Callable[[], bytes],
    runtime_events: Sequence[RuntimeEvent],
    launch: Mapping[str, bytes],
) -> Host:
    """The host that the options describe. Raises ``OptionError`` and ``MissingToolError``."""
    from measurements.api import DEFAULT_HYPERVISOR, Host

    needs_parts = Platform.TPM in platforms
    needs_whole = any(platform in _WHOLE_FIRMWARE for platform in platforms)
    parts = code is not None or variables is not None
    firmware = store = None
    if whole is not None and code is None and not needs_parts:
        store, variables, parts = variables, None, False
    if needs_parts or parts or (needs_whole and whole is None and igvm is None):
        firmware = find_firmware(code, variables)
    return Host(
        firmware=firmware,
        whole=whole,
        store=store,
        release=release,
        profile=profile,
        qemu=None if qemu is None else _program(qemu),
        hypervisors=tuple(hypervisors or (DEFAULT_HYPERVISOR,)),
        sev=sev,
        svsm=svsm,
        igvm=igvm,
        enclave=enclave,
        runtime_events=runtime_events,
        launch=launch,
    )


def read_esp(folder: Path) -> EspFiles:
    """The files of an ESP below ``folder`` besides the UKI; raises ``OptionError`` for no folder, or too much
    in it.
    """
    from measurements.esp_files import EspFiles

    if not folder.is_dir():
        raise OptionError(
            "is no folder", subject=str(folder), advice="give the folder that the ESP is copied to"
        )
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if sum(path.stat().st_size for path in paths) > MAX_ESP:
        raise OptionError(
            f"holds more than {MAX_ESP} bytes", subject=str(folder), advice="leave out what is not on the ESP"
        )
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    uki = EspFiles().uki.lower()
    return EspFiles(files={name: path.read_bytes() for name, path in named.items() if name.lower() != uki})


def _program(path: Path) -> QemuProgram:
    from measurements.qemu import QemuProgram

    if not path.is_file():
        raise OptionError("no such file", subject=str(path), advice="name a qemu-system-x86_64")
    return QemuProgram(command=(str(path),))


def sev_choices(
    models: Sequence[str] | None, features: Sequence[str] | None, vmm: str | None
) -> SevChoices | None:
    """The choices of SEV hosts that the options name; None for the usual ones."""
    if models is None and features is None and vmm is None:
        return None
    from measurements.sev.cpu_models import ONE_OF_EACH, find_cpu_model
    from measurements.sev.guest_features import USUAL
    from measurements.sev.predict import SevChoices
    from measurements.sev.vmsa import Vmm

    known = {each.value.lower(): each for each in Vmm}
    if vmm is not None and vmm.lower() not in known:
        raise OptionError(f"{vmm!r} is not known", subject="--vmm", advice=f"use one of {', '.join(known)}")
    return SevChoices(
        cpu_models=[find_cpu_model(name) for name in models] if models else ONE_OF_EACH,
        guest_features=[_word(text) for text in features] if features else USUAL,
        vmm=known[vmm.lower()] if vmm else Vmm.QEMU,
    )


def _word(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as problem:
        raise OptionError(
            f"{text!r} is not a number", subject="--guest-features", advice="write it as 0x1 or 0x21"
        ) from problem


def enclave_of(image: Path, eif: Path | None) -> Callable[[], bytes]:
    """Reads the enclave image file: the given one, or what ``keyturn eif build`` makes of the image."""

    def read() -> bytes:
        if eif is not None:
            return eif.read_bytes()
        import io

        from image_builder.enclave import write_enclave

        stream = io.BytesIO()
        write_enclave(image, stream)
        return stream.getvalue()

    return read
