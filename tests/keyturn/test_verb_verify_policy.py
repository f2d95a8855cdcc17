"""``keyturn verify FILE --policy`` as a user calls it, and the commands of docs/verify.md word by word."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from attestation.collateral_import import import_collateral
from keyturn.cli import main
from tests.support.collateral_server import collateral_server, dcap_replies
from tests.support.vectors import REPOSITORY, vector
from tests.support.whole_cases import DCAP, dcap_case

DOCUMENT = REPOSITORY / "docs/verify.md"
DSTACK, GOOGLE = "dstack-quote-report@2026-03-18", "go-tdx-guest-cos-113-tdx-quote@2025-06-19"
NONCE = "11" * 64


class Shell:
    """Runs commands in one folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys, self.folder = capsys, folder

    def run(self, *words: str) -> tuple[int, str, str]:
        """(exit status, stdout, stderr)."""
        with pytest.raises(SystemExit) as caught:
            main(list(words))
        shown = self._capsys.readouterr()
        return int(caught.value.code or 0), shown.out, shown.err

    def verdict(self, *words: str) -> tuple[int, dict[str, Any]]:
        status, out, _ = self.run("verify", *words, "--json")
        document: dict[str, Any] = json.loads(out)
        return status, document


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Shell(capsys, tmp_path)


def simulated(shell: Shell) -> list[str]:
    """Words that verify a simulated domain under a policy for development."""
    assert shell.run("sim", "pki", "pki")[0] == 0
    assert shell.run("sim", "quote", "pki", "--report-data", NONCE, "--output", "evidence.bin")[0] == 0
    assert shell.run("policy", "init", "--platform", "sim", "--output", "policy.toml")[0] == 0
    policy = Path("policy.toml")
    text = policy.read_text().replace("measurements = []", 'measurements = "any"')
    policy.write_text(text + Path("pki/anchor.toml").read_text())
    bundle = "pki/collateral.bundle"
    return ["evidence.bin", "--policy", "policy.toml", "--collateral", bundle, "--offline"]


class TestSimulated:
    def test_a_simulated_domain_passes_and_says_what_it_is(self, shell: Shell) -> None:
        words = [*simulated(shell), "--report-data", NONCE]
        status, out, err = shell.run("verify", *words, "--html", "verdict.html")
        assert (status, "everything holds" in out) == (0, True)
        assert "development only" in err
        page = Path("verdict.html").read_text()
        assert "Development only" in page
        assert "<svg" in page
        status, document = shell.verdict(*words)
        assert (status, document["development"]) == (0, True)
        assert document["forecast"]["valid_until"] > document["now"]
        assert document["versions"]["dcap-qvl"] == "0.7.0"

    def test_another_nonce_is_refused(self, shell: Shell) -> None:
        words = [*simulated(shell), "--report-data", "22" * 64]
        status, document = shell.verdict(*words)
        assert (status, document["failures"]) == (1, ["report-data"])

    def test_the_policy_lists_no_nonce(self, shell: Shell) -> None:
        status, document = shell.verdict(*simulated(shell))
        assert (status, document["failures"]) == (1, ["report-data"])

    def test_a_release_policy_never_trusts_it(self, shell: Shell) -> None:
        words = simulated(shell)
        policy = Path("policy.toml")
        policy.write_text(policy.read_text().replace('environment = "dev"', 'environment = "release"'))
        status, _, err = shell.run("verify", *words)
        assert status == 2
        assert "simulated" in err or "sim" in err

    def test_later_it_has_expired(self, shell: Shell) -> None:
        words = [*simulated(shell), "--report-data", NONCE, "--now", "2099-01-01"]
        status, document = shell.verdict(*words)
        assert status == 1
        assert "collateral-windows" in document["failures"]

    def test_without_collateral_it_says_what_to_fetch(self, shell: Shell) -> None:
        words = simulated(shell)
        del words[words.index("--collateral") : words.index("--collateral") + 2]
        status, out, _ = shell.run("verify", *words)
        assert status == 1
        assert "keyturn collateral fetch" in out


@pytest.mark.parametrize("data", [b"\x04\x00\x02\x00", b"{}", b"[]", b'{"quote": "00"}', b"{"])
def test_evidence_of_other_kinds_asks_for_a_policy(shell: Shell, data: bytes) -> None:
    Path("quote.bin").write_bytes(data)
    status, out, err = shell.run("verify", "quote.bin")
    assert (status, out) == (2, "")
    assert "--policy" in err


