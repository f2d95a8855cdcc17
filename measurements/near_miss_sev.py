"""Near misses of SEV guests: other CPU models, feature words, numbers of vCPUs, VMMs, kernel hashes and
firmware.

A report does not say which of them its host chose, so a launch digest alone is searched. Every prediction
starts from the digest of the firmware's pages, which is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from measurements.errors import FormatError
from measurements.near_miss import Change, NearMissKind, differing_registers
from measurements.platforms import Platform, PlatformPrediction
from measurements.sev.chains import REGISTER
from measurements.sev.cpu_models import ONE_OF_EACH, CpuModel, find_cpu_model
from measurements.sev.guest_features import USUAL, GuestFeatures, names
from measurements.sev.kernel_hashes import KernelHashes
from measurements.sev.launch_digest import firmware_digest
from measurements.sev.ovmf_metadata import SevImage
from measurements.sev.predict import ANY, SevChoices, predict_sev
from measurements.sev.vmsa import Vmm

VCPUS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
FEATURES = tuple(dict.fromkeys((*USUAL, *(GuestFeatures.SNP_ACTIVE | bit for bit in GuestFeatures))))
"""What KVM uses by itself, then every other feature alone."""

_Value = TypeVar("_Value")
_REGISTERS = frozenset((REGISTER,))


@dataclass(frozen=True, kw_only=True, slots=True)
class SevInputs:
    """What a launch digest is made of; ``kernel`` holds the hashes of a direct boot."""

    platform: Platform
    firmware: SevImage = field(repr=False)
    kernel: KernelHashes | None
    cpu_model: CpuModel
    features: int
    vcpus: int
    vmm: Vmm


class SevPredictor:
    """Predicts launch digests; keeps the digest of each firmware's pages."""

    def __init__(self) -> None:
        self._digests: dict[int, tuple[SevImage, bytes]] = {}

    def __call__(self, inputs: SevInputs) -> PlatformPrediction:
        """The prediction of ``inputs``; raises ``KeyturnError`` for a guest that cannot be."""
        choices = SevChoices(
            cpu_models=(inputs.cpu_model,),
            guest_features=(inputs.features,),
            vcpus=(inputs.vcpus,),
            vmm=inputs.vmm,
        )
        known = self._digest(inputs.firmware) if inputs.platform is Platform.SNP else None
        (prediction,) = predict_sev(
            inputs.platform, inputs.firmware, kernel=inputs.kernel, choices=choices, firmware_digest=known
        )
        return prediction

    def _digest(self, firmware: SevImage) -> bytes:
        key = id(firmware)
        if key not in self._digests:
            # The image is kept, so that no other one takes its identity.
            self._digests[key] = (firmware, firmware_digest(firmware))
        return self._digests[key][1]


def sev_inputs(
    expected: PlatformPrediction,
    firmware: SevImage,
    kernel: KernelHashes | None,
    predict: Callable[[SevInputs], PlatformPrediction],
) -> SevInputs:
    """The inputs that ``expected`` was made of, from its label; ``kernel`` is used if it was.

    Raises ``FormatError`` if the firmware does not give the expected value.
    """
    label = expected.label
    base = SevInputs(
        platform=expected.platform,
        firmware=firmware,
        kernel=None,
        cpu_model=_labelled(label, "cpu-model", find_cpu_model, ONE_OF_EACH[0]),
        features=_labelled(label, "guest-features", lambda text: int(text, 16), int(USUAL[0])),
        vcpus=_labelled(label, "vcpus", int, 1),
        vmm=_labelled(label, "vmm", Vmm, Vmm.QEMU),
    )
    for inputs in (replace(base, kernel=kernel), base):
        if not differing_registers(predict(inputs), expected.registers):
            return inputs
    raise FormatError(
        "does not give the reference values, with or without kernel hashes",
        subject=firmware.name,
        advice="give the firmware (and --image, for a direct boot) that they were predicted with",
    )


def sev_changes(
    inputs: SevInputs, *, kernel: KernelHashes | None = None, firmware: Sequence[SevImage] = ()
) -> Iterator[Change[Any]]:
    """Changes of ``inputs``; ``kernel`` are hashes to try if it has none, ``firmware`` other images."""
    for count in VCPUS:
        words = f"there are {count} vCPUs" if count > 1 else "there is 1 vCPU"
        yield _change(NearMissKind.CPUS, words, vcpus=count)
    for word in FEATURES:
        words = f"the guest features are {int(word):#x} ({', '.join(names(word))})"
        yield _change(NearMissKind.GUEST_FEATURES, words, features=int(word))
    for model in ONE_OF_EACH:
        yield _change(NearMissKind.CPU_MODEL, f"the CPU model is {model.name}", cpu_model=model)
    for vmm in Vmm:
        yield _change(NearMissKind.VMM, f"the virtual machine monitor is {vmm.value}", vmm=vmm)
    if inputs.kernel is not None:
        words = "kernel, initrd and command line are not hashed (kernel-hashes=off)"
        yield _change(NearMissKind.KERNEL_HASHES, words, kernel=None)
    elif kernel is not None:
        words = "kernel, initrd and command line of the image are hashed (kernel-hashes=on)"
        yield _change(NearMissKind.KERNEL_HASHES, words, kernel=kernel)
    for other in firmware:
        yield _change(NearMissKind.FIRMWARE, f"the firmware is {other.name}", firmware=other)


def _labelled(label: Mapping[str, str], key: str, read: Callable[[str], _Value], default: _Value) -> _Value:
    """A label's value; ``default`` where the platform does not measure the choice."""
    text = label.get(key, ANY)
    return default if text == ANY else read(text)


def _change(kind: NearMissKind, words: str, **fields: Any) -> Change[Any]:
    def inputs(base: SevInputs) -> SevInputs:
        return replace(base, **fields)

    return Change(kind=kind, words=words, registers=_REGISTERS, inputs=inputs)
