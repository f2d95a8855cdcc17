"""Planted near misses of SEV guests, on firmware made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from measurements.near_miss import NearMissKind, Problem
from measurements.near_miss_sev import SevInputs, SevPredictor, sev_changes, sev_inputs
from measurements.platforms import Platform
from measurements.sev.cpu_models import CPU_MODELS
from measurements.sev.kernel_hashes import KernelHashes, hash_kernel
from measurements.sev.ovmf_metadata import SevImage, parse_sev_image
from measurements.sev.vmsa import Vmm
from tests.support.planted import Planted, Plantings
from tests.support.sev_images import sev_image

KERNEL = hash_kernel(kernel=b"kernel", initrd=b"initrd", cmdline="console=ttyS0")


def image(name: str = "OVMF.amdsev.fd") -> SevImage:
    return parse_sev_image(sev_image(name.encode()), name=name)


def base_inputs(platform: Platform = Platform.SNP, *, kernel: KernelHashes | None = KERNEL) -> SevInputs:
    return SevInputs(
        platform=platform,
        firmware=image(),
        kernel=kernel,
        cpu_model=CPU_MODELS["EPYC-Rome"],
        features=1,
        vcpus=2,
        vmm=Vmm.QEMU,
    )


def plant(base: SevInputs, found: SevInputs, words: str, **tried: Any) -> Planted:
    """Only the launch digest of ``found`` is known, and the files that ``base`` was predicted with."""
    predict = SevPredictor()
    expected = predict(base)
    inputs = sev_inputs(expected, base.firmware, base.kernel, predict)
    problem: Problem[Any] = Problem(
        expected=expected, found=predict(found).registers, inputs=inputs, predict=predict
    )
    return Planted(problem=problem, changes=list(sev_changes(inputs, **tried)), words=words)


def other(words: str, platform: Platform = Platform.SNP, **fields: Any) -> Callable[[], Planted]:
    def planted() -> Planted:
        base = base_inputs(platform)
        return plant(base, replace(base, **fields), words)

    return planted


def kernel_added() -> Planted:
    base = base_inputs(kernel=None)
    words = "kernel, initrd and command line of the image are hashed (kernel-hashes=on)"
    return plant(base, replace(base, kernel=KERNEL), words, kernel=KERNEL)


def other_image() -> Planted:
    base, firmware = base_inputs(), image("OTHER.fd")
    return plant(base, replace(base, firmware=firmware), "the firmware is OTHER.fd", firmware=[firmware])


PLANTED: Plantings = {
    NearMissKind.CPUS: [
        other("there are 4 vCPUs", vcpus=4),
        other("there is 1 vCPU", vcpus=1),
        other("there are 8 vCPUs", Platform.SEV_ES, vcpus=8),
    ],
    NearMissKind.CPU_MODEL: [other("the CPU model is EPYC-Milan", cpu_model=CPU_MODELS["EPYC-Milan"])],
    NearMissKind.GUEST_FEATURES: [
        other("the guest features are 0x21 (SNP_ACTIVE, DEBUG_SWAP)", features=0x21),
        other("the guest features are 0x201 (SNP_ACTIVE, SECURE_TSC)", features=0x201),
    ],
    NearMissKind.VMM: [other("the virtual machine monitor is ec2", vmm=Vmm.EC2)],
    NearMissKind.KERNEL_HASHES: [
        other("kernel, initrd and command line are not hashed (kernel-hashes=off)", kernel=None),
        other(
            "kernel, initrd and command line are not hashed (kernel-hashes=off)", Platform.SEV, kernel=None
        ),
        kernel_added,
    ],
    NearMissKind.FIRMWARE: [other_image],
}
