"""``measurements.predict`` as a program uses it, and the examples of its documentation."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

import measurements
from image_builder.measured_image import read_measured_image
from image_builder.uki import SectionName, UkiSection, build_uki
from measurements import Host, MachineShape, Platform, Predictor, predict
from measurements.api import PredictionInputError
from measurements.qemu_args import FirmwareFiles
from measurements.sev.cpu_models import find_cpu_model
from measurements.sev.predict import SevChoices
from measurements.shape import BootSource, TpmInterface
from tests.image_builder.test_measured_image import image_folder, initrd
from tests.measurements.tdx.kernel_files import bzimage
from tests.support.debian_packages import debian_package
from tests.support.igvm_files import IgvmWriter
from tests.support.oracle_boots import stub_file
from tests.support.vectors import vector

pytestmark = [pytest.mark.apt, pytest.mark.network]

SVSM_TWO_CPUS = (
    "9b94745036aafddf4f7f8b00c7513abb5b7703178cb95aaa57928bd963d68d3bfcb715d6019b9167ee2517b11b0d9be7"
)
DOCUMENT = Path(__file__).parents[2] / "docs/measurements.md"


@pytest.fixture(scope="module")
def firmware() -> FirmwareFiles:
    folder = debian_package("ovmf", suite="trixie") / "usr/share/OVMF"
    return FirmwareFiles(code=folder / "OVMF_CODE_4M.fd", variables=folder / "OVMF_VARS_4M.fd")


@pytest.fixture
def folder(tmp_path: Path, firmware: FirmwareFiles, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image and firmware under the names that the documentation uses."""
    image_folder(tmp_path / "image", initrd())
    for source, name in ((firmware.code, "OVMF_CODE_4M.fd"), (firmware.variables, "OVMF_VARS_4M.fd")):
        (tmp_path / name).write_bytes(source.read_bytes())
    (tmp_path / "OVMF.fd").write_bytes(firmware.variables.read_bytes() + firmware.code.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examples() -> Iterator[str]:
    yield from re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_of_the_documentation_run(folder: Path) -> None:
    names: dict[str, Any] = {}
    blocks = list(examples())
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert re.fullmatch("[0-9a-f]{64}", names["pcr4"])
    assert "uki.efi" in names["origins"]
    assert set(names["digests"]) == {
        f"{model} {word}" for model in ("EPYC-Milan", "EPYC-Genoa") for word in ("0x1", "0x21")
    }
    assert folder.exists()


def test_the_package_offers_exactly_the_names_that_it_names() -> None:
    for name, home in vars(measurements)["_HOMES"].items():
        assert getattr(measurements, name).__module__ == home
    for name in ("nothing", "_HOME"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(measurements, name)


def test_one_predictor_gives_what_single_calls_give(folder: Path, firmware: FirmwareFiles) -> None:
    image, host = read_measured_image(folder / "image"), Host(firmware=firmware)
    shapes = [MachineShape(), MachineShape(memory_mib=4096)]
    plan = [(platform, shape) for shape in shapes for platform in (Platform.TPM, Platform.SEV)]
    with Predictor(image=lambda: image, host=host) as predictor:
        together = [predictor.predict(platform, shape) for platform, shape in plan]
    assert together == [
        predict(image=image, shape=shape, platform=platform, host=host) for platform, shape in plan
    ]


def test_the_firmware_in_one_file_is_the_variables_and_the_code(
    folder: Path, firmware: FirmwareFiles
) -> None:
    image, shape = read_measured_image(folder / "image"), MachineShape(tpm=TpmInterface.NONE)
    values = [
        predict(image=image, shape=shape, platform=platform, host=host)[0].registers
        for platform in (Platform.TDX, Platform.SNP)
        for host in (Host(firmware=firmware), Host(whole=folder / "OVMF.fd"))
    ]
    assert values[0] == values[1]
    assert values[2] == values[3]


def test_a_direct_boot_takes_the_parts_of_the_image(folder: Path, firmware: FirmwareFiles) -> None:
    parts = {
        SectionName.LINUX: bzimage(),
        SectionName.INITRD: b"initrd",
        SectionName.CMDLINE: b"console=ttyS0",
    }
    stub = stub_file(257).read_bytes()
    uki = build_uki(stub, [UkiSection(name=name, data=data) for name, data in parts.items()])
    image = replace(read_measured_image(folder / "image"), uki=uki, load_modules=tuple)
    shape = MachineShape(boot=BootSource.DIRECT)
    (found,) = predict(image=image, shape=shape, platform=Platform.TPM, host=Host(firmware=firmware))
    described = [event.description for event in found.events]
    assert "kernel (Authenticode)" in described
    assert any(text.endswith("console=ttyS0 initrd=initrd") for text in described)
    assert not any("UKI" in text for text in described)


def test_predictions_are_frozen(folder: Path, firmware: FirmwareFiles) -> None:
    (found,) = predict(
        image=read_measured_image(folder / "image"),
        shape=MachineShape(),
        platform=Platform.SEV,
        host=Host(firmware=firmware),
    )
    with pytest.raises(FrozenInstanceError):
        found.__setattr__("platform", Platform.SNP)


@pytest.mark.parametrize("platform", Platform)
def test_what_is_not_given_is_named(platform: Platform, folder: Path) -> None:
    with pytest.raises(PredictionInputError, match="is not given"):
        predict(
            image=read_measured_image(folder / "image"),
            shape=MachineShape(),
            platform=platform,
            host=Host(),
        )


def test_an_svsm_below_the_firmware_gives_what_was_measured_on_hardware(folder: Path, tmp_path: Path) -> None:
    """sev-snp-measure's test_snp_svsm_2_vcpus, whose processors get features 0x1 whatever is asked for."""
    variables = tmp_path / "VARS.fd"
    variables.write_bytes(bytes(540672))
    code = tmp_path / "CODE.fd"
    code.write_bytes(lzma.decompress(vector("snp/sev-snp-measure/svsm_ovmf.fd.xz").read_bytes()))
    host = Host(
        firmware=FirmwareFiles(code=code, variables=variables),
        svsm=vector("snp/sev-snp-measure/svsm.bin"),
        sev=SevChoices(cpu_models=[find_cpu_model("EPYC-v4")], guest_features=[0x1]),
    )
    (found,) = predict(
        image=read_measured_image(folder / "image"),
        shape=MachineShape(cpus=2),
        platform=Platform.SNP,
        host=host,
    )
    assert found.registers["measurement"]["sha384"].hex() == SVSM_TWO_CPUS


def test_an_igvm_file_stands_for_the_whole_host(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "guest.igvm"
    path.write_bytes(IgvmWriter().start().pages((1 << 32) - 8192, bytes(range(256)) * 32).write())
    host = Host(igvm=path, sev=SevChoices(cpu_models=[find_cpu_model("EPYC-Milan")]))
    (found,) = predict(
        image=read_measured_image(folder / "image"),
        shape=MachineShape(cpus=2),
        platform=Platform.SNP,
        host=host,
    )
    assert found.inputs("measurement")[0] == "guest.igvm"
    assert found.label["vcpus"] == "2"
