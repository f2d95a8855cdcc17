"""``keyturn evidence``: importing, looking, and mistakes that are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attestation.container import EvidencePlatform
from attestation.container_codec import container_hash, decode_container, encode_container
from attestation.container_json import parse_container_json
from attestation.importers import FORMATS
from keyturn.cli import main
from tests.support.containers import FULL
from tests.support.vectors import vector

A = "attestation"


def call(*words: object, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evidence", *map(str, words)])
    assert int(ended.value.code or 0) == status


def document(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> dict[str, Any]:
    call(*words, "--json", status=status)
    return dict(json.loads(capsys.readouterr().out))


def test_import_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "evidence.bin"
    report, vcek = vector(f"{A}/snp/trustee-report.bin"), vector(f"{A}/snp/trustee-vcek.der")
    shown = document(capsys, "import", report, "--certificates", vcek, "--output", output)
    container = decode_container(output.read_bytes())
    assert shown == {
        "output": str(output),
        "platform": "snp",
        "origin": "snp-report",
        "hash": container_hash(container).hex(),
    }
    assert container.certificates == (vcek.read_bytes(),)
    call("show", output)
    text = capsys.readouterr().out
    assert "not verified" in text
    assert "SEV-VCEK" in text
    assert "measurement" in text
    assert document(capsys, "show", output)["platform"] == "snp"


def test_the_json_form_is_written_by_name(tmp_path: Path) -> None:
    output = tmp_path / "evidence.json"
    call("import", vector(f"{A}/dstack/quote-report.json"), "--output", output)
    assert parse_container_json(output.read_bytes()).platform is EvidencePlatform.TDX


def test_a_folder_of_configfs_tsm(tmp_path: Path) -> None:
    folder, output = tmp_path / "report0", tmp_path / "evidence.bin"
    folder.mkdir()
    (folder / "outblob").write_bytes(vector(f"{A}/snp/trustee-report.bin").read_bytes())
    (folder / "auxblob").write_bytes(bytes(4096))
    (folder / "provider").write_text("sev_guest\n")
    call("import", folder, "--output", output)
    assert decode_container(output.read_bytes()).platform is EvidencePlatform.SNP
    (folder / "provider").write_text("tdx_guest\n")
    call("import", folder, "--output", tmp_path / "other.bin", status=2)
    assert not (tmp_path / "other.bin").exists()


def test_logs_and_gpus_beside(tmp_path: Path) -> None:
    output = tmp_path / "evidence.bin"
    quote = vector(f"{A}/dcap/quotes/dstack-tdx-quote.bin")
    log = vector("tdx-ccel-logs/trustee/CCEL_data")
    gpu, chain = vector(f"{A}/nvidia/hopperAttestationReport.txt"), vector(f"{A}/nvidia/hopperCertChain.txt")
    words = ("--log", f"ccel={log}", "--gpu", gpu, "--gpu-certificates", chain)
    call("import", quote, *words, "--output", output)
    found = decode_container(output.read_bytes())
    assert (len(found.logs), len(found.gpus)) == (1, 1)


@pytest.mark.parametrize("log", ["ccel", "sml=/dev/null", "=x"])
def test_a_log_without_its_format_is_refused(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quote = vector(f"{A}/dcap/quotes/dstack-tdx-quote.bin")
    words = ("import", quote, "--log", log, "--output", tmp_path / "e")
    error = document(capsys, *words, status=2)["error"]
    assert (error["code"], error["subject"]) == ("evidence-input", "--log")


def test_everything_in_a_container_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "full.bin"
    path.write_bytes(encode_container(FULL))
    call("show", path)
    text = capsys.readouterr().out
    for part in ("unreadable", "sha256:23", "HOPPER", "tcg2", "revocation lists", "app manifest", "origin"):
        assert part in text


@pytest.mark.parametrize(
    "name",
    [
        f"{A}/dcap/quotes/oasis-core-quote-v4-tdx-ecdsa-p256.bin",
        f"{A}/dcap/quotes/automata-dcap-attestation-quote-sgx.bin",
        f"{A}/nitro/evervault-valid.bin",
        f"{A}/snp/azure-evidence-v1.json",
    ],
)
def test_the_claims_of_each_platform_are_readable(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("show", vector(name))
    text = capsys.readouterr().out
    assert "unreadable" not in text
    assert "report" in text


def test_an_unknown_file_lists_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"something")
    error = document(capsys, "show", path, status=2)["error"]
    assert error["code"] == "evidence-import"
    assert all(one.name in error["reason"] for one in FORMATS)


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = document(capsys, "show", tmp_path / "none", status=2)["error"]
    assert error["subject"] == str(tmp_path / "none")


def test_formats_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = document(capsys, "formats")["formats"]
    assert [one["name"] for one in listed] == [one.name for one in FORMATS]
