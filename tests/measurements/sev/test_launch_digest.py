"""Launch digests against the values that other implementations and real machines have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from measurements.errors import KeyturnError
from measurements.platforms import Platform
from measurements.sev.cpu_models import CPU_MODELS, CpuModel
from measurements.sev.kernel_hashes import KernelHashes, hash_kernel
from measurements.sev.launch_digest import (
    START,
    PageType,
    extend_pages,
    extend_without_contents,
    firmware_digest,
)
from measurements.sev.ovmf_metadata import SevImage, parse_sev_image
from measurements.sev.predict import SevChoices, predict_sev
from measurements.sev.svsm import parse_svsm
from measurements.sev.vmsa import Vmm
from tests.support.sev_images import vector_image
from tests.support.vectors import vector

FOLDER = "snp/sev-snp-measure"
PLATFORMS = {
    "SEV_SNP": Platform.SNP,
    "SEV_SNP_SVSM": Platform.SNP,
    "SEV_ES": Platform.SEV_ES,
    "SEV": Platform.SEV,
}

CASES = (
    *("snp_ovmf_hash_gen_default", "snp_ovmf_hash_gen_feature_snp_only", "snp_ovmf_hash_full_default"),
    *("snp_ec2_default", "snp_ec2_feature_snp_only", "snp_gce_with_multiple_vcpus_default", "snp_default"),
    *("snp_without_kernel_default", "snp_without_kernel_feature_snp_only"),
    *("snp_with_multiple_vcpus_feature_snp_only", "snp_with_ovmfx64_without_default"),
    *("snp_with_ovmfx64_and_kernel_should_fail", "seves", "seves_with_ovmfx64_and_kernel_should_fail"),
    *("sev", "sev_with_ovmfx64_and_kernel_should_fail", "sev_with_ovmfx64_without_kernel"),
    "snp_svsm_2_vcpus",
)

FURTHER: dict[str, tuple[dict[str, Any], str]] = {
    "snp_ovmf_hash_full_feature_snp_only": (
        {"features": 1, "snp_ovmf_hash": "(computed)"},
        "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
    ),
    "snp_guest_feature_snp_only": (
        {"features": 1},
        "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
    ),
    "snp_with_multiple_vcpus_default": (
        {"vcpus": 4, "append": ""},
        "4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78eafe7b422907be0b4698e2414a631942",
    ),
    "snp_with_ovmfx64_without_kernel_feature_snp_only": (
        {"features": 1, "kernel": None, "ovmf": "ovmf_OvmfX64_suffix.bin"},
        "da0296de8193586a5512078dcd719eccecbd87e2b825ad4148c44f665dc87df21e5b49e21523a9ad993afdb6a30b4005",
    ),
    "seves_with_multiple_vcpus": (
        {"mode": "SEV_ES", "vcpus": 4, "append": ""},
        "0dccbcaba8e90b261bd0d2e1863a2f9da714768b7b2a19363cd6ae35aa90de91",
    ),
    "sev_with_kernel_without_initrd_and_append": (
        {"mode": "SEV", "append": ""},
        "77f613d7bbcdf12a73782ea9e88b0172aeda50d1a54201cb903594ff52846898",
    ),
    "snp_svsm_4_vcpus": (
        {"mode": "SEV_SNP_SVSM", "vcpus": 4, "kernel": None, "ovmf": "svsm_ovmf.fd", "vars_size": 540672},
        "27d154c27b7b359c935e250ec6fee72aa0ae8c1225e3b0e1cf46a9567e938066d7d6f94bbdc4a857818bdb79277a44b2",
    ),
}
"""What the vectors leave out of virtee/sev-snp-measure, tests/test_guest.py: how a case differs from
``test_snp_default``, and its digest.
"""


def cases() -> dict[str, dict[str, Any]]:
    rows = json.loads(vector(f"{FOLDER}/launch_digest_vectors.json").read_text())
    return {row["name"].removeprefix("test_"): row for row in rows}


def image_of(row: dict[str, Any]) -> SevImage:
    name = row["ovmf"].rpartition("/")[2]
    packed = f"{FOLDER}/{name}" + (".xz" if name.endswith(".fd") else "")
    return parse_sev_image(vector_image(packed), name=name)


def digest_of(row: dict[str, Any]) -> bytes:
    """The digest of a case: /dev/null stands for an empty file, as in the tests that it comes from."""
    image = image_of(row)
    kernel: KernelHashes | None = None
    if row["kernel"] is not None:
        kernel = hash_kernel(kernel=b"", initrd=b"", cmdline=row["append"])
    known = row.get("snp_ovmf_hash")
    if known == "(computed)":
        known = firmware_digest(image).hex()
    svsm = None
    if row["mode"] == "SEV_SNP_SVSM":
        svsm = parse_svsm(
            vector_image(f"{FOLDER}/svsm.bin"),
            name="svsm.bin",
            firmware=image,
            variables_size=row["vars_size"],
        )
        # sev-snp-measure gives an SVSM's processors no other features.
        row = row | {"features": 1}
    (prediction,) = predict_sev(
        PLATFORMS[row["mode"]],
        image,
        kernel=kernel,
        choices=SevChoices(
            cpu_models=(CPU_MODELS[row["vcpu"] or "EPYC"],),
            guest_features=(row["features"],),
            vcpus=(row["vcpus"],),
            vmm=Vmm(row.get("vmm", "qemu").lower()),
        ),
        svsm=svsm,
        firmware_digest=bytes.fromhex(known) if known else None,
    )
    (value,) = prediction.registers["measurement"].values()
    return value


def test_no_case_of_the_vectors_is_left_out() -> None:
    assert set(cases()) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_digests_of_sev_snp_measure(name: str) -> None:
    row = cases()[name]
    if row["expected"] == "ERROR":
        with pytest.raises(KeyturnError, match="cannot measure a direct boot") as caught:
            digest_of(row)
        assert caught.value.subject == "ovmf_OvmfX64_suffix.bin"
    else:
        assert digest_of(row).hex() == row["expected"]


@pytest.mark.parametrize("name", FURTHER)
def test_further_digests_of_sev_snp_measure(name: str) -> None:
    difference, expected = FURTHER[name]
    assert digest_of(cases()["snp_default"] | difference).hex() == expected


def test_page_updates_of_gce_tcb_verifier() -> None:
    """google/gce-tcb-verifier, sev/sev_test.go @ 6d623b8c: TestUpdateData, TestZeroContentUpdateData."""
    data = b"LGTM" * 4 + bytes(3 * 4096 - 32) + b"LGTM" * 4
    assert extend_pages(START, page_type=PageType.NORMAL, gpa=0, contents=data).hex() == (
        "cba1cd767c33b30f96271837dbbae4081a945464a5af397b9b0336b5d8759ee88cc6b62c05d915c4424a9ac5747437d4"
    )
    zero = extend_without_contents(START, page_type=PageType.ZERO, gpa=0x9000, size=3 * 4096)
    assert zero.hex() == (
        "4bfe18477ba370a50329da74b9621e721c4f29663176e08fbcf088a17c1bc45f133898b86d5082acbe202a6e9419808a"
    )


@pytest.mark.parametrize(
    ("gpa", "size"),
    [(1, 4096), (4096, 4608), ((1 << 52) - 4096, 8192), (-4096, 4096), (0, 0), (1 << 64, 4096)],
    ids=["start", "size", "end", "negative", "nothing", "far"],
)
def test_pages_that_cannot_be(gpa: int, size: int) -> None:
    with pytest.raises(KeyturnError, match="not whole pages"):
        extend_without_contents(START, page_type=PageType.ZERO, gpa=gpa, size=size)
    with pytest.raises(KeyturnError, match="not whole pages"):
        extend_pages(START, page_type=PageType.NORMAL, gpa=gpa, contents=bytes(size))


def test_equal_pages_in_a_row_are_measured_at_their_own_addresses() -> None:
    data = bytes(4096) * 3 + b"x" * 4096 + bytes(4096)
    apart = START
    for number in range(5):
        page = data[number * 4096 : (number + 1) * 4096]
        apart = extend_pages(apart, page_type=PageType.NORMAL, gpa=number * 4096, contents=page)
    assert extend_pages(START, page_type=PageType.NORMAL, gpa=0, contents=data) == apart


def test_other_cpu_models_of_one_signature_give_one_value() -> None:
    image = image_of(cases()["snp_default"])
    models = [CPU_MODELS[name] for name in ("EPYC-Milan", "EPYC-Milan-v2", "EPYC-Genoa")]
    host = CpuModel(name="25/1/1", family=25, model=1, stepping=1)
    found = predict_sev(
        Platform.SNP, image, choices=SevChoices(cpu_models=[*models, host], guest_features=(1,))
    )
    values = {
        prediction.label["cpu-model"]: prediction.registers["measurement"]["sha384"] for prediction in found
    }
    assert values["EPYC-Milan"] == values["EPYC-Milan-v2"] == values["25/1/1"] != values["EPYC-Genoa"]
