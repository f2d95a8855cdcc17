"""``keyturn explain`` for trust domains, SEV guests and enclaves, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyturn.cli import main
from measurements.booted import Registers
from measurements.booted_files import read_files
from measurements.dstack.lite import parse_snp_measurement
from measurements.dstack.predict import predict_snp
from measurements.firmware_catalogue import catalogue
from measurements.near_miss_sev import SevInputs, SevPredictor
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.recorded import recorded_prediction
from measurements.reference import predictions_document
from measurements.sev.cpu_models import CPU_MODELS
from measurements.sev.ovmf_metadata import parse_sev_image
from measurements.sev.predict import SevChoices, predict_sev
from measurements.sev.report import REPORT_SIZE
from measurements.sev.vmsa import Vmm
from measurements.tdx.mrtd import PageOrder
from tests.support.sev_images import sev_image
from tests.support.vectors import vector

GCP_LOG = "tdx-ccel-pairs/gcp-cos113/ccel_data.dat"
GCP_QUOTE = "tdx-ccel-pairs/gcp-cos113/cos-113-tdx-quote.dat"
DUPE = "tdx-ccel-logs/go-eventlog/cos-113-intel-tdx-dupe-separator.bin"


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, arguments)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def reference(folder: Path, *predictions: PlatformPrediction) -> Path:
    path = folder / "reference.json"
    path.write_text(json.dumps(predictions_document(predictions)))
    return path


def recorded(folder: Path, name: str) -> Path:
    booted = read_files({name: vector(name).read_bytes()}).booted
    assert booted.log is not None
    return reference(folder, recorded_prediction(booted.platform, booted.log))


def report_file(folder: Path, measurement: bytes) -> Path:
    """A real SNP report with another measurement, whose signature no longer fits; none is checked."""
    data = bytearray(vector("snp/trustee/test-report.bin").read_bytes())
    data[0x90:0xC0] = measurement
    path = folder / "report.bin"
    path.write_bytes(data)
    return path


def snp_inputs(folder: Path, **fields: Any) -> tuple[Path, SevInputs]:
    path = folder / "OVMF.amdsev.fd"
    path.write_bytes(sev_image(b"code"))
    inputs = SevInputs(
        platform=Platform.SNP,
        firmware=parse_sev_image(path.read_bytes(), name=str(path)),
        kernel=None,
        cpu_model=CPU_MODELS["EPYC-Milan"],
        features=1,
        vcpus=2,
        vmm=Vmm.QEMU,
    )
    return path, replace(inputs, **fields)


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_trust_domain_as_recorded_is_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--log", vector(GCP_LOG), "--quote", vector(GCP_QUOTE))
    assert call("--expected", recorded(tmp_path, GCP_LOG), *files) == 0
    assert "equal: the 43 predicted events were booted" in capsys.readouterr().out


def test_the_duplicate_separator_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--log", vector(DUPE), "--quote", vector(GCP_QUOTE))
    assert call("--expected", recorded(tmp_path, GCP_LOG), *files) == 1
    shown = capsys.readouterr().out
    assert "first difference: RTMR0, event 2" in shown
    assert "variables in the firmware file (CFV)" in shown
    assert "place of a separator (edk2 release)" in shown
    assert "the log would yield RTMR1 as told if RTMR1 has the second separator, as in edk2 2024.11" in shown


def test_a_quote_alone_is_compared_by_its_registers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = recorded(tmp_path, DUPE)
    assert call("--expected", expected, "--quote", vector(GCP_QUOTE), "--json") == 1
    found = document(capsys)
    assert [fault["register"] for fault in found["registers"]] == ["rtmr0", "rtmr1"]
    (miss,) = found["near_misses"]["found"]
    assert (miss["kinds"], miss["explains"]) == (["place of a separator (edk2 release)"], ["rtmr1"])
    assert found["log_near_misses"] is None


def launched(platform: Platform, event_type: str, registers: Registers) -> PlatformPrediction:
    """A prediction of values that a launch leaves, each with one step."""
    events = tuple(
        RegisterEvent(
            register=register,
            event_type=event_type,
            digests=banks,
            description="the whole launch",
            origin="tests",
            running=True,
        )
        for register, banks in registers.items()
    )
    return PlatformPrediction(platform=platform, shape={}, registers=registers, events=events)


def test_an_mrtd_of_known_firmware_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The prediction is for Debian's firmware, and a real quote is of dstack's, whose file is not at hand."""
    known = next(each for each in catalogue().files.values() if each.package.startswith("ovmf 2022.11"))
    values = {"mrtd": {"sha384": known.mrtd[PageOrder.SINGLE_PASS]}}
    expected = reference(tmp_path, launched(Platform.TDX, "MRTD section", values))
    assert call("--expected", expected, "--quote", vector("dstack/quote-report.json")) == 1
    shown = capsys.readouterr().out
    assert "MRTD would be as found if the firmware is dstack image of os_image_hash 14ad42d0" in shown


