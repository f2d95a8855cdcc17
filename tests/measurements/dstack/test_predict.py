"""Predictions from a release's folder: every input shows in its register, and equal documents agree."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from measurements.acpi_blob import RSDP, TABLES, TPM_LOG, AcpiFiles
from measurements.dstack.errors import DstackInputError
from measurements.dstack.evidence import parse_report
from measurements.dstack.expectations import Expectations
from measurements.dstack.judge import judge
from measurements.dstack.lite import parse_tdx_measurement
from measurements.dstack.predict import acpi_digests, lite_reference, predict_tdx
from measurements.dstack.release import Release, read_release
from measurements.dstack.release_reference import kernel_is_untouched, release_reference
from measurements.dstack.vm_config import VmConfig, parse_vm_config
from measurements.errors import FormatError
from measurements.platforms import Platform, PlatformPrediction
from measurements.tdx.mrtd import PageOrder
from tests.measurements.tdx.kernel_files import bzimage
from tests.measurements.tdx.tdvf_builder import SECTIONS, build
from tests.support.dstack_deployment import ACPI, DOCUMENT, DstackGuest
from tests.support.dstack_release import METADATA, write_release

FILES = {"ovmf.fd": build(), "bzImage": bzimage(), "initramfs.cpio.gz": b"initrd" * 100}
MACHINE = {"os_image_hash": "ab" * 32, "cpu_count": 2, "memory_size": 4 << 30, "qemu_version": "9.2.1"}


def release(folder: Path, metadata: Mapping[str, object] | None = None, **files: bytes) -> Release:
    contents = {**FILES, **{name.replace("_", "."): data for name, data in files.items()}}
    fields = {**METADATA, **(metadata or {})}
    write_release(folder, {**contents, "metadata.json": json.dumps(fields).encode()})
    return read_release(folder)


def machine(**changes: object) -> VmConfig:
    return parse_vm_config(json.dumps({**MACHINE, **changes}).encode())


def predicted(found: Release, **changes: object) -> PlatformPrediction:
    config = machine(**changes)
    return predict_tdx(release_reference(found, config), config, ACPI)


def values(prediction: PlatformPrediction) -> dict[str, bytes]:
    return {register: banks["sha384"] for register, banks in prediction.registers.items()}


def test_registers_of_a_release(tmp_path: Path) -> None:
    prediction = predicted(release(tmp_path))
    assert prediction.platform is Platform.TDX
    assert list(prediction.registers) == ["mrtd", "rtmr0", "rtmr1", "rtmr2"]
    assert prediction.label == {"qemu": "9.2.1", "page-order": "single-pass"}
    assert prediction.inputs("rtmr2") == ("cmdline in metadata.json", "initramfs.cpio.gz")
    assert "bzImage" in prediction.inputs("rtmr1")
    assert "variable store in ovmf.fd" in prediction.inputs("rtmr0")
    assert {each.register for each in prediction.events} == set(prediction.registers)


@pytest.mark.parametrize(
    ("files", "metadata", "changed"),
    [
        ({"initramfs_cpio_gz": b"other" * 120}, {}, {"rtmr2"}),
        ({"initramfs_cpio_gz": b"longer" * 9000}, {}, {"rtmr1", "rtmr2"}),
        ({"bzImage": bzimage(release="6.12.2-test")}, {}, {"rtmr1"}),
        ({}, {"cmdline": "quiet"}, {"rtmr2"}),
        ({"ovmf_fd": build(metadata_space=0x408)}, {}, {"mrtd"}),
    ],
)
def test_every_file_is_in_its_register(
    tmp_path: Path, files: dict[str, bytes], metadata: dict[str, object], changed: set[str]
) -> None:
    base = values(predicted(release(tmp_path / "base")))
    other = values(predicted(release(tmp_path / "other", metadata, **files)))
    assert {register for register in base if base[register] != other[register]} == changed


@pytest.mark.parametrize(
    ("machine_changes", "changed"),
    [
        ({"memory_size": 8 << 30}, {"rtmr0"}),
        ({"memory_size": 1 << 30}, {"rtmr0", "rtmr1"}),
        ({"memory_size": 2 << 30}, {"rtmr0"}),
        ({"qemu_version": "8.2.2"}, {"mrtd"}),
        ({"qemu_version": "10.1.0"}, {"rtmr1"}),
        ({"qemu_single_pass_add_pages": True}, {"mrtd"}),
        ({"cpu_count": 4}, set()),
    ],
)
def test_every_choice_of_the_host_is_in_its_register(
    tmp_path: Path, machine_changes: dict[str, object], changed: set[str]
) -> None:
    """ACPI tables are given here, so what shows only in them changes nothing."""
    found = release(tmp_path)
    base, other = values(predicted(found)), values(predicted(found, **machine_changes))
    assert {register for register in base if base[register] != other[register]} == changed


def test_kernel_is_hashed_as_it_is_where_qemu_or_firmware_leave_it(tmp_path: Path) -> None:
    plain = release(tmp_path / "plain")
    normalised = release(tmp_path / "normalised", {"kernel_header_normalized": True})
    assert not kernel_is_untouched(plain, machine())
    assert kernel_is_untouched(plain, machine(qemu_version="10.0.2"))
    assert kernel_is_untouched(normalised, machine())
    untouched = values(predicted(plain, qemu_version="11.1.2"))["rtmr1"]
    assert values(predicted(normalised))["rtmr1"] == untouched
    assert values(predicted(plain))["rtmr1"] != untouched


def test_document_of_a_release_gives_what_its_files_give(tmp_path: Path) -> None:
    """What the image's build would write into measurement.tdx.cbor, for the witness of this firmware."""
    found, config = release(tmp_path), machine()
    reference = release_reference(found, config)
    document = copy.deepcopy(DOCUMENT)
    document["image"] = {
        "cmdline_sha384": reference.command_line.digest,
        "kernel_authenticode": reference.kernel.digest,
        "initrd_sha384": reference.initrd.digest,
    }
    tdvf: Any = document["tdvf"]
    tdvf["mrtd"] = {
        "single_pass": reference.mrtd[PageOrder.SINGLE_PASS],
        "two_pass": reference.mrtd[PageOrder.TWO_PASS],
    }
    lite = lite_reference(parse_tdx_measurement(DstackGuest(document=document).measurement), config)
    one, other = values(predict_tdx(reference, config, ACPI)), values(predict_tdx(lite, config, ACPI))
    assert {register for register in one if one[register] != other[register]} == {"rtmr0"}
    assert lite.td_hob.digest == reference.td_hob.digest
    # The small firmware's variable store is not the empty one of 4 MiB that documents take for granted.
    assert lite.variables.digest != reference.variables.digest