class TestUsage:
    def refused(self, shell: Shell, *words: str) -> str:
        status, out, _ = shell.run("verify", *words, "--json")
        assert status == 2
        error: dict[str, str] = json.loads(out)["error"]
        assert error["advice"]
        return error["reason"]

    def test_a_policy_needs_evidence(self, shell: Shell) -> None:
        simulated(shell)
        assert "exactly one" in self.refused(shell, "--policy", "policy.toml")

    def test_times_without_meaning(self, shell: Shell) -> None:
        words = simulated(shell)
        assert "no time" in self.refused(shell, *words, "--now", "yesterday")

    def test_report_data_that_is_no_hex(self, shell: Shell) -> None:
        assert "not hex" in self.refused(shell, *simulated(shell), "--report-data", "nonce")

    def test_offline_asks_no_service(self, shell: Shell) -> None:
        words = simulated(shell)
        assert "asks no network" in self.refused(shell, *words, "--pccs", "https://localhost")

    def test_evidence_of_no_known_format(self, shell: Shell) -> None:
        words = simulated(shell)
        Path("evidence.bin").write_bytes(b"nothing")
        self.refused(shell, *words)

    def test_a_policy_with_an_unknown_key(self, shell: Shell) -> None:
        words = simulated(shell)
        Path("policy.toml").write_text("debug = true\n" + Path("policy.toml").read_text())
        assert "debug" in self.refused(shell, *words)

    def test_collateral_of_no_known_form(self, shell: Shell) -> None:
        words = simulated(shell)
        Path("pki/collateral.bundle").write_bytes(b"\xff" * 40)
        self.refused(shell, *words)

    def test_a_file_that_is_not_there(self, shell: Shell) -> None:
        words = simulated(shell)
        self.refused(shell, "absent.bin", *words[1:])


def documented(section: str) -> list[list[str]]:
    """The commands in the first ``sh`` block of a section."""
    text = DOCUMENT.read_text().split(f"## {section}\n", 1)[1]
    found = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None
    commands = [shlex.split(line) for line in found.group(1).splitlines()]
    assert all(words[0] == "keyturn" for words in commands)
    return [words[1:] for words in commands]


def run_documented(shell: Shell, section: str, case: dict[str, Any]) -> list[str]:
    """Run the commands on the day of ``case``, with a local service instead of Intel's; what they print."""
    shutil.copytree(REPOSITORY / "examples", "examples")
    collateral = import_collateral(vector(f"{DCAP}/{case['collateral']}").read_bytes())
    shown = []
    with collateral_server() as server:
        server.serve_all(dcap_replies(collateral.dcap[0], tee="tdx", fmspc=case["fmspc"], ca=case["ca"]))
        for words in documented(section):
            local = ["--pccs", server.url] if words[:2] == ["collateral", "fetch"] else []
            status, out, err = shell.run(*words, *local)
            assert status == 0, err + out
            shown.append(out)
    return shown


def at_the_time_of(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    monkeypatch.setattr(time, "time", lambda: float(case["now"]))


def test_the_documented_check_of_a_dstack_deployment(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    case = dcap_case(DSTACK)
    at_the_time_of(monkeypatch, case)
    shutil.copy(vector("attestation/dstack/quote-report.json"), "quote-report.json")
    fetched, explained, verified = run_documented(shell, "A dstack deployment", case)
    assert "TCB info" in fetched
    assert "dstack sample" in explained
    assert "everything holds" in verified
    assert "valid until" in verified
    assert Path("verdict.html").read_text().startswith("<!doctype html>")


def test_the_documented_check_of_a_cloud_machine(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    case = dcap_case(GOOGLE)
    at_the_time_of(monkeypatch, case)
    folder = "tdx-ccel-pairs/gcp-cos113"
    shutil.copy(vector(f"{folder}/cos-113-tdx-quote.dat"), "quote.dat")
    shutil.copy(vector(f"{folder}/ccel_data.dat"), "ccel.bin")
    *_, verified = run_documented(shell, "A confidential VM of a cloud", case)
    assert "everything holds" in verified
    assert "log-ccel-replay" in verified


def test_the_documented_program(tmp_path: Path) -> None:
    case = dcap_case(DSTACK)
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    shutil.copy(vector("attestation/dstack/quote-report.json"), tmp_path / "quote-report.json")
    shutil.copy(vector(f"{DCAP}/{case['collateral']}"), tmp_path / "collateral.bundle")
    done = subprocess.run(
        [sys.executable, "-c", found.group(1)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "True []\n"


def test_every_example_policy_can_be_read() -> None:
    names = sorted((REPOSITORY / "examples/policies").glob("*.toml"))
    assert names
    for name in names:
        with pytest.raises(SystemExit) as caught:
            main(["policy", "explain", str(name)])
        assert caught.value.code in (0, None)
