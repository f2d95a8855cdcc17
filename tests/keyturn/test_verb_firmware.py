"""``keyturn firmware show`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keyturn.cli import main
from tests.support.debian_packages import debian_package
from tests.support.tools import unavailable

INSTALLED = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")


def call(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["firmware", "show", *map(str, words)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert call(path, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


@pytest.mark.apt
def test_a_code_file_is_for_tpm_systems_only(capsys: pytest.CaptureFixture[str]) -> None:
    if not INSTALLED.exists():
        unavailable("no firmware (package ovmf)")
    facts = shown(INSTALLED, capsys)
    assert facts["tpm"]["secure_boot"] in (True, False)
    assert "unusable" in facts["tdx"]
    assert "unusable" not in facts["tpm"]


@pytest.mark.network
@pytest.mark.parametrize(
    ("package", "suite", "file", "rtmrs"),
    [
        ("ovmf", "bookworm", "ovmf/OVMF.fd", "not predicted"),
        ("ovmf", "trixie", "OVMF", "predicted"),
        ("ovmf-amdsev", "sid", "ovmf/OVMF.amdsev.fd", "not predicted"),
    ],
)
def test_a_whole_file_says_what_each_platform_measures(
    package: str, suite: str, file: str, rtmrs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = debian_package(package, suite=suite) / "usr/share" / file
    whole = tmp_path / "OVMF.fd"
    parts = [source] if source.is_file() else [source / f"OVMF_{part}_4M.fd" for part in ("VARS", "CODE")]
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    facts = shown(whole, capsys)
    assert facts["file"]["known"] != "no"
    assert facts["tdx"]["rtmrs"].startswith(rtmrs)
    assert len(facts["tdx"]["mrtd, single-pass"]) == 96
    assert facts["tdx"]["mrtd, single-pass"] != facts["tdx"]["mrtd, two-pass"]
    assert call(whole) == 0
    assert "temporary memory" in capsys.readouterr().out


def test_a_file_that_is_no_firmware_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"no firmware" * 100)
    assert call(path) == 2
    error = capsys.readouterr().err
    assert "notes.txt" in error
    assert "remedy:" in error
