"""``keyturn acpi`` as a user calls it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from keyturn.cli import main
from measurements.acpi_blob import derive_files
from measurements.errors import ExitStatus
from tests.support.foreign_qemu import foreign_qemu
from tests.support.tools import require_tool


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    require_tool("swtpm", package="swtpm")
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "acpi"


def run(*words: str, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["acpi", *words])
    assert (ended.value.code or 0) == status


def document(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    run(*words, "--json", status=status)
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_files_tables_and_digests(capsys: pytest.CaptureFixture[str], tmp_path: Path, cache: Path) -> None:
    found = document(capsys, "--cpus", "2", "--output", str(tmp_path / "out"))
    names = [file["name"] for file in found["files"]]
    assert names == ["etc/table-loader", "etc/acpi/rsdp", "etc/tpm/log", "etc/acpi/tables"]
    for file in found["files"]:
        data = (tmp_path / "out" / file["name"]).read_bytes()
        assert len(data) == file["size"]
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        assert hashlib.sha384(data).hexdigest() == file["sha384"]
    blob = (tmp_path / "out/etc/acpi/tables").read_bytes()
    assert derive_files(blob).loader == (tmp_path / "out/etc/table-loader").read_bytes()
    assert [table["signature"] for table in found["tables"]][:4] == ["FACS", "DSDT", "FACP", "APIC"]
    assert (found["method"], found["firmware"], found["replaced"]) == ("idle", "", [])
    assert found["shape"]["cpus"] == 2
    assert len(list(cache.iterdir())) == 2  # the dump, and the digest of QEMU's program


def test_text_names_tables_and_replaced_devices(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    run("--device", "vhost-vsock-pci,guest-cid=3", "--no-cache", "--no-hpet", "--tpm", "none")
    shown = capsys.readouterr().out
    assert "vhost-vsock-pci in slot 8 is replaced by virtio-rng-pci in the same slot" in shown
    assert "DSDT" in shown
    assert "HPET" not in shown
    assert "etc/tpm/log" not in shown
    assert not cache.exists()


def test_what_depends_on_what(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--tpm", "none", "--depends")
    by_key = {each["key"]: each for each in found["depends"]}
    assert by_key["smbios"]["files"] == []
    assert {table["signature"] for table in by_key["hpet"]["tables"]} == {"DSDT", "HPET", "RSDT"}
    run("--tpm", "none", "--depends")
    shown = capsys.readouterr().out
    assert "what a choice changes" in shown
    assert "another product name" in shown


def test_another_qemu_is_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tmp_path / "qemu-other"
    words = " ".join(f"'{word}'" for word in foreign_qemu("trixie").command)
    other.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    other.chmod(0o755)
    found = document(capsys, "--tpm", "none", "--compare-qemu", str(other))
    (compared,) = found["depends"]
    assert compared["key"] == "QEMU"
    assert compared["choice"].startswith("10.0.")
    assert "DSDT" in {table["signature"] for table in compared["tables"]}


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--qemu", "/nowhere/qemu"], "missing-tool", "is not a program"),
        (["--machine", "pc-q35-99.1"], "machine", "unsupported machine type"),
        (["--firmware-vars", "/x"], "option", "stands without the code file"),
        (["--firmware-code", "/nowhere/OVMF.fd"], "system", "No such file"),
        (["--device", "pci-testdev"], "shape", "need a dry boot"),
        (["--device", "pci-testdev", "--method", "idle"], "shape", "an idle machine does not give"),
        (["--method", "dry-boot"], "shape", "need a dry boot"),
    ],
)
def test_what_cannot_be_is_one_error(
    capsys: pytest.CaptureFixture[str], words: list[str], code: str, reason: str
) -> None:
    found = document(capsys, *words, status=int(ExitStatus.INPUT))
    assert found["error"]["code"] == code
    assert reason in found["error"]["reason"]
    assert found["error"]["advice"]
