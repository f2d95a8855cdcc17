"""``keyturn explain`` as a user calls it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keyturn.cli import main
from measurements.boot_report import BootReport, encode_report, frame_report
from measurements.predict_tpm import FirmwareInputs, predict_tpm
from measurements.reference import reference_document
from measurements.shape import MachineShape
from tests.support.boot_model import ModelImage, ModelMachine, boot_log, predict
from tests.support.event_log_writer import write_predicted
from tests.support.tools import unavailable

MACHINE = ModelMachine()
IMAGE = ModelImage()


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, arguments)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def expected(tmp_path: Path) -> Path:
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(reference_document(predict(MACHINE, IMAGE), shape={"memory": "512MiB"})))
    return path


def log_file(folder: Path, machine: ModelMachine, image: ModelImage = IMAGE) -> Path:
    path = folder / "log.bin"
    path.write_bytes(boot_log(machine, image))
    return path


def report_of(machine: ModelMachine, image: ModelImage) -> BootReport:
    registers = predict(machine, image).registers
    return BootReport(
        image_name="test",
        image_version="1",
        dev=image.dev,
        banks={bank.value: dict(values) for bank, values in registers.items()},
        event_log=boot_log(machine, image),
        runtime_events=(),
        command_line="console=ttyS0",
        kernel_release="6.12.1",
        os_release={"ID": "test"},
        agent_start_us=1,
        report_us=2,
    )


def test_an_equal_boot_exits_with_0(
    expected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--expected", expected, "--log", log_file(tmp_path, MACHINE)) == 0
    assert "equal" in capsys.readouterr().out


def test_a_different_boot_exits_with_1_and_names_the_cause(
    expected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_file(tmp_path, replace(MACHINE, order=(0, 1)), replace(IMAGE, initrd=b"other"))
    assert call("--expected", expected, "--log", log) == 1
    shown = capsys.readouterr().out
    assert "first difference: PCR 1" in shown
    assert "boot entry order (the machine's order is 0000 0001)" in shown
    assert "further differences" in shown
    assert "initrd" in shown


def test_json_has_the_whole_explanation(
    expected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_file(tmp_path, replace(MACHINE, version="2024.02"))
    assert call("--expected", expected, "--log", log, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["first"]["input"] == "firmware"
    assert document["differences"] == [document["first"]]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_boot_report_tells_registers_too(
    form: str, expected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(MACHINE, replace(IMAGE, dev=True))
    path = tmp_path / "boot"
    if form == "json":
        path.write_bytes(encode_report(report))
    else:
        path.write_text("kernel says hello\n" + frame_report(report))
    assert call("--expected", expected, "--log", path, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert [fault["register"] for fault in document["registers"]] == ["14", "14"]
    (miss,) = document["near_misses"]["found"]
    assert (miss["kinds"], miss["explains"], miss["left"]) == (["development image"], ["14"], [])


def test_hostile_text_in_a_log_does_not_reach_the_terminal(
    expected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_file(tmp_path, replace(MACHINE, version="\x1b[2J[red]x"))
    assert call("--expected", expected, "--log", log) == 1
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "[red]x" in shown


@pytest.mark.apt
def test_neighbours_name_the_machine_that_booted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The firmware, its files and QEMU are the installed ones."""
    code, variables = (Path(f"/usr/share/OVMF/OVMF_{name}_4M.fd") for name in ("CODE", "VARS"))
    if not code.exists():
        unavailable("no firmware (package ovmf)")
    inputs = FirmwareInputs.read(code=code, variables=variables)
    one, two = (
        predict_tpm(IMAGE.inputs(), inputs, MachineShape(memory_mib=1024, cpus=cpus)) for cpus in (1, 2)
    )
    shape = MachineShape(memory_mib=1024, cpus=1).as_json()
    path, log = tmp_path / "expected.json", tmp_path / "log.bin"
    path.write_text(json.dumps(reference_document(one, shape=shape)))
    log.write_bytes(write_predicted(two.logged()))
    files = ("--firmware-code", code, "--firmware-vars", variables)
    assert call("--expected", path, "--log", log, *files) == 1
    assert "near miss:" not in capsys.readouterr().out
    assert call("--expected", path, "--log", log, "--neighbours", *files) == 1
    shown = capsys.readouterr().out
    assert "would be as found if there are 2 CPUs" in shown
    assert "this is what a 2 vCPU machine with 1 GiB would give" in shown


@pytest.mark.parametrize("content", [b"", b"no log", b"{}"])
def test_files_that_are_no_log_exit_with_2(
    content: bytes, expected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.bin"
    path.write_bytes(content)
    assert call("--expected", expected, "--log", path) == 2
    assert "remedy" in capsys.readouterr().err


def test_a_missing_reference_exits_with_2(tmp_path: Path) -> None:
    assert call("--expected", tmp_path / "none", "--log", tmp_path / "none") == 2
