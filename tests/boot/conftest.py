"""Fixtures of the boot tests, made once per session because a boot takes 12 to 30 seconds.

``built_image``, ``dev_image``
    The image of the default recipe, and the same one with ``dev = true`` (``image_builder.image.Image``).
    Read-only: a test that damages an image takes a copy (``tests.support.images.copy_image``).
``make_image``
    Builds further variants: ``make_image("name", {line of the default recipe: replacement})``, each once per
    session.
``firmware``
    OVMF's files; skips the test where QEMU, swtpm or OVMF is not installed.
``default_boot``
    One finished boot of ``built_image`` on the default shape: console output and parsed report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from image_builder.image import Artefact, Image
from measurements.boot_report import BootReport, find_report
from measurements.qemu import Machine, MachineSpec
from measurements.qemu_args import DiskFile, FirmwareFiles
from measurements.shape import MachineShape
from tests.support import images

REPORT_END = "END KEYTURN BOOT REPORT"
REPORT_SECONDS = 180
POWER_OFF_SECONDS = 60

ImageMaker = Callable[[str, Mapping[str, str]], Image]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedBoot:
    """What is left of a machine: all console output, its report, QEMU's exit status, and QEMU's version."""

    console: bytes
    report: BootReport
    exit_status: int
    qemu_version: str


@pytest.fixture(scope="session")
def make_image(tmp_path_factory: pytest.TempPathFactory) -> ImageMaker:
    """Builds variants of the default image, each once."""
    made: dict[str, Image] = {}

    def make(name: str, changes: Mapping[str, str]) -> Image:
        if name not in made:
            made[name] = images.build_image(tmp_path_factory.mktemp(name), changes=changes)
        return made[name]

    return make


@pytest.fixture(scope="session")
def built_image(make_image: ImageMaker) -> Image:
    """The image of the default recipe."""
    return make_image("default", {})


@pytest.fixture(scope="session")
def dev_image(make_image: ImageMaker) -> Image:
    """The same as a development image."""
    return make_image("dev", {"dev = false ": "dev = true "})


@pytest.fixture(scope="session")
def firmware() -> FirmwareFiles:
    """The distribution's OVMF."""
    return images.firmware()


def boot_spec(image: Image, firmware: FirmwareFiles, shape: MachineShape) -> MachineSpec:
    """How ``image`` is booted on ``shape``."""
    return MachineSpec(shape=shape, firmware=firmware, disks=[DiskFile(path=image.path(Artefact.DISK))])


def boot_to_report(image: Image, firmware: FirmwareFiles, shape: MachineShape) -> FinishedBoot:
    """Boot, wait for the report, press the power button, and wait for the end."""
    with Machine.start(boot_spec(image, firmware, shape)) as machine:
        machine.wait_for(REPORT_END, seconds=REPORT_SECONDS)
        machine.power_button()
        status = machine.wait_exit(seconds=POWER_OFF_SECONDS)
        console = machine.console.data
        return FinishedBoot(
            console=console,
            report=find_report(console),
            exit_status=status,
            qemu_version=machine.qemu_version,
        )


@pytest.fixture(scope="session")
def default_boot(built_image: Image, firmware: FirmwareFiles) -> FinishedBoot:
    """One boot of the default image on the default shape."""
    return boot_to_report(built_image, firmware, MachineShape())
