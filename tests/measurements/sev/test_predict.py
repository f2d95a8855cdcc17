"""The labelled set: what its members hold for, where they fork, and that every byte counts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from measurements.errors import KeyturnError
from measurements.platforms import Platform, PlatformPrediction
from measurements.reference import REGISTERS, parse_predictions, predictions_document
from measurements.sev.cpu_models import CPU_MODELS
from measurements.sev.kernel_hashes import KernelHashes, hash_kernel
from measurements.sev.launch_digest import extend_region, firmware_digest, vmsa_region
from measurements.sev.ovmf_metadata import SevFirmwareError, SevImage, parse_sev_image
from measurements.sev.predict import SevChoiceError, SevChoices, predict_sev
from measurements.sev.svsm import parse_svsm
from measurements.sev.vmsa import BOOT_EIP, Vmm, reset_vmsa
from tests.support.sev_images import SECTIONS, sev_image

MILAN = CPU_MODELS["EPYC-Milan"]
ONE = SevChoices(cpu_models=[MILAN], guest_features=[1], vcpus=[2])


def image(code: bytes = b"code", **options: Any) -> SevImage:
    return parse_sev_image(sev_image(code, **options), name="ovmf.fd")


def kernel_hashes() -> KernelHashes:
    return hash_kernel(kernel=b"kernel" * 500, initrd=b"initrd" * 500, cmdline="console=ttyS0 root=/dev/vda")


def value(prediction: PlatformPrediction) -> bytes:
    (found,) = prediction.registers["measurement"].values()
    return found


def test_the_set_has_a_member_for_each_combination() -> None:
    choices = SevChoices(vcpus=(4, 1, 8))
    found = predict_sev(Platform.SNP, image(), kernel=kernel_hashes(), choices=choices)
    labels = [tuple(prediction.label.values()) for prediction in found]
    assert len(set(labels)) == len(labels) == 5 * 2 * 3
    assert len({value(prediction) for prediction in found}) == len(found)
    assert labels[:3] == [("EPYC", "0x1", count, "qemu") for count in ("4", "1", "8")]
    assert found[0].shape == {"cpus": 4}
    assert list(found[0].label) == ["cpu-model", "guest-features", "vcpus", "vmm"]


def test_members_equal_those_predicted_alone() -> None:
    choices = SevChoices(vcpus=(3, 1, 2))
    for prediction in predict_sev(Platform.SNP, image(), choices=choices):
        alone = SevChoices(
            cpu_models=[CPU_MODELS[prediction.label["cpu-model"]]],
            guest_features=[int(prediction.label["guest-features"], 16)],
            vcpus=[int(prediction.label["vcpus"])],
        )
        assert predict_sev(Platform.SNP, image(), choices=alone) == (prediction,)


def test_events_tell_the_launch_step_by_step() -> None:
    (prediction,) = predict_sev(Platform.SNP, image(), kernel=kernel_hashes(), choices=ONE)
    assert [event.description for event in prediction.events] == [
        "firmware: 0x2000 bytes at 0xffffe000",
        "memory of the first phase (SEC_MEM): 0x9000 bytes at 0x800000",
        "memory of the first phase (SEC_MEM): 0x3000 bytes at 0x80a000",
        "secrets page: 0x1000 bytes at 0x80d000",
        "CPUID page: 0x1000 bytes at 0x80e000",
        "calling area of an SVSM: 0x1000 bytes at 0x80f000",
        "memory of the first phase (SEC_MEM): 0xf000 bytes at 0x811000",
        "hashes of command line, initrd and kernel: 0x1000 bytes at 0x810000",
        "save area of processor 0",
        "save areas of processor 1",
    ]
    assert all(event.running and event.register == "measurement" for event in prediction.events)
    assert prediction.events[0].digests["sha384"] == firmware_digest(image())
    assert prediction.events[-1].digests == prediction.registers["measurement"]
    assert prediction.inputs("measurement") == (
        *("ovmf.fd", "metadata of ovmf.fd", "kernel, initrd, command line"),
        "CPU model EPYC-Milan, guest features 0x1",
    )
    assert set(prediction.registers) == set(REGISTERS[Platform.SNP])


@pytest.mark.parametrize("platform", [Platform.SNP, Platform.SEV_ES, Platform.SEV])
def test_the_set_is_read_again_from_its_document(platform: Platform) -> None:
    predictions = predict_sev(platform, image(), kernel=kernel_hashes(), choices=SevChoices(vcpus=(1, 3)))
    document = json.dumps(predictions_document(predictions)).encode()
    assert parse_predictions(document) == predictions


@pytest.mark.parametrize(("vmm", "models"), [(Vmm.QEMU, 5), (Vmm.EC2, 1), (Vmm.GCE, 1), (Vmm.GCE_GENOA, 1)])
def test_vmms_that_do_not_measure_the_cpu_model(vmm: Vmm, models: int) -> None:
    found = predict_sev(Platform.SNP, image(), choices=SevChoices(guest_features=[1], vmm=vmm))
    assert len(found) == models
    assert (found[0].label["cpu-model"] == "any") == (models == 1)


def test_google_measures_save_areas_at_the_highest_address_of_the_processor() -> None:
    """google/gce-tcb-verifier, sev/measurement.go: 48 bits on Milan, 52 on Genoa; all else is the same."""
    milan, genoa = (
        predict_sev(Platform.SNP, image(), choices=SevChoices(guest_features=[1], vmm=vmm))[0]
        for vmm in (Vmm.GCE, Vmm.GCE_GENOA)
    )
    assert milan.events[:-1] == genoa.events[:-1]
    page = reset_vmsa(eip=BOOT_EIP, signature=0, features=1, vmm=Vmm.GCE_GENOA)
    before = milan.events[-2].digests["sha384"]
    region = vmsa_region(page, description="", origin="", gpa=0xFFFFFFFFFF000)
    assert value(genoa) == extend_region(before, region) != value(milan)


def test_sev_has_one_value_and_sev_es_no_features() -> None:
    choices = SevChoices(vcpus=(1, 2))
    (plain,) = predict_sev(Platform.SEV, image(), choices=choices)
    assert plain.label == {"cpu-model": "any", "guest-features": "any", "vcpus": "any", "vmm": "qemu"}
    assert list(plain.registers["measurement"]) == ["sha256"]
    es = predict_sev(Platform.SEV_ES, image(), choices=choices)
    assert [prediction.label["guest-features"] for prediction in es] == ["0x0"] * 10
    assert len({value(prediction) for prediction in es}) == 10


def test_a_firmware_digest_stands_for_the_pages_only() -> None:
    whole = predict_sev(Platform.SNP, image(), choices=ONE)
    known = predict_sev(Platform.SNP, image(b"other"), choices=ONE, firmware_digest=firmware_digest(image()))
    assert value(whole[0]) == value(known[0])
    assert known[0].events[0].description == "firmware, known by its digest only"


@pytest.mark.parametrize("platform", [Platform.SNP, Platform.SEV_ES, Platform.SEV])
def test_any_byte_of_firmware_kernel_initrd_or_command_line_changes_the_value(platform: Platform) -> None:
    chance = random.Random(4)
    firmware = sev_image(b"code")
    parts = {
        "firmware": firmware,
        "kernel": b"kernel" * 500,
        "initrd": b"initrd" * 500,
        "cmdline": b"console=1",
    }

    def predicted(changed: dict[str, bytes]) -> bytes:
        hashes = hash_kernel(
            kernel=changed["kernel"], initrd=changed["initrd"], cmdline=changed["cmdline"].decode()
        )
        found = parse_sev_image(changed["firmware"], name="ovmf.fd")
        return value(predict_sev(platform, found, kernel=hashes, choices=ONE)[0])

    values = {predicted(parts)}
    flips = 0
    for name, data in parts.items():
        # The end of the firmware describes it: a flip there is mostly refused, which is tested elsewhere.
        last = 7000 if name == "firmware" else len(data) - 1
        for position in {0, last, *chance.sample(range(last), 7)}:
            flipped = bytearray(data)
            flipped[position] ^= 1
            values.add(predicted(parts | {name: bytes(flipped)}))
            flips += 1
    assert len(values) == flips + 1


def test_a_flip_in_the_description_of_the_firmware_never_keeps_the_value() -> None:
    original = sev_image(b"code")
    expected = value(predict_sev(Platform.SNP, image(), choices=ONE)[0])
    for position in range(len(original) - 300, len(original), 3):
        flipped = bytearray(original)
        flipped[position] ^= 4
        try:
            found = predict_sev(Platform.SNP, parse_sev_image(bytes(flipped), name="ovmf.fd"), choices=ONE)
        except KeyturnError:
            continue
        assert value(found[0]) != expected


def test_firmware_without_snp_metadata() -> None:
    plain = image(sections=())
    with pytest.raises(SevFirmwareError, match="has no SNP metadata"):
        predict_sev(Platform.SNP, plain, choices=ONE)
    assert predict_sev(Platform.SEV_ES, plain, choices=ONE)


def test_further_processors_need_an_address_to_start_at() -> None:
    without = image(reset_eip=None)
    with pytest.raises(SevFirmwareError, match="where further processors start"):
        predict_sev(Platform.SNP, without, choices=ONE)
    assert predict_sev(Platform.SNP, without, choices=SevChoices(vcpus=(1,)))


@pytest.mark.parametrize("gpa", [0x80FFF0, 0x811000])
def test_a_table_of_hashes_outside_its_section(gpa: int) -> None:
    with pytest.raises(SevFirmwareError, match="outside its section"):
        predict_sev(Platform.SNP, image(hash_table=(gpa, 0x400)), kernel=kernel_hashes(), choices=ONE)


def test_a_table_of_hashes_that_does_not_fit_into_its_page() -> None:
    with pytest.raises(SevFirmwareError, match="does not fit"):
        predict_sev(Platform.SNP, image(hash_table=(0x810F80, 0x80)), kernel=kernel_hashes(), choices=ONE)


@pytest.mark.parametrize(
    "choice",
    [
        {"vcpus": ()},
        {"vcpus": (0,)},
        {"vcpus": (513,)},
        {"vcpus": (1, -1)},
        {"cpu_models": ()},
        {"guest_features": ()},
    ],
)
def test_choices_that_cannot_be(choice: dict[str, Any]) -> None:
    with pytest.raises(SevChoiceError):
        SevChoices(**choice)


def test_features_that_no_guest_has_are_refused() -> None:
    with pytest.raises(KeyturnError, match="lacks bit 0"):
        predict_sev(Platform.SNP, image(), choices=SevChoices(guest_features=(0x20,)))


def test_combinations_that_do_not_exist() -> None:
    firmware = image()
    svsm_bytes = sev_image(b"svsm", sections=SECTIONS[:3], svsm_entry=0)
    svsm = parse_svsm(svsm_bytes, name="svsm.bin", firmware=firmware, variables_size=0)
    with pytest.raises(SevChoiceError, match="no platform of AMD"):
        predict_sev(Platform.TDX, firmware)
    with pytest.raises(SevChoiceError, match="neither SVSM"):
        predict_sev(Platform.SEV_ES, firmware, svsm=svsm)
    with pytest.raises(SevChoiceError, match="neither SVSM"):
        predict_sev(Platform.SEV, firmware, firmware_digest=bytes(48))
    with pytest.raises(SevChoiceError, match="on QEMU only"):
        predict_sev(Platform.SNP, firmware, svsm=svsm, kernel=kernel_hashes())
    with pytest.raises(SevChoiceError, match="has 47 bytes"):
        predict_sev(Platform.SNP, firmware, firmware_digest=bytes(47))


@pytest.mark.parametrize("entry", [None, 0x2000])
def test_an_svsm_without_a_first_instruction(entry: int | None) -> None:
    svsm = sev_image(b"svsm", svsm_entry=entry)
    with pytest.raises(SevFirmwareError, match="no first instruction"):
        parse_svsm(svsm, name="svsm.bin", firmware=image(), variables_size=0x1000)


@pytest.mark.parametrize("size", [-4096, 1, 1 << 32])
def test_a_variable_store_that_cannot_be(size: int) -> None:
    with pytest.raises(SevFirmwareError, match="cannot lie below"):
        parse_svsm(sev_image(svsm_entry=0), name="svsm.bin", firmware=image(), variables_size=size)