def test_a_member_of_a_labelled_set_is_equal_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, inputs = snp_inputs(tmp_path)
    members = predict_sev(Platform.SNP, inputs.firmware, choices=SevChoices(vcpus=(1, 2, 4)))
    report = report_file(tmp_path, members[-1].registers["measurement"]["sha384"])
    assert call("--expected", reference(tmp_path, *members), "--report", report) == 0
    assert "(cpu-model EPYC-Turin, guest-features 0x21, vcpus 4, vmm qemu)" in capsys.readouterr().out


def test_a_launch_digest_is_searched_with_the_firmware(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, inputs = snp_inputs(tmp_path)
    predict = SevPredictor()
    expected = reference(tmp_path, predict(inputs))
    found = predict(replace(inputs, vcpus=8, features=0x21)).registers["measurement"]["sha384"]
    report = report_file(tmp_path, found)
    assert call("--expected", expected, "--report", report) == 1
    assert "near miss:" not in capsys.readouterr().out
    assert call("--expected", expected, "--report", report, "--firmware", path) == 1
    shown = capsys.readouterr().out
    assert "measurement would be as found if there are 8 vCPUs and the guest features are 0x21" in shown
    assert "this is what an 8 vCPU machine" in shown
    assert "first other step: measurement: save area of processor 0" in shown


def test_firmware_that_was_not_predicted_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, inputs = snp_inputs(tmp_path)
    expected = reference(tmp_path, SevPredictor()(inputs))
    other = tmp_path / "other.fd"
    other.write_bytes(sev_image(b"other"))
    report = report_file(tmp_path, bytes(48))
    assert call("--expected", expected, "--report", report, "--firmware", other) == 2
    assert "other.fd: does not give the reference values" in capsys.readouterr().err


def test_an_enclave_in_debug_mode_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "attestation/nitro/evervault-valid.bin"
    booted = read_files({name: vector(name).read_bytes()}).booted
    assert booted.reported is not None
    registers = {pcr: booted.reported[pcr] for pcr in ("0", "1", "2")}
    expected = reference(tmp_path, launched(Platform.NITRO, "Nitro measurement", registers))
    assert call("--expected", expected, "--document", vector(name)) == 0
    debug = vector("attestation/nitro/evervault-debug.bin")
    assert call("--expected", expected, "--document", debug) == 1
    shown = capsys.readouterr().out
    assert "PCR 0, PCR 1, PCR 2 would be as found if the enclave runs in debug mode" in shown


def test_a_dstack_report_brings_what_its_launch_digest_is_searched_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "dstack/sev-snp-attestation.json"
    config = read_files({name: vector(name).read_bytes()}).vm_config
    assert config is not None
    assert config.snp is not None
    document = parse_snp_measurement(config.snp.document.measurement)
    expected = reference(tmp_path, predict_snp(document, replace(config.snp, vcpus=16)))
    assert call("--expected", expected, "--report", vector(name)) == 1
    shown = capsys.readouterr().out
    assert f"measurement would be as found if there are {config.snp.vcpus} vCPUs" in shown
    equal = reference(tmp_path, predict_snp(document, config.snp))
    assert call("--expected", equal, "--report", vector(name)) == 0


MISMATCHES: Sequence[tuple[tuple[str, str], str]] = [
    (
        ("--report", "snp/trustee/test-report.bin"),
        "holds values for tdx, and the boot is one of snp",
    ),
    (
        ("--log", "tdx-ccel-logs/dstack/tpm_eventlog.bin"),
        "holds values for tdx, and the boot is one of tpm",
    ),
    (
        ("--document", "attestation/nitro/evervault-valid.bin"),
        "holds values for tdx, and the boot is one of nitro",
    ),
]


@pytest.mark.parametrize(("given", "reason"), MISMATCHES)
def test_evidence_of_another_platform_is_refused(
    given: tuple[str, str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = recorded(tmp_path, GCP_LOG)
    option, name = given
    assert call("--expected", expected, option, vector(name)) == 2
    shown = capsys.readouterr().err
    assert f"reference.json: {reason}" in shown
    assert "remedy" in shown


def test_files_of_two_machines_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = recorded(tmp_path, GCP_LOG)
    files = ("--log", vector(GCP_LOG), "--report", vector("snp/trustee/test-report.bin"))
    assert call("--expected", expected, *files) == 2
    assert "not of one machine" in capsys.readouterr().err


def test_no_evidence_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--expected", recorded(tmp_path, GCP_LOG)) == 2
    assert "give a log, a quote, a report or a document" in capsys.readouterr().err


def test_a_cut_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.bin"
    path.write_bytes(vector("snp/trustee/test-report.bin").read_bytes()[: REPORT_SIZE - 1])
    assert call("--expected", recorded(tmp_path, GCP_LOG), "--report", path) == 2
    assert "remedy" in capsys.readouterr().err
