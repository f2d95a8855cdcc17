"""dstack's files as the command line reads them: predictions of a release, judgements of a report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from keyturn.cli import main
from keyturn.dstack_inputs import (
    DstackApp,
    Known,
    TablesSource,
    judge_file,
    predict_release,
    require_judgement,
    show_judgement,
)
from keyturn.input_files import InputFileError
from keyturn.output import Output
from measurements.acpi_blob import TABLES
from measurements.acpi_dump import acpi_dump
from measurements.dstack.errors import DstackFormatError, DstackInputError
from measurements.dstack.machine import vm_shape
from measurements.dstack.mr_config import config_id_v1
from measurements.dstack.vm_config import parse_vm_config
from measurements.platforms import Platform
from measurements.qemu import QemuProgram
from measurements.reference import predictions_document
from measurements.value_formats import encode_csv, encode_dstack
from tests.measurements.tdx.kernel_files import bzimage
from tests.measurements.tdx.tdvf_builder import build
from tests.support.dstack_deployment import COMPOSE, DstackGuest
from tests.support.dstack_release import METADATA, write_release
from tests.support.dstack_reports import vm_config
from tests.support.tools import require_tool
from tests.support.vectors import vector

FILES = {
    "ovmf.fd": build(),
    "bzImage": bzimage(),
    "initramfs.cpio.gz": b"initrd",
    "metadata.json": json.dumps(METADATA).encode(),
}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path / "release", FILES)
    return tmp_path / "release"


@pytest.fixture
def machine(tmp_path: Path, release: Path) -> Path:
    path = tmp_path / "vm.json"
    image_hash = (release / "digest.txt").read_text().strip()
    fields = {"os_image_hash": image_hash, "cpu_count": 2, "memory_size": 4 << 30, "qemu_version": "9.2.1"}
    path.write_text(json.dumps(fields))
    return path


@pytest.fixture
def tables(tmp_path: Path, machine: Path) -> Path:
    """Tables of the installed QEMU, in a file: whose they are is up to who gives them."""
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    dump = acpi_dump(vm_shape(parse_vm_config(machine.read_bytes())), QemuProgram.installed())
    path = tmp_path / "tables"
    path.write_bytes(dict(dump.files.files)[TABLES])
    return path


def test_prediction_of_a_release(release: Path, machine: Path, tables: Path) -> None:
    (prediction,) = predict_release(release, machine, tables=TablesSource(tables=tables))
    assert prediction.platform is Platform.TDX
    assert list(prediction.registers) == ["mrtd", "rtmr0", "rtmr1", "rtmr2"]
    assert str(tables) in prediction.inputs("rtmr0")
    assert json.loads(encode_dstack([prediction])) == {
        register: banks["sha384"].hex() for register, banks in prediction.registers.items()
    }
    assert encode_csv([prediction]).count("\n") == 5
    assert predictions_document([prediction])


def test_prediction_with_an_app(tmp_path: Path, release: Path, machine: Path, tables: Path) -> None:
    compose = tmp_path / "app-compose.json"
    compose.write_bytes(COMPOSE)
    app = DstackApp(compose=compose, instance_id="06" * 20, provider_id="ab")
    (prediction,) = predict_release(release, machine, tables=TablesSource(tables=tables), app=app)
    (plain,) = predict_release(release, machine, tables=TablesSource(tables=tables))
    bound = config_id_v1(hashlib.sha256(COMPOSE).digest())
    assert prediction.registers["mrconfigid"]["sha384"] == bound
    assert prediction.registers["rtmr3"]["sha384"] != bytes(48)
    assert {name: prediction.registers[name] for name in plain.registers} == plain.registers
    short = DstackApp(compose=compose, instance_id="06")
    with pytest.raises(InputFileError, match="not 0 or 20 bytes in hex"):
        predict_release(release, machine, tables=TablesSource(tables=tables), app=short)


def test_prediction_of_an_snp_guest(tmp_path: Path) -> None:
    """The release of the public SNP report, as far as it is public: its measurement document."""
    fields = json.loads(vm_config("sev-snp-attestation"))
    document = parse_vm_config(json.dumps(fields).encode()).snp
    assert document is not None
    files = {**FILES, "measurement.snp.cbor": document.document.measurement}
    fields["os_image_hash"] = write_release(tmp_path / "release", files).hex()
    machine = tmp_path / "vm.json"
    machine.write_text(json.dumps(fields))
    (prediction,) = predict_release(tmp_path / "release", machine, tables=TablesSource())
    assert prediction.registers["measurement"]["sha384"].hex().startswith("7f51e17f72a04d54")
    write_release(tmp_path / "release", FILES)
    fields["os_image_hash"] = (tmp_path / "release/digest.txt").read_text().strip()
    machine.write_text(json.dumps(fields))
    with pytest.raises(DstackInputError, match=r"has no measurement\.snp\.cbor"):
        predict_release(tmp_path / "release", machine, tables=TablesSource())


def test_a_machine_of_another_image_is_refused(release: Path, machine: Path, tables: Path) -> None:
    fields = json.loads(machine.read_text())
    machine.write_text(json.dumps({**fields, "os_image_hash": "ab" * 32}))
    with pytest.raises(DstackInputError, match="is for the image abab"):
        predict_release(release, machine, tables=TablesSource(tables=tables))


def test_another_qemu_than_the_hosts_is_refused(
    release: Path, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DstackInputError, match="whose tables are not those of the host's"):
        predict_release(release, machine, tables=TablesSource())
    assert not TablesSource().named
    assert TablesSource(qemu=Path("qemu")).named


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_bytes(DstackGuest().report())
    return path


def known(tmp_path: Path, **changes: Any) -> Known:
    compose = tmp_path / "app-compose.json"
    compose.write_bytes(COMPOSE)
    return Known(**{"app_compose": compose, "image_hash": DstackGuest().image_hash.hex(), **changes})


def test_judgement_without_tables_is_not_a_pass(
    tmp_path: Path, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judgement = judge_file(report, known(tmp_path))
    assert not judgement.failed
    show_judgement(Output(json=False), judgement, title="deployment")
    shown = capsys.readouterr().out
    assert "claimed by the guest, not computed" in shown
    assert "not proven: acpi-tables, rtmr0" in shown
    assert "not checked here: signature of the report" in shown
    assert "keyturn verify REPORT --policy FILE" in shown
    assert f"mr-aggregated: {judgement.values['mr-aggregated'].hex()}" in shown
    with pytest.raises(typer.Exit) as ended:
        require_judgement(judgement)
    assert ended.value.exit_code == 1


def test_judgement_with_wrong_tables_fails(tmp_path: Path, report: Path, tables: Path) -> None:
    judgement = judge_file(report, known(tmp_path, tables=TablesSource(tables=tables)))
    assert judgement.failed
    assert judgement.check("acpi-tables").outcome.value == "fail"


def test_judgement_that_fails_names_the_check(
    tmp_path: Path, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judgement = judge_file(report, known(tmp_path, image_hash="ab" * 32))
    show_judgement(Output(json=False), judgement, title="deployment")
    shown = capsys.readouterr().out
    assert "refused: os-image-hash" in shown
    assert "reason: the host names another OS image" in shown


def test_values_of_a_policy_and_events_of_the_app_are_taken(tmp_path: Path) -> None:
    path = vector("dstack/quote-report.json")
    system = "e1ae776a1492d4f87937b7e563d265c16300be4aba5d748207587023bb7dbb75"
    judgement = judge_file(path, Known(mr_system=system, app_events=("LIUM_MINER_HOTKEY",), unbound=True))
    assert not judgement.failed
    assert judge_file(path, Known(mr_system="ab" * 32)).check("mr-system").outcome.value == "fail"
    with pytest.raises(InputFileError, match="--mr-system"):
        judge_file(path, Known(mr_system="ab"))
    with pytest.raises(InputFileError, match="--image-hash"):
        judge_file(path, Known(image_hash="zz" * 32))


def test_broken_reports_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("{}")
    with pytest.raises(DstackFormatError, match="has no quote"):
        judge_file(path, Known())


class TestVerbs:
    def test_predict_writes_the_form_of_dstack_mr(
        self, release: Path, machine: Path, tables: Path, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        words: list[str | Path] = ["--dstack", release, "--vm-config", machine, "--acpi", tables]
        words += ["--format", "dstack"]
        assert call("predict", *words) == 0
        (prediction,) = predict_release(release, machine, tables=TablesSource(tables=tables))
        assert json.loads(capfdbinary.readouterr().out) == {
            name: values["sha384"].hex() for name, values in prediction.registers.items()
        }

    def test_predict_shows_and_keeps_the_values(
        self,
        release: Path,
        machine: Path,
        tables: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        words: list[str | Path] = ["--dstack", release, "--vm-config", machine, "--acpi", tables]
        words += ["--output", tmp_path / "v"]
        assert call("predict", *words) == 0
        assert "predicted registers, tdx, qemu 9.2.1" in capsys.readouterr().out
        assert json.loads((tmp_path / "v").read_bytes())["platform"] == "tdx"

    @pytest.mark.parametrize(
        "words", [["--dstack", "release"], ["image", "--dstack", "release", "--vm-config", "vm.json"], []]
    )
    def test_half_of_the_inputs_is_a_usage_error(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call("predict", *words) == 2
        assert "--vm-config" in capsys.readouterr().err

    def test_verify_judges_a_report(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("verify", "--dstack", vector("dstack/quote-report.json")) == 1
        shown = capsys.readouterr().out
        assert "not checked here: signature of the report" in shown
        assert "refused: app-events" in shown

    def test_verify_takes_one_thing_at_a_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("verify", "evidence.json", "--dstack", "report.json") == 2
        assert "exactly one of them" in capsys.readouterr().err


def call(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    code = ended.value.code
    return code if isinstance(code, int) else 0
