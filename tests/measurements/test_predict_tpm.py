"""The assembled prediction: order, registers that stay untouched, and what each event says about itself."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Any, cast

import pytest

from measurements.boot_sequence import PREDICTED_PCRS, measure_image, started_events
from measurements.errors import FormatError
from measurements.events import Bank, EventType, Provenance, replay
from measurements.firmware_catalogue import UnknownFirmwareError
from measurements.firmware_volume import FirmwareVolume
from measurements.ovmf import MACHINE_X64, Firmware, Module
from measurements.predict_tpm import check_release, predict_tpm
from measurements.runtime_events import DEV_IMAGE, event_digest
from measurements.secure_boot import secure_boot_policy
from measurements.shape import MachineShape, ShapeError, TpmInterface
from measurements.varstore import VariableStore
from tests.support.boot_model import KERNEL_CONFIG, ModelImage, ModelMachine, predict

MACHINE = ModelMachine()
IMAGE = ModelImage()


def test_the_order_is_that_of_real_logs() -> None:
    events = predict(MACHINE, IMAGE).events
    order = [(event.pcr, event.event_type.name.removeprefix("EV_").removeprefix("EFI_")) for event in events]
    assert order == [
        (0, "S_CRTM_VERSION"),
        (0, "PLATFORM_FIRMWARE_BLOB"),
        *[(7, "VARIABLE_DRIVER_CONFIG")] * 5,
        (7, "SEPARATOR"),
        (1, "PLATFORM_CONFIG_FLAGS"),
        *[(1, "VARIABLE_BOOT")] * 3,
        (4, "ACTION"),
        *[(pcr, "SEPARATOR") for pcr in range(7)],
        (5, "GPT_EVENT"),
        (4, "BOOT_SERVICES_APPLICATION"),
        *[(11, "IPL")] * 8,
        (4, "BOOT_SERVICES_APPLICATION"),
        *[(9, "EVENT_TAG")] * 2,
        *[(5, "ACTION")] * 2,
    ]


def test_registers_follow_from_the_events() -> None:
    prediction = predict(MACHINE, IMAGE)
    assert prediction.registers == replay(prediction.events, pcrs=PREDICTED_PCRS)
    assert {bank: set(values) for bank, values in prediction.registers.items()} == {
        bank: set(range(15)) for bank in Bank
    }


def test_registers_without_events_stay_zero_and_separators_stand_alone() -> None:
    registers = predict(MACHINE, IMAGE).registers[Bank.SHA256]
    separator = hashlib.sha256(bytes(32) + hashlib.sha256(bytes(4)).digest()).digest()
    assert {pcr for pcr, value in registers.items() if value == bytes(32)} == {8, 10, 12, 13, 14}
    assert {pcr for pcr, value in registers.items() if value == separator} == {2, 3, 6}


def test_every_event_says_where_it_comes_from() -> None:
    for event in predict(MACHINE, replace(IMAGE, dev=True)).events:
        assert event.description
        assert event.origin
        assert event.provenance is Provenance.COMPUTED
        assert {bank: len(digest) for bank, digest in event.digests.items()} == {
            bank: bank.size for bank in Bank
        }


def test_a_development_image_marks_itself() -> None:
    prediction = predict(MACHINE, replace(IMAGE, dev=True))
    marker = event_digest(DEV_IMAGE, algorithm="sha256")
    assert prediction.registers[Bank.SHA256][14] == hashlib.sha256(bytes(32) + marker).digest()
    assert prediction.events[-1].event_type is EventType.KEYTURN_RUNTIME
    assert prediction.events[-1] not in prediction.logged()


def test_ima_is_predicted_after_all_that_it_covers() -> None:
    config = {
        "CONFIG_IMA": "y",
        "CONFIG_TCG_CRB": "y",
        "CONFIG_IMA_DEFAULT_TEMPLATE": "ima-sig",
        "CONFIG_IMA_DEFAULT_HASH": "sha256",
        "CONFIG_CRYPTO_SHA256": "y",
        "CONFIG_CRYPTO_SHA512": "y",
    }
    assert KERNEL_CONFIG["CONFIG_IMA"] == "n"
    plain = predict(MACHINE, IMAGE)
    measured = predict(MACHINE, IMAGE, kernel_config=config)
    assert measured.logged() == plain.events
    assert measured.registers[Bank.SHA384][10] != bytes(48)
    assert measured.registers[Bank.SHA384][9] == plain.registers[Bank.SHA384][9]


@pytest.mark.parametrize(
    "changed",
    [
        ModelImage(command_line=b"console=ttyS0 x"),
        ModelImage(initrd=b"x"),
        ModelImage(kernel_tail=bytes(8)),
        ModelImage(os_release=b"ID=x\n"),
    ],
)
def test_a_change_of_the_image_changes_pcr_4_and_11(changed: ModelImage) -> None:
    first, second = predict(MACHINE, IMAGE), predict(MACHINE, changed)
    for bank in Bank:
        different = {pcr for pcr in range(15) if first.registers[bank][pcr] != second.registers[bank][pcr]}
        assert {4, 11} <= different <= {4, 9, 11}


def test_an_old_kernel_is_refused() -> None:
    with pytest.raises(FormatError, match="EFI stub measures by other rules"):
        measure_image(replace(IMAGE.inputs(), kernel_release="5.15.0"))


def test_a_machine_without_a_tpm_is_refused() -> None:
    nothing = cast("Any", None)
    with pytest.raises(ShapeError, match="without a TPM"):
        predict_tpm(nothing, nothing, MachineShape(tpm=TpmInterface.NONE))


def test_an_old_stub_measures_nothing_of_its_own_in_a_trust_domain() -> None:
    image = measure_image(IMAGE.inputs())
    policy = secure_boot_policy(VariableStore(variables=()), supported=False)

    def pcrs(*, knows: bool, trust_domain: bool) -> set[int]:
        changed = replace(image, uki=replace(image.uki, trust_domains=knows))
        found = started_events(changed, policy, variables_name="vars", trust_domain=trust_domain)
        return {event.pcr for event in found}

    assert pcrs(knows=True, trust_domain=True) == pcrs(knows=False, trust_domain=False) == {4, 5, 9, 11}
    assert pcrs(knows=False, trust_domain=True) == {4, 5, 9}


def test_firmware_of_an_unknown_release_is_refused() -> None:
    def firmware(text: str, dxe: bytes) -> Firmware:
        code = b"\x48\x8d\x05" + struct.pack("<i", 1) + b"\0" + (text + "\0").encode("utf-16-le") + b"\0\0"
        module = Module(name="Tcg2Pei", kind=6, start=0, image=code, machine=MACHINE_X64, image_base=0)
        volume = FirmwareVolume(data=dxe, name=None, files_at=0)
        return Firmware(
            name="x.fd", sha256="0" * 64, pei=volume, dxe=volume, pei_modules=(module,), dxe_files={}
        )

    check_release(firmware("2025.02-8+deb13u1", b"ACPI DATA"))
    check_release(firmware("", b""))
    check_release(firmware("", b"ACPI DATA"), release="2024.02")
    for text, release in (("2031.02-1", None), ("own build", None), ("", None), ("2025.02", "2031.02")):
        with pytest.raises(UnknownFirmwareError):
            check_release(firmware(text, b"ACPI DATA"), release=release)
