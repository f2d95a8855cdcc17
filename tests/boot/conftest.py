"""Fixtures of the boot tests, made once per session because a boot takes 12 to 30 seconds.

``built_image``, ``dev_image``
    The image of the default recipe, and the same one with ``dev = true`` (``image_builder.image.Image``).
    Read-only: a test that damages an image takes a copy (``tests.support.images.copy_image``).
``apps_image``
    The image of the recipe that runs apps (``keyturn init --template apps``); read-only, too.
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

import pytest

from image_builder.image import Artefact, Image
from measurements.qemu import MachineSpec
from measurements.qemu_args import DiskFile, FirmwareFiles
from measurements.shape import MachineShape
from tests.support import images
from tests.support.real_boot import FinishedBoot, finished_boot

ImageMaker = Callable[[str, Mapping[str, str]], Image]


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
def apps_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of the recipe that runs apps."""
    return images.build_image(tmp_path_factory.mktemp("apps"), template="apps")


@pytest.fixture(scope="session")
def firmware() -> FirmwareFiles:
    """The distribution's OVMF."""
    return images.firmware()


def boot_spec(image: Image, firmware: FirmwareFiles, shape: MachineShape) -> MachineSpec:
    """How ``image`` is booted on ``shape``."""
    return MachineSpec(shape=shape, firmware=firmware, disks=[DiskFile(path=image.path(Artefact.DISK))])


@pytest.fixture(scope="session")
def default_boot(built_image: Image, firmware: FirmwareFiles) -> FinishedBoot:
    """One boot of the default image on the default shape."""
    return finished_boot(boot_spec(built_image, firmware, MachineShape()))
