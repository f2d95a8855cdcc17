"""``keyturn predict`` for every platform, several shapes and the forms of other tools, as a user calls it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest

from keyturn.cli import main
from measurements.platforms import Platform
from measurements.reference import parse_predictions
from tests.image_builder.test_measured_image import image_folder, initrd
from tests.support.debian_packages import debian_package
from tests.support.tools import unavailable

pytestmark = [pytest.mark.apt, pytest.mark.network]

Call = Callable[..., int]
MODELS = ("--cpu-model", "EPYC-Milan", "--cpu-model", "EPYC-Genoa", "--guest-features", "0x1")


@pytest.fixture(scope="module")
def firmware() -> tuple[str, ...]:
    """OVMF of Debian 13 as options: its releases measure into all registers of a trust domain."""
    folder = debian_package("ovmf", suite="trixie") / "usr/share/OVMF"
    code, variables = folder / "OVMF_CODE_4M.fd", folder / "OVMF_VARS_4M.fd"
    return ("--firmware-code", str(code), "--firmware-vars", str(variables))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    if not Path("/usr/bin/qemu-system-x86_64").exists():
        unavailable("no QEMU (package qemu-system-x86)")
    folder = image_folder(tmp_path / "image", initrd())
    (folder / "kernel").write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    return folder


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, arguments)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def predicted(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert call(*arguments, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_all_platforms_and_several_shapes_in_one_run(
    image: Path, firmware: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = [tmp_path / name for name in ("small.toml", "large.toml")]
    shapes[0].write_text('memory = "1GiB"\ntpm = "crb"\n')
    shapes[1].write_text('memory = "8GiB"\ncpus = 4\ntpm = "crb"\n')
    words = [word for path in shapes for word in ("--shape", str(path))]
    document = predicted(capsys, image, "--platform", "all", *words, *firmware, *MODELS)
    found = document["predictions"]
    kinds = [(each["platform"], each["shape"]["cpus"]) for each in found]
    assert set(kinds) == {(platform.value, cpus) for platform in Platform for cpus in (1, 4)}
    assert kinds.count(("snp", 4)) == 2
    assert len(document["reference_digests"]) == 2
    for platform in Platform:
        kept = parse_predictions((image / f"reference/{platform.value}.json").read_bytes())
        assert {each.platform for each in kept} == {platform}
        assert len(kept) == sum(1 for name, _ in kinds if name == platform.value)


def test_a_trust_domain_has_every_register_and_says_where_it_comes_from(
    image: Path, firmware: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    document = predicted(capsys, image, "--platform", "tdx", *firmware)
    registers = document["banks"]["sha384"]
    assert {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} <= set(registers)
    assert any("ACPI generator of QEMU" in origin for origin in document["inputs"]["rtmr0"])
    assert document["shape"]["tpm"] == "none"
    assert document["label"] == {"hypervisor": "qemu", "page-order": "single-pass"}
    other = predicted(capsys, image, "--platform", "tdx", "--memory", "4GiB", *firmware)["banks"]["sha384"]
    assert {name for name in registers if registers[name] != other[name]} == {"rtmr0"}


def test_each_hypervisor_has_its_own_mrtd(
    image: Path, firmware: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--hypervisor", "qemu", "--hypervisor", "canonical-8.2")
    found = predicted(capsys, image, "--platform", "tdx", *words, *firmware)["predictions"]
    assert [each["label"]["page-order"] for each in found] == ["single-pass", "two-pass"]
    assert len({each["banks"]["sha384"]["mrtd"] for each in found}) == 2


def test_kernel_hashes_count_only_where_the_host_gives_the_kernel(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    firmware = debian_package("ovmf-amdsev", suite="sid") / "usr/share/ovmf/OVMF.amdsev.fd"
    choices = ("--cpu-model", "EPYC-Milan", "--guest-features", "1", "--firmware", firmware)
    words = (image, "--platform", "snp", *choices)
    disk = predicted(capsys, *words)
    direct = predicted(capsys, *words, "--boot", "direct")
    assert disk["banks"] != direct["banks"]
    assert "kernel" in " ".join(direct["inputs"]["measurement"])


def test_a_variable_store_takes_the_place_of_the_files_own(
    image: Path, firmware: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, variables = (Path(firmware[index]).read_bytes() for index in (1, 3))
    whole, store = tmp_path / "OVMF.fd", tmp_path / "VARS.fd"
    whole.write_bytes(variables + code)
    store.write_bytes(variables[:-1] + b"\xfe")
    words = (image, "--platform", "tdx", "--firmware", whole)
    own = predicted(capsys, *words)["banks"]["sha384"]
    other = predicted(capsys, *words, "--firmware-vars", store)["banks"]["sha384"]
    assert {name for name in own if own[name] != other[name]} == {"rtmr0"}


def test_files_on_the_esp_show_in_their_registers(
    image: Path, firmware: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    credential = tmp_path / "esp/EFI/BOOT/BOOTX64.EFI.extra.d/token.cred"
    credential.parent.mkdir(parents=True)
    credential.write_bytes(b"secret")
    (tmp_path / "esp/EFI/BOOT/BOOTX64.EFI").write_bytes(b"the UKI itself")
    own = predicted(capsys, image, *firmware)["banks"]["sha256"]
    other = predicted(capsys, image, *firmware, "--esp", tmp_path / "esp")["banks"]["sha256"]
    assert {name for name in own if own[name] != other[name]} == {"9", "12"}


@pytest.mark.parametrize("platform", ["tpm", "tdx", "snp", "nitro"])
def test_people_get_a_table(
    platform: str, image: Path, firmware: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(image, "--platform", platform, *firmware, "--events") == 0
    shown = capsys.readouterr().out
    assert f"predicted {'measurement' if platform == 'snp' else 'registers'}, {platform}" in shown
    assert "comes from" in shown


class TestForms:
    def test_csv(
        self, image: Path, firmware: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "out/values.csv"
        words = ("--platform", "snp", "--platform", "nitro", *firmware, *MODELS)
        assert call(image, *words, "--format", "csv", "--output", target) == 0
        rows = list(csv.DictReader(io.StringIO(target.read_text())))
        assert {row["platform"] for row in rows} == {"snp", "nitro"}
        assert not (image / "reference").exists()
        assert capsys.readouterr().out == ""

    def test_corim(self, image: Path, firmware: tuple[str, ...], tmp_path: Path) -> None:
        target = tmp_path / "values.corim"
        assert call(image, "--platform", "tdx", *firmware, "--format", "corim", "--output", target) == 0
        assert cbor2.loads(target.read_bytes()).tag == 501

    def test_dstack(
        self, image: Path, firmware: tuple[str, ...], capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        assert call(image, "--platform", "tdx", *firmware, "--format", "dstack") == 0
        assert set(json.loads(capfdbinary.readouterr().out)) == {"mrtd", "rtmr0", "rtmr1", "rtmr2"}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--format", "csv", "--json"), "option"),
        (("--platform", "snp", "--format", "dstack"), "value-format"),
        (("--platform", "snp", "--cpu-model", "i486"), "cpu-model"),
        (("--platform", "snp", "--guest-features", "many"), "option"),
        (("--platform", "snp", "--vmm", "xen"), "option"),
        (("--platform", "tdx", "--hypervisor", "xen"), "unknown-firmware"),
        (("--platform", "tdx", "--firmware", "/nowhere.fd"), "prediction-input"),
        (
            (
                "--tpm",
                "none",
            ),
            "prediction-input",
        ),
    ],
)
def test_bad_input_is_one_error_and_writes_nothing(
    options: tuple[str, ...],
    code: str,
    image: Path,
    firmware: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(image, *firmware, *options) == 2
    shown = capsys.readouterr().err
    assert f"({code})" in shown
    assert "remedy:" in shown
    assert not (image / "reference").exists()
