"""Predictions against real boots: all registers in both banks, and the log event by event.

Each combination differs from the others in firmware build, Secure Boot, memory, TPM interface, devices,
processors or image. A boot takes 12 to 40 seconds without KVM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from image_builder.image import Artefact, Image
from image_builder.measured_image import read_measured_image
from measurements.alignment import ALGORITHMS
from measurements.boot_report import BootReport
from measurements.boot_sequence import UNLOGGED_PCRS, ImageInputs, Prediction
from measurements.eventlog import parse_event_log
from measurements.events import Bank
from measurements.firmware_profile import record_profile
from measurements.pcr0 import needs_dry_boot
from measurements.predict_tpm import FirmwareInputs, predict_tpm
from measurements.qemu import MachineSpec
from measurements.qemu_args import DiskFile, FirmwareFiles
from measurements.shape import Disk, MachineShape, Nic, TpmInterface
from tests.boot.conftest import ImageMaker
from tests.support.debian_packages import debian_package
from tests.support.real_boot import finished_boot
from tests.support.secure_boot_keys import SigningKey, enrol, make_key
from tests.support.signed_image import signed_copy

pytestmark = pytest.mark.boot

COMMAND_LINE = 'command-line = []               # additions, each "key" or "key=value"'
STUB = 'stub-package = "systemd-boot-efi"'
LAST_MODULE = '    "evdev",'
SPARE_DISK = 16 << 20
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
    "debian12": Combination(),
    "debian12-tis-2GiB": Combination(shape=replace(BASE, memory_mib=2048, tpm=TpmInterface.TIS)),
    "debian12-secure-boot": Combination(secure_boot=True),
    "debian12-disk-nic": Combination(
        shape=replace(BASE, disks=(Disk(), Disk(slot=4)), nics=(Nic(),)),
    ),
    "debian12-command-line": Combination(
        image="command-line", changes={COMMAND_LINE: 'command-line = ["mitigations=off"]'}
    ),
    "debian12-dev": Combination(image="dev", changes={"dev = false ": "dev = true "}),
    "debian12-stub-252": Combination(image="stub-252", changes={STUB: f'{STUB}\nsuite = "bookworm"'}),
    "debian13": Combination(firmware=trixie),
    "debian13-tis-2GiB": Combination(
        firmware=trixie, shape=replace(BASE, memory_mib=2048, tpm=TpmInterface.TIS)
    ),
    "debian13-secure-boot": Combination(firmware=trixie, secure_boot=True),
    "debian13-disk-nic": Combination(
        firmware=trixie, shape=replace(BASE, disks=(Disk(), Disk(slot=4)), nics=(Nic(),))
    ),
    "debian13-2-cpus-initrd": Combination(
        firmware=trixie,
        shape=replace(BASE, cpus=2),
        image="initrd",
        changes={LAST_MODULE: LAST_MODULE + '\n    "virtio_rng",'},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that one combination boots and predicts with."""

    firmware: FirmwareFiles
    shape: MachineShape
    disk: Path
    inputs: ImageInputs

    def prediction(self) -> Prediction:
        firmware = FirmwareInputs.read(code=self.firmware.code, variables=self.firmware.variables)
        if needs_dry_boot(firmware.firmware, self.shape):
            firmware = replace(firmware, profile=record_profile(self.firmware, self.shape))
        return predict_tpm(self.inputs, firmware, self.shape)

    def boot(self, folder: Path) -> BootReport:
        disks = [DiskFile(path=self.disk)]
        for number in range(1, len(self.shape.disks)):
            spare = folder / f"disk{number}"
            spare.write_bytes(b"")
            with spare.open("r+b") as stream:
                stream.truncate(SPARE_DISK)
            disks.append(DiskFile(path=spare))
        spec = MachineSpec(shape=self.shape, firmware=self.firmware, disks=disks)
        return finished_boot(spec).report


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
    report = setup.boot(tmp_path)
    log = parse_event_log(report.event_log)
    booted = [event for event in log.events if event.extends]
    for bank, algorithm in ALGORITHMS.items():
        assert [(event.pcr, event.event_type, event.digests[algorithm].hex()) for event in booted] == [
            (event.pcr, int(event.event_type), event.digests[bank].hex()) for event in predicted.logged()
        ]
        found = {pcr: value.hex() for pcr, value in report.banks[bank.value].items() if pcr <= 14}
        assert found == {pcr: value.hex() for pcr, value in predicted.registers[bank].items()}


def test_the_combinations_cover_what_users_vary() -> None:
    """The matrix is worth something only while it varies each of these."""
    combinations = COMBINATIONS.values()
    assert len(COMBINATIONS) >= 8
    assert {combination.firmware for combination in combinations} == {bookworm, trixie}
    assert {combination.secure_boot for combination in combinations} == {False, True}
    assert {combination.shape.tpm for combination in combinations} == {TpmInterface.CRB, TpmInterface.TIS}
    assert len({combination.shape.memory_mib for combination in combinations}) >= 2
    assert len({combination.image for combination in combinations}) >= 4
    assert any(combination.shape.nics for combination in combinations)
    assert set(UNLOGGED_PCRS) == {10, 14}
    assert set(Bank) == set(ALGORITHMS)
