"""``keyturn sim`` as a user calls it."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from attestation.anchors import parse_anchor
from attestation.collateral_bundle import decode_bundle
from attestation.container import EvidencePlatform
from attestation.container_codec import container_hash, decode_container
from attestation.policy import RootPurpose
from attestation.sim.folder import PRIVATE, needed_files, read_folder
from keyturn.cli import main
from measurements.tdx.quote import BodyType, parse_quote
from tests.support.sim_pki import NOW, library_verdict

REPORT_DATA = bytes(range(64)).hex()


def call(*words: str | Path, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert (ended.value.code or 0) == status


def document(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> dict[str, Any]:
    call(*words, "--json", status=status)
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "pki"
    call("sim", "pki", path, "--now", str(NOW))
    capsys.readouterr()
    return path


def make_quote(folder: Path, output: Path, *words: str) -> list[str | Path]:
    return ["sim", "quote", folder, "--report-data", REPORT_DATA, "--output", output, *words]


@pytest.mark.parametrize(("version", "kind"), [("4", BodyType.TDX_1_0), ("5", BodyType.TDX_1_5)])
def test_a_quote_of_the_pki_verifies_with_its_collateral(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, kind: BodyType
) -> None:
    output = tmp_path / "evidence.bin"
    found = document(capsys, *make_quote(folder, output, "--version", version, "--rtmr3", "ab" * 48))
    evidence = decode_container(output.read_bytes())
    assert evidence.platform is EvidencePlatform.SIM
    assert found["evidence"] == container_hash(evidence).hex()
    body = parse_quote(evidence.report).body
    assert (body.kind, body.report_data.hex(), body.rtmrs[3]) == (kind, REPORT_DATA, b"\xab" * 48)
    assert found["registers"]["rtmr3"] == "ab" * 48
    collateral = decode_bundle((folder / "collateral.bundle").read_bytes())
    verdict = library_verdict(evidence.report, collateral.dcap[0], collateral.certificates[0])
    assert verdict.status == "UpToDate"


def test_registers_come_out_where_they_were_given(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid", "mrowner", "mrownerconfig")
    given = {name: f"{number:02x}" * 48 for number, name in enumerate(names, start=1)}
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    found = document(capsys, *make_quote(folder, tmp_path / "evidence.bin", *options))
    assert found["registers"] == given


def test_status_and_advisories_are_those_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "pki", tmp_path / "evidence.bin"
    options = ("--status", "OutOfDate", "--advisory", "INTEL-SA-00001", "--now", str(NOW), "--days", "10")
    call("sim", "pki", folder, *options)
    call(*make_quote(folder, output))
    collateral = decode_bundle((folder / "collateral.bundle").read_bytes())
    report, root = decode_container(output.read_bytes()).report, collateral.certificates[0]
    verdict = library_verdict(report, collateral.dcap[0], root)
    assert (verdict.status, verdict.advisory_ids) == ("OutOfDate", ["INTEL-SA-00001"])
    with pytest.raises(ValueError, match="expired"):
        library_verdict(report, collateral.dcap[0], root, NOW + 11 * 86400)
    capsys.readouterr()


def test_only_the_owner_may_read_keys(folder: Path) -> None:
    assert len(PRIVATE) == 5
    for path in folder.iterdir():
        private = path.name in PRIVATE
        assert (stat.S_IMODE(path.stat().st_mode) == 0o600) == private, path.name
        assert (b"PRIVATE KEY" in path.read_bytes()) == private, path.name


def test_every_output_says_that_it_is_for_development(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("sim", "pki", tmp_path / "other")
    call(*make_quote(folder, tmp_path / "evidence.bin"))
    text = capsys.readouterr()
    assert text.out.count("development only") >= 2
    assert text.err.count("development only") == 2
    found = document(capsys, *make_quote(folder, tmp_path / "evidence.bin"))
    assert "development only" in found["warning"]
    assert "development only" in decode_container((tmp_path / "evidence.bin").read_bytes()).origin
    assert "development only" in (folder / "anchor.toml").read_text()
    assert "development only" in (folder / "sim.json").read_text()


def test_the_anchor_is_the_root_as_a_policy_takes_it(folder: Path) -> None:
    (entry,) = tomllib.loads((folder / "anchor.toml").read_text())["roots"]
    anchor = parse_anchor(entry, subject="anchor.toml")
    assert anchor == read_folder({name: (folder / name).read_bytes() for name in needed_files()}).anchor()
    assert anchor.purpose is RootPurpose.SIM


def test_two_pkis_share_no_key(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("sim", "pki", tmp_path / "other", "--now", str(NOW))
    capsys.readouterr()
    for name in PRIVATE:
        assert (folder / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    error = document(capsys, "sim", "pki", folder, status=2)["error"]
    assert "is not empty" in error["reason"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        (("--report-data", "00"), "--report-data"),
        (("--report-data", "zz" * 64), "--report-data"),
        (("--report-data", "00 " * 64), "--report-data"),
        (("--report-data", REPORT_DATA, "--mrtd", "00" * 32), "--mrtd"),
        (("--report-data", REPORT_DATA, "--rtmr2", "x"), "--rtmr2"),
    ],
)
def test_values_of_another_length_are_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    subject: str,
) -> None:
    output = tmp_path / "evidence.bin"
    error = document(capsys, "sim", "quote", folder, *words, "--output", output, status=2)["error"]
    assert error["subject"] == subject
    assert not output.exists()


def test_an_unknown_status_is_refused_with_those_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = document(capsys, "sim", "pki", tmp_path / "pki", "--status", "Fine", status=2)["error"]
    assert "TDRelaunchAdvised" in error["advice"]
    assert not (tmp_path / "pki").exists()


SPOILED = [
    (name, data)
    for name in needed_files()
    for data in (None, b"", b"{}", b"-----BEGIN CERTIFICATE-----")
    if data is None or not name.endswith(".der")  # lists only go into collateral, where verifiers judge them
]


@pytest.mark.parametrize(("name", "data"), SPOILED)
def test_a_folder_that_lacks_or_spoils_a_file_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes | None
) -> None:
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    error = document(capsys, *make_quote(folder, tmp_path / "evidence.bin"), status=2)["error"]
    assert name in error["reason"] + error["subject"]


def test_the_key_of_another_certificate_is_noticed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pck.key.pem").write_bytes((folder / "root.key.pem").read_bytes())
    error = document(capsys, *make_quote(folder, tmp_path / "evidence.bin"), status=2)["error"]
    assert "does not have the key" in error["reason"]


def test_the_evidence_passes_keyturn_verify_under_its_own_root_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence, policy = tmp_path / "evidence.bin", tmp_path / "policy.toml"
    call(*make_quote(folder, evidence))
    call("policy", "init", "--platform", "sim", "--output", policy)
    open_text = policy.read_text().replace("report-data = []", f'report-data = ["{REPORT_DATA}"]')
    open_text = open_text.replace("measurements = []", 'measurements = "any"')
    capsys.readouterr()

    def verdict(root: Path, status: int) -> dict[str, Any]:
        policy.write_text(open_text + (root / "anchor.toml").read_text())
        bundle = folder / "collateral.bundle"
        words = ("--policy", policy, "--collateral", bundle, "--offline", "--now", str(NOW))
        return document(capsys, "verify", evidence, *words, status=status)

    found = verdict(folder, 0)
    assert found["passed"]
    assert found["development"]
    call("sim", "pki", tmp_path / "other", "--now", str(NOW))
    capsys.readouterr()
    assert verdict(tmp_path / "other", 1)["failures"] == ["pck-chain"]
