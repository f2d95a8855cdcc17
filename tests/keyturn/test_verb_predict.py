"""``keyturn predict`` as a user calls it, over a model image and the installed firmware."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from keyturn.cli import main
from measurements.events import Bank
from measurements.reference import read_reference, reference_values
from measurements.reference_digest import reference_digest
from tests.image_builder.test_measured_image import image_folder, initrd
from tests.support.secure_boot_keys import enrol, make_key
from tests.support.tools import unavailable

FOLDER = Path("/usr/share/OVMF")

pytestmark = pytest.mark.apt


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, arguments)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def image(tmp_path: Path) -> Path:
    if not (FOLDER / "OVMF_CODE_4M.fd").exists():
        unavailable("no firmware (package ovmf)")
    return image_folder(tmp_path / "image", initrd())


def test_json_is_the_published_document(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(image, "--platform", "tpm", "--memory", "512MiB", "--tpm", "tis", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    digest = document.pop("reference_digest")
    assert set(document) == {"platform", "shape", "banks", "inputs", "events"}
    assert document == json.loads((image / "reference/tpm.json").read_text())
    assert digest == reference_digest(reference_values(read_reference(image / "reference/tpm.json"))).hex()
    assert document["platform"] == "tpm"
    assert (document["shape"]["memory"], document["shape"]["tpm"]) == ("512MiB", "tis")
    assert set(document["banks"]) == {"sha256", "sha384"}
    for bank, size in (("sha256", 64), ("sha384", 96)):
        assert list(document["banks"][bank]) == [str(pcr) for pcr in range(15)]
        assert all(re.fullmatch(f"[0-9a-f]{{{size}}}", value) for value in document["banks"][bank].values())
    assert {event["source"] for event in document["events"]} == {"computed"}
    assert all(event["origin"] and event["description"] for event in document["events"])


def test_the_reference_values_are_kept_with_the_image(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(image, "--events") == 0
    shown = capsys.readouterr().out
    kept = read_reference(image / "reference/tpm.json")
    assert kept.registers[Bank.SHA256][4].hex() in shown
    assert "EV_EFI_GPT_EVENT" in shown
    assert f"reference digest {reference_digest(reference_values(kept)).hex()}" in shown


def test_output_goes_where_it_is_asked_for(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "values/here.json"
    assert call(image, "--output", target, "--json") == 0
    assert read_reference(target).shape["memory"]
    assert not (image / "reference").exists()


def test_predictions_are_the_same_twice(image: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("first.json", "second.json")]
    for output in outputs:
        assert call(image, "--output", output, "--json") == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--firmware-code", "OVMF_VARS_4M.fd", "--firmware-vars", "OVMF_VARS_4M.fd"], "firmware"),
        (["--firmware-code", "OVMF_CODE_4M.fd", "--firmware-vars", "OVMF_CODE_4M.fd"], "format"),
        (["--firmware-code", "OVMF_CODE_4M.fd"], "option"),
        (["--memory", "1MiB"], "shape"),
        (["--firmware-profile", "OVMF_VARS_4M.fd"], "firmware"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(
    options: list[str], code: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(FOLDER / word) if word.startswith("OVMF") else word for word in options]
    assert call(image, *words, "--json") == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == code
    assert error["advice"]
    assert not (image / "reference").exists()


def test_a_store_with_keys_refuses_an_unsigned_image(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = make_key(tmp_path / "keys", "own")
    store = tmp_path / "vars.fd"
    enrol(FOLDER / "OVMF_VARS_4M.fd", store, platform=key, exchange=key, db=[key])
    shape = tmp_path / "shape.toml"
    shape.write_text("smm = true\n")
    code = FOLDER / "OVMF_CODE_4M.secboot.fd"
    options = ("--firmware-code", code, "--firmware-vars", store, "--shape", shape, "--json")
    assert call(image, *options) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "refuses to start it" in error["reason"]
    assert "sign the image" in error["advice"]