def test_a_release_judges_a_report(tmp_path: Path) -> None:
    """With the folder at hand nothing is taken from the host's documents."""
    found = release(tmp_path)
    guest = DstackGuest()
    judgement = judge(parse_report(guest.report()), Expectations(release=found, acpi=ACPI))
    for name in ("os-image-hash", "mrtd", "rtmr0", "rtmr1", "rtmr2"):
        assert judgement.check(name).outcome.value == "fail"


def test_firmware_without_a_variable_store_is_refused(tmp_path: Path) -> None:
    bare = release(tmp_path, ovmf_fd=build([section for section in SECTIONS if section.kind != 1]))
    with pytest.raises(DstackInputError, match="has no variable store"):
        predicted(bare)


@pytest.mark.parametrize("name", ["ovmf_fd", "bzImage"])
def test_files_that_are_not_what_they_should_be_are_refused(tmp_path: Path, name: str) -> None:
    broken = release(tmp_path, {}, **{name: b"not it" * 500})
    with pytest.raises(FormatError):
        predicted(broken)


def test_acpi_files_of_a_machine_with_a_tpm_are_refused() -> None:
    plain = AcpiFiles(loader=b"loader", files=((RSDP, b"rsdp"), (TABLES, b"tables")))
    assert acpi_digests(plain, origin="test").origin == "test"
    with_tpm = replace(plain, files=((RSDP, b"rsdp"), (TPM_LOG, b""), (TABLES, b"tables")))
    with pytest.raises(DstackInputError, match="RSDP and tables alone"):
        acpi_digests(with_tpm, origin="test")
