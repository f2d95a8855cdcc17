"""``keyturn tpm challenge`` and ``--activation`` given what they cannot use; no TPM is needed for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attestation.container_codec import encode_container
from keyturn.cli import main
from tests.support.containers import SMALL
from tests.support.tpm_containers import SECRET, PaperMachine, container

VALUE = "11" * 32
Refused = Callable[..., dict[str, Any]]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The error of a command, in a folder with evidence and policies."""
    monkeypatch.chdir(tmp_path)
    machine = PaperMachine()
    for name, secret in (("evidence.bin", None), ("opened.bin", SECRET)):
        part = machine.part(activated_secret=secret)
        Path(name).write_bytes(encode_container(container(machine, part)))
    Path("small.bin").write_bytes(encode_container(SMALL))
    bare = container(machine, machine.part(ek_certificate=None, activated_secret=None))
    Path("bare.bin").write_bytes(encode_container(bare))

    def run(*words: str, status: int = 2) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--json"])
        error = dict(json.loads(capsys.readouterr().out)["error"])
        assert int(ended.value.code or 0) == status
        assert error["advice"]
        return error

    for platform in ("tpm", "snp"):
        with pytest.raises(SystemExit):
            main(["policy", "init", "--platform", platform, "--output", f"{platform}.toml"])
    cloud = Path("tpm.toml").read_text().replace('["credential"]', '["ak-certificate"]')
    Path("cloud.toml").write_text(cloud)
    capsys.readouterr()
    return run


@pytest.mark.parametrize(
    ("name", "reason"), [("small.bin", "no TPM part"), ("bare.bin", "no EK certificate")]
)
def test_evidence_without_the_keys(refused: Refused, name: str, reason: str) -> None:
    error = refused("tpm", "challenge", name)
    assert (error["code"], reason in error["reason"]) == ("tpm-challenge", True)
    assert not Path("credential.blob").exists()


def test_a_file_that_is_no_evidence(refused: Refused) -> None:
    Path("other").write_bytes(b"something")
    assert refused("tpm", "challenge", "other")["code"] == "evidence-import"
    Path("large").write_bytes(bytes((16 << 20) + 1))
    assert "larger than" in refused("tpm", "challenge", "large")["reason"]
    assert refused("tpm", "challenge", "absent")["subject"] == "absent"


@pytest.mark.parametrize("secret", [b"", b"s" * 31, bytes(range(33)), bytes(32), b"7" * 32])
def test_a_secret_file_that_holds_no_secret(refused: Refused, secret: bytes) -> None:
    Path("secret").write_bytes(secret)
    error = refused("tpm", "challenge", "evidence.bin", "--secret-file", "secret")
    assert (error["code"], error["subject"]) == ("tpm-challenge", "secret")
    assert not Path("credential.blob").exists()


def test_a_secret_is_not_imported_twice(refused: Refused) -> None:
    Path("secret").write_bytes(SECRET)
    words = ("evidence", "import", "opened.bin", "--activated-secret", "secret", "--output", "e.bin")
    assert "already" in refused(*words)["reason"]
    assert not Path("e.bin").exists()


@pytest.mark.parametrize("value", ["", "11", "11" * 31, "11" * 33, "zz" * 32, "11 " * 32, "0x" + "11" * 31])
def test_an_activation_value_that_is_none(refused: Refused, value: str) -> None:
    words = ("verify", "opened.bin", "--policy", "tpm.toml", "--offline", "--activation", value)
    error = refused(*words)
    assert (error["subject"], "no activation value" in error["reason"]) == ("--activation", True)


@pytest.mark.parametrize(
    ("policy", "reason"), [("snp.toml", "no [tpm]"), ("cloud.toml", "no TPM for a credential")]
)
def test_a_policy_that_would_not_look_at_it(refused: Refused, policy: str, reason: str) -> None:
    words = ("verify", "opened.bin", "--policy", policy, "--offline", "--activation", VALUE)
    error = refused(*words)
    assert (error["subject"], reason in error["reason"]) == ("--activation", True)


def test_without_a_policy_nothing_would_look_at_it(refused: Refused) -> None:
    assert refused("verify", "opened.bin", "--activation", VALUE)["subject"] == "--activation"
