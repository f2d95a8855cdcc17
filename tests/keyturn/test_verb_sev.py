"""``keyturn sev``: what it shows of reports, firmware and IGVM files, and the ID blocks that it signs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyturn.cli import main
from measurements.platforms import Platform
from measurements.reference import predictions_document
from measurements.sev.cpu_models import CPU_MODELS
from measurements.sev.id_block import (
    IdBlock,
    check_id_block,
    parse_id_authentication,
    parse_id_block,
    sign_id_block,
)
from measurements.sev.igvm import parse_igvm
from measurements.sev.igvm_launch import Loader, predict_igvm
from measurements.sev.launch_digest import firmware_digest
from measurements.sev.ovmf_metadata import parse_sev_image
from measurements.sev.predict import SevChoices, predict_sev
from tests.support.igvm_files import IgvmWriter
from tests.support.sev_images import sev_image
from tests.support.vectors import vector

DIGEST = "ab" * 48


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["sev", *words, "--json"])
    assert int(ended.value.code or 0) == status
    return dict(json.loads(capsys.readouterr().out))


def key_file(folder: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP384R1())
    path = folder / name
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def test_a_report_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "show", str(vector("snp/trustee/test-vlek-report.bin")))
    assert (shown["version"], shown["vmpl"], shown["signing_key"], shown["cpu"]) == (3, 1, "vlek", "25/1/1")
    assert shown["platform_flags"] == ["SMT_EN", "TSME_EN", "ECC_EN", "ALIAS_CHECK_COMPLETE"]
    assert shown["measurement"].startswith("8922ebbdd00e")
    assert "signature not checked" in shown["kind"]


def test_a_report_inside_the_blob_of_azure_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "show", str(vector("attestation/snp/azure-hcl-report.bin")))
    assert (shown["version"], shown["policy"], shown["policy_flags"]) == (2, "0x3001f", ["SMT"])
    assert shown["cpu"] is None


def test_firmware_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ovmf.fd"
    path.write_bytes(sev_image(b"code"))
    shown = run(capsys, "show", str(path))
    expected = firmware_digest(parse_sev_image(path.read_bytes(), name="ovmf.fd"))
    assert shown["snp_firmware_digest"] == expected.hex()
    assert shown["snp_sections"][2] == "SECRETS 0x1000 bytes at 0x80d000"
    assert shown["processors_start_at"] == "0x80b004"


def test_an_svsm_is_shown_without_an_address_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "svsm.bin"
    path.write_bytes(sev_image(b"code", svsm_entry=0))
    shown = run(capsys, "show", str(path))
    assert shown["kind"].startswith("SVSM")
    assert "address" not in shown
    assert "snp_firmware_digest" not in shown


@pytest.mark.parametrize("right", [True, False])
def test_an_igvm_file_is_shown_with_its_id_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], right: bool
) -> None:
    writer = IgvmWriter().start().pages(0x1000, bytes(8192))
    file = parse_igvm(writer.write(), name="guest.igvm")
    measurement = predict_igvm(file, loader=Loader.FILE).registers["measurement"]["sha384"]
    block = IdBlock(launch_digest=measurement if right else b"x" * 48, policy=0x30000 if right else 0xB0000)
    signed = sign_id_block(block, id_key=ec.generate_private_key(ec.SECP384R1()))
    path = tmp_path / "guest.igvm"
    path.write_bytes(writer.id_block(block, signed).write())
    shown = run(capsys, "show", str(path))
    assert shown["measurement"] == measurement.hex()
    assert shown["platforms"] == ["sev_snp"]
    assert shown["headers"]["page_data"] == 2
    assert shown["id_block_names_this_file"] is right
    # The file's policy is 0x30000: an ID block that was signed with another does not hold.
    assert (shown["id_block_signatures"] == "good") is right


def test_an_igvm_file_for_another_platform_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "guest.igvm"
    path.write_bytes(IgvmWriter().platform(kind=3).write())
    shown = run(capsys, "show", str(path))
    assert shown["platforms"] == ["tdx"]
    assert "measurement" not in shown


def test_an_igvm_file_without_an_id_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "guest.igvm"
    path.write_bytes(IgvmWriter().start().page(0, None).write())
    assert run(capsys, "show", str(path))["id_block"] is None


def test_people_get_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ovmf.fd"
    path.write_bytes(sev_image(b"code", hash_table=None))
    with pytest.raises(SystemExit) as ended:
        main(["sev", "show", str(path)])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "SEC_MEM 0x9000 bytes at 0x800000" in shown
    assert "kernel_hashes" in shown


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"IGVM", "igvm"),
        (bytes(1184), "snp-report"),
        (b"HCLA" + bytes(40), "snp-report"),
        (b"x", "sev-firmware"),
    ],
    ids=["igvm", "report", "hcl", "other"],
)
def test_files_that_are_nothing_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, code: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    error = run(capsys, "show", str(path), status=2)["error"]
    assert (error["code"], error["subject"]) == (code, str(path))
    assert error["advice"]


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = run(capsys, "show", str(tmp_path / "none"), status=2)["error"]
    assert error["code"] == "sev-input"


def test_an_id_block_is_signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = (
        "--id-key",
        str(key_file(tmp_path, "id.pem")),
        "--author-key",
        str(key_file(tmp_path, "author.pem")),
    )
    output = tmp_path / "out"
    options = ("--measurement", DIGEST, "--policy", "0x30000", "--output", str(output), "--guest-svn", "7")
    shown = run(capsys, "id-block", *keys, *options, "--image-id", "11" * 16)
    block = parse_id_block((output / "id-block.bin").read_bytes())
    signed = parse_id_authentication((output / "id-auth.bin").read_bytes())
    check_id_block(block, signed)
    assert (block.launch_digest.hex(), block.policy, block.guest_svn) == (DIGEST, 0x30000, 7)
    assert block.image_id == b"\x11" * 16
    assert shown["id_key_digest"] == signed.id_key_digest.hex()
    assert shown["author_key_digest"] == signed.author_key_digest.hex()
    properties = (output / "qemu-properties.txt").read_text().strip()
    assert properties == (
        f"id-block={base64.b64encode(block.pack()).decode()},id-auth={base64.b64encode(signed.pack()).decode()},"
        "author-key-enabled=on"
    )


def reference(folder: Path) -> Path:
    firmware = parse_sev_image(sev_image(b"code"), name="ovmf.fd")
    choices = SevChoices(cpu_models=[CPU_MODELS["EPYC-Milan"], CPU_MODELS["EPYC-Genoa"]], vcpus=(1, 2))
    predictions = predict_sev(Platform.SNP, firmware, choices=choices)
    path = folder / "snp.json"
    path.write_text(json.dumps(predictions_document(predictions)))
    return path


def test_an_id_block_of_one_of_the_reference_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, path = str(key_file(tmp_path, "id.pem")), reference(tmp_path)
    options = ("--id-key", key, "--policy", "0x30000", "--output", str(tmp_path), "--reference", str(path))
    labels = ("--label", "cpu-model=EPYC-Genoa", "--label", "vcpus=2", "--label", "guest-features=0x1")
    shown = run(capsys, "id-block", *options, *labels)
    (value,) = (
        each["banks"]["sha384"]["measurement"]
        for each in json.loads(path.read_text())["predictions"]
        if list(each["label"].values()) == ["EPYC-Genoa", "0x1", "2", "qemu"]
    )
    assert shown["measurement"] == value
    assert shown["author_key_digest"] == "00" * 48


def test_reference_values_that_are_equal_leave_no_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    firmware = parse_sev_image(sev_image(b"code"), name="ovmf.fd")
    models = [CPU_MODELS["EPYC-Milan"], CPU_MODELS["EPYC-Milan-v2"]]
    predictions = predict_sev(
        Platform.SNP, firmware, choices=SevChoices(cpu_models=models, guest_features=[1])
    )
    path = tmp_path / "snp.json"
    path.write_text(json.dumps(predictions_document(predictions)))
    options = (
        "--id-key",
        str(key_file(tmp_path, "id.pem")),
        "--policy",
        "0x30000",
        "--output",
        str(tmp_path),
    )
    shown = run(capsys, "id-block", *options, "--reference", str(path))
    assert shown["measurement"] == predictions[0].registers["measurement"]["sha384"].hex()


@pytest.mark.parametrize(
    ("labels", "count", "advice"),
    [((), 8, "cpu-model=EPYC-Milan"), (("vcpus=2",), 4, "guest-features=0x21"), (("vcpus=9",), 8, "vcpus=2")],
)
def test_reference_values_that_leave_a_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: tuple[str, ...], count: int, advice: str
) -> None:
    key, path = str(key_file(tmp_path, "id.pem")), reference(tmp_path)
    options = (
        "--id-key",
        key,
        "--policy",
        "0x30000",
        "--output",
        str(tmp_path / "out"),
        "--reference",
        str(path),
    )
    chosen = [word for label in labels for word in ("--label", label)]
    error = run(capsys, "id-block", *options, *chosen, status=2)["error"]
    assert f"holds {count} predictions for SNP" in error["reason"]
    assert advice in error["advice"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--measurement", "ab"), "sev-input"),
        (("--measurement", "zz" * 48), "sev-input"),
        (("--measurement", "00" * 48), "id-block"),
        (("--measurement", DIGEST, "--policy", "0"), "guest-policy"),
        (("--measurement", DIGEST, "--policy", "secure"), "sev-input"),
        (("--measurement", DIGEST, "--family-id", "11"), "sev-input"),
        (("--measurement", DIGEST, "--id-key", "none.pem"), "sev-input"),
        (("--measurement", DIGEST, "--guest-svn", "-1"), "id-block"),
    ],
)
def test_options_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: str
) -> None:
    key = str(key_file(tmp_path, "id.pem"))
    base = ("--id-key", key, "--policy", "0x30000", "--output", str(tmp_path / "out"))
    assert run(capsys, "id-block", *base, *options, status=2)["error"]["code"] == code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [(), ("--measurement", DIGEST, "--reference", "r.json")])
def test_a_digest_comes_from_one_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    base = ("--id-key", str(key_file(tmp_path, "id.pem")), "--policy", "0x30000", "--output", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["sev", "id-block", *base, *options])
    assert ended.value.code == 2
    assert "one of them" in capsys.readouterr().err


def test_a_policy_for_debugging_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--id-key", str(key_file(tmp_path, "id.pem")), "--policy", "0xb0000", "--output", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["sev", "id-block", *base, "--measurement", DIGEST, "--json"])
    assert not ended.value.code
    assert "DEBUG" in capsys.readouterr().err
