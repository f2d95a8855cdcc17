"""Predictions of whole images against real boots: all registers in both banks, and the log event by event.

Machines, firmware and stubs vary in ``test_oracle_*`` with a quicker guest. Here it is the images: what the
guest itself measures (modules under Secure Boot, the marker of development images), and recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from image_builder.image import Artefact, Image
from image_builder.measured_image import read_measured_image
from measurements.boot_report import BootReport
from measurements.boot_sequence import UNLOGGED_PCRS, ImageInputs, Prediction
from measurements.eventlog import parse_event_log
from measurements.events import Bank
from measurements.predict_tpm import predict_tpm
from measurements.qemu import MachineSpec
from measurements.qemu_args import DiskFile, FirmwareFiles
from measurements.shape import MachineShape
from tests.boot.conftest import ImageMaker
from tests.support.debian_packages import debian_package
from tests.support.oracle_boots import BANKS, firmware_inputs, logged
from tests.support.real_boot import finished_boot
from tests.support.secure_boot_keys import SigningKey, enrol, make_key
from tests.support.signed_image import signed_copy

pytestmark = pytest.mark.boot

COMMAND_LINE = 'command-line = []               # additions, each "key" or "key=value"'
STUB = 'stub-package = "systemd-boot-efi"'
LAST_MODULE = '    "evdev",'
BASE = MachineShape(memory_mib=1024)

FirmwareFolder = Callable[[], Path]


def bookworm() -> Path:
    """OVMF 2022.11 of Debian 12."""
    return debian_package("ovmf", suite="bookworm") / "usr/share/OVMF"


def trixie() -> Path:
    """OVMF 2025.02 of Debian 13."""
    return debian_package("ovmf", suite="trixie") / "usr/share/OVMF"


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One machine with one image; ``changes`` are lines of the default recipe and their replacements."""

    firmware: FirmwareFolder = bookworm
    secure_boot: bool = False
    shape: MachineShape = BASE
    image: str = "default"
    changes: Mapping[str, str] = field(default_factory=dict)


COMBINATIONS = {
    "debian12-dev-command-line-module-stub-252-2-cpus": Combination(
        shape=replace(BASE, cpus=2),
        image="changed",
        changes={
            "dev = false ": "dev = true ",
            COMMAND_LINE: 'command-line = ["mitigations=off"]',
            LAST_MODULE: LAST_MODULE + '\n    "virtio_rng",',
            STUB: f'{STUB}\nsuite = "bookworm"',
        },
    ),
    "debian13-secure-boot": Combination(firmware=trixie, secure_boot=True),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that one combination boots and predicts with."""

    firmware: FirmwareFiles
    shape: MachineShape
    disk: Path
    inputs: ImageInputs

    def prediction(self) -> Prediction:
        return predict_tpm(self.inputs, firmware_inputs(self.firmware, self.shape), self.shape)

    def boot(self) -> BootReport:
        disks = [DiskFile(path=self.disk)]
        return finished_boot(MachineSpec(shape=self.shape, firmware=self.firmware, disks=disks)).report


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SigningKey]:
    folder = tmp_path_factory.mktemp("secure-boot-keys")
    return {name: make_key(folder, name) for name in ("platform", "exchange", "image")}


def prepare(combination: Combination, image: Image, keys: Mapping[str, SigningKey], folder: Path) -> Setup:
    """The files of a combination; with Secure Boot a signed UKI and a store with own keys."""
    ovmf = combination.firmware()
    inputs = read_measured_image(image.folder)
    if not combination.secure_boot:
        files = FirmwareFiles(code=ovmf / "OVMF_CODE_4M.fd", variables=ovmf / "OVMF_VARS_4M.fd")
        return Setup(firmware=files, shape=combination.shape, disk=image.path(Artefact.DISK), inputs=inputs)
    store = enrol(
        ovmf / "OVMF_VARS_4M.fd",
        folder / "vars.fd",
        platform=keys["platform"],
        exchange=keys["exchange"],
        db=[keys["image"]],
    )
    signed = signed_copy(image, keys["image"], folder / "signed")
    return Setup(
        firmware=FirmwareFiles(code=ovmf / "OVMF_CODE_4M.secboot.fd", variables=store),
        shape=replace(combination.shape, smm=True),
        disk=signed.disk,
        inputs=replace(inputs, uki=signed.uki.read_bytes()),
    )


@pytest.mark.parametrize("name", COMBINATIONS)
def test_registers_and_events_of_a_boot_are_the_predicted_ones(
    name: str, make_image: ImageMaker, keys: dict[str, SigningKey], tmp_path: Path
) -> None:
    combination = COMBINATIONS[name]
    setup = prepare(combination, make_image(combination.image, combination.changes), keys, tmp_path)
    predicted = setup.prediction()
    report = setup.boot()
    log = parse_event_log(report.event_log)
    for bank, algorithm in BANKS.items():
        assert logged(log, algorithm) == [
            (event.pcr, int(event.event_type), event.digests[bank].hex()) for event in predicted.logged()
        ]
        found = {pcr: value.hex() for pcr, value in report.banks[bank.value].items() if pcr <= 14}
        assert found == {pcr: value.hex() for pcr, value in predicted.registers[bank].items()}


def test_the_combinations_cover_what_users_vary() -> None:
    """They are worth something only while they vary each of these."""
    combinations = COMBINATIONS.values()
    assert {combination.firmware for combination in combinations} == {bookworm, trixie}
    assert {combination.secure_boot for combination in combinations} == {False, True}
    assert any("dev = true " in combination.changes.values() for combination in combinations)
    assert set(UNLOGGED_PCRS) == {10, 14}
    assert set(Bank) == set(BANKS)
