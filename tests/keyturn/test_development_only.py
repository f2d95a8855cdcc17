"""Whoever touches simulated TEEs or policies for development by command is told so, in words and in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyturn.cli import main

Capture = pytest.CaptureFixture[str]


def call(capsys: Capture, *words: str | Path, status: int = 0) -> str:
    """All that a command writes."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert (ended.value.code or 0) == status
    shown = capsys.readouterr()
    return shown.out + shown.err


@pytest.fixture
def folder(tmp_path: Path, capsys: Capture) -> Path:
    """PKI, evidence, and a policy that trusts them."""
    pki, policy = tmp_path / "pki", tmp_path / "policy.toml"
    evidence = tmp_path / "evidence.bin"
    for words in (
        ("sim", "pki", pki),
        ("sim", "quote", pki, "--report-data", "00" * 64, "--output", evidence),
        ("policy", "init", "--platform", "sim", "--output", policy),
    ):
        assert "development" in call(capsys, *words)
    root = (pki / "anchor.toml").read_text()
    kept = policy.read_text().replace("roots = []\n", "")
    policy.write_text(f"{kept}\n{root}")
    return tmp_path


COMMANDS = [
    ("evidence", "show", "evidence.bin"),
    ("evidence", "import", "evidence.bin", "--output", "copy.bin"),
    ("collateral", "show", "pki/collateral.bundle"),
    ("collateral", "bundle", "pki/collateral.bundle", "--output", "copy.bundle"),
    ("policy", "explain", "policy.toml"),
    ("policy", "digest", "policy.toml"),
    ("anchors", "--policy", "policy.toml"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_every_output_says_development(
    folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    form: tuple[str, ...],
) -> None:
    monkeypatch.chdir(folder)
    assert "development" in call(capsys, *words, *form)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_verdict_says_development(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    words = ("verify", "evidence.bin", "--policy", "policy.toml", "--offline", "--html", "page.html")
    shown = call(capsys, *words, "--collateral", "pki/collateral.bundle", *form, status=1)
    assert "development" in shown
    assert "development" in (folder / "page.html").read_text()
    if form:
        assert json.loads(shown[shown.index("{") : shown.rindex("}") + 1])["development"] is True
