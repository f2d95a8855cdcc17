"""Near misses of launch digests that other implementations and real machines have."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from measurements.errors import FormatError
from measurements.near_miss import NearMiss, NearMissKind, Problem
from measurements.near_miss_search import search
from measurements.near_miss_sev import SevInputs, SevPredictor, sev_changes, sev_inputs
from measurements.platforms import Platform
from measurements.sev.cpu_models import CPU_MODELS
from measurements.sev.kernel_hashes import hash_kernel
from measurements.sev.ovmf_metadata import SevImage, parse_sev_image
from measurements.sev.vmsa import Vmm
from tests.support.planted_sev import KERNEL, base_inputs, image
from tests.support.sev_images import vector_image
from tests.support.vectors import vector

FOLDER = "snp/sev-snp-measure"
EMPTY = hash_kernel(kernel=b"", initrd=b"", cmdline="")
FEATURES, CPUS, MODEL = NearMissKind.GUEST_FEATURES, NearMissKind.CPUS, NearMissKind.CPU_MODEL


def digest(name: str) -> bytes:
    """A launch digest of virtee/sev-snp-measure, tests/test_guest.py."""
    rows = json.loads(vector(f"{FOLDER}/launch_digest_vectors.json").read_text())
    return next(bytes.fromhex(row["expected"]) for row in rows if row["name"] == f"test_{name}")


def firmware(name: str = "ovmf_AmdSev_suffix.bin") -> SevImage:
    return parse_sev_image(vector_image(f"{FOLDER}/{name}"), name=name)


def near_misses(base: SevInputs, name: str, *others: SevImage) -> tuple[NearMiss, ...]:
    predict = SevPredictor()
    expected = predict(base)
    inputs = sev_inputs(expected, base.firmware, base.kernel, predict)
    problem: Problem[Any] = Problem(
        expected=expected,
        found={"measurement": {"sha384": digest(name)}},
        inputs=inputs,
        predict=predict,
    )
    return search(problem, list(sev_changes(inputs, kernel=EMPTY, firmware=others))).found


def start(**fields: Any) -> SevInputs:
    base = SevInputs(
        platform=Platform.SNP,
        firmware=firmware(),
        kernel=EMPTY,
        cpu_model=CPU_MODELS["EPYC"],
        features=1,
        vcpus=4,
        vmm=Vmm.QEMU,
    )
    return replace(base, **fields)


@pytest.mark.parametrize(
    ("fields", "name", "kinds", "machine"),
    [
        ({"features": 33}, "snp_with_multiple_vcpus_feature_snp_only", (FEATURES,), "a 4 vCPU machine"),
        ({"vcpus": 2}, "snp_with_multiple_vcpus_feature_snp_only", (CPUS,), "a 4 vCPU machine"),
        (
            {"vcpus": 1, "features": 33},
            "snp_with_multiple_vcpus_feature_snp_only",
            (CPUS, FEATURES),
            "a 4 vCPU machine",
        ),
        (
            {"cpu_model": CPU_MODELS["EPYC-Genoa"], "vcpus": 64},
            "snp_with_multiple_vcpus_feature_snp_only",
            (CPUS, MODEL),
            "a 4 vCPU machine (cpu-model EPYC, guest-features 0x1, vmm qemu)",
        ),
        ({"vcpus": 1}, "snp_ec2_feature_snp_only", (NearMissKind.VMM,), "vmm ec2"),
        ({}, "snp_gce_with_multiple_vcpus_default", (NearMissKind.VMM,), "vmm gce"),
        (
            {"vcpus": 1, "features": 33},
            "snp_without_kernel_default",
            (NearMissKind.KERNEL_HASHES,),
            "a 1 vCPU machine",
        ),
        (
            {"vcpus": 1, "features": 33, "kernel": None},
            "snp_ovmf_hash_gen_default",
            (NearMissKind.KERNEL_HASHES,),
            "a 1 vCPU machine",
        ),
        (
            {"vcpus": 1, "features": 33, "kernel": None},
            "snp_with_ovmfx64_without_default",
            (NearMissKind.FIRMWARE,),
            "a 1 vCPU machine",
        ),
    ],
)
def test_what_a_published_launch_digest_is_of(
    fields: dict[str, Any], name: str, kinds: tuple[NearMissKind, ...], machine: str
) -> None:
    found = near_misses(start(**fields), name, firmware("ovmf_OvmfX64_suffix.bin"))
    assert [miss.kinds for miss in found] == [kinds]
    assert all(machine in miss.machine for miss in found)
    for miss in found:
        assert miss.prediction.registers["measurement"]["sha384"] == digest(name)


def test_the_first_step_of_the_launch_that_differs_is_named() -> None:
    (miss,) = near_misses(start(vcpus=1, features=33), "snp_without_kernel_default")
    (step,) = miss.steps
    assert "measurement: " in step
    assert "0x810000" in step  # the page of kernel hashes


def test_firmware_that_does_not_give_the_reference_values_is_refused() -> None:
    predict = SevPredictor()
    expected = predict(base_inputs())
    with pytest.raises(FormatError, match="does not give the reference values"):
        sev_inputs(expected, image("OTHER.fd"), KERNEL, predict)
    with pytest.raises(FormatError, match="does not give the reference values"):
        sev_inputs(expected, image(), None, predict)


@pytest.mark.parametrize("kernel", [KERNEL, None])
def test_whether_kernel_hashes_were_predicted_follows_from_the_value(kernel: Any) -> None:
    predict = SevPredictor()
    expected = predict(base_inputs(kernel=kernel))
    assert sev_inputs(expected, image(), KERNEL, predict).kernel == kernel
