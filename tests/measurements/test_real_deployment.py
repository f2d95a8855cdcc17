"""A trust domain of a cloud, from distribution packages alone: MRTD and RTMR0 of a quote that Intel's key
signed, without its hardware and with an unmodified QEMU.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from measurements import Host, MachineShape, Platform, PlatformPrediction, predict
from measurements.shape import read_shape
from tests.measurements.tdx.kernel_files import bzimage
from tests.support.boot_model import ModelImage
from tests.support.foreign_qemu import foreign_qemu
from tests.support.vectors import vector

pytestmark = [pytest.mark.apt, pytest.mark.network]

SHAPE = Path(__file__).parents[2] / "examples/shapes/cloud-trust-domain.toml"
CAPTURED = "tdx-platform/virtee-tdx-measure-fixtures/runtime-capture/expected.json"
"""Of virtee/tdx-measure: ``runtime-capture`` comes from a live trust domain."""


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("firmware") / "OVMF.fd"
    path.write_bytes(lzma.decompress(vector("firmware/OVMF-2025.02-3ubuntu2.fd.xz").read_bytes()))
    return path


def predicted(shape: MachineShape, firmware: Path) -> PlatformPrediction:
    host = Host(whole=firmware, qemu=foreign_qemu("trixie"))
    image = ModelImage(kernel=bzimage()).inputs()
    (found,) = predict(image=image, shape=shape, platform=Platform.TDX, host=host)
    return found


def test_mrtd_and_rtmr0_are_those_of_the_quote(firmware: Path) -> None:
    found = predicted(read_shape(SHAPE), firmware)
    captured = json.loads(vector(CAPTURED).read_text())
    assert {name: found.registers[name]["sha384"].hex() for name in captured} == captured
    assert {event.provenance.value for event in found.events} == {"computed"}


@pytest.mark.parametrize("change", [{"cpus": 7}, {"memory_mib": 8192}, {"pic": True}])
def test_another_machine_has_another_rtmr0_alone(change: dict[str, Any], firmware: Path) -> None:
    shape = read_shape(SHAPE)
    found, other = (predicted(each, firmware) for each in (shape, replace(shape, **change)))
    differing = {name for name, values in found.registers.items() if other.registers[name] != values}
    assert differing == {"rtmr0"}
