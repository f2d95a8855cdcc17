"""``keyturn app`` and ``keyturn predict --app`` as a user calls them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from keyturn.cli import main
from measurements.app_manifest import app_hash
from measurements.config_disk import parse_config, read_frame
from tests.support.oci_images import make_image, member, tar_bytes, write_layout

PINS = (
    *("--app-id", "0x" + "11" * 20, "--contract", "0x" + "22" * 20),
    *("--chain-id", "31337", "--kms-root", "33" * 32),
)


class Shell:
    """Runs verbs in a project's folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of a command."""
        with pytest.raises(SystemExit) as caught:
            main(words)
        captured = self._capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    def json(self, *words: str) -> dict[str, Any]:
        """The JSON document of a command that must succeed."""
        status, out, err = self.run(*words, "--json")
        assert status == 0, err
        document = json.loads(out)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "store"))
    layer = tar_bytes([member("bin/web", b"program", mode=0o755)])
    write_layout(make_image([layer]), tmp_path / "image")
    shell = Shell(capsys)
    assert shell.run("app", "init")[0] == 0
    return shell


def built(shell: Shell) -> dict[str, Any]:
    shell.json("app", "lock")
    return shell.json("app", "build", *PINS)


def test_init_writes_a_recipe_once(shell: Shell) -> None:
    assert tomllib.loads(Path("app.toml").read_text())["app"]["name"] == "hello"
    status, _, err = shell.run("app", "init")
    assert status == 2
    assert "exists already" in err


def test_lock_and_build(shell: Shell) -> None:
    document = built(shell)
    assert document["app_hash"] == app_hash(Path("app/app-manifest.json").read_bytes()).hex()
    assert Path("app/app.lock").read_bytes() == Path("app.lock").read_bytes()
    status, out, _ = shell.run("app", "build", *PINS)
    assert status == 0
    assert f"app hash {document['app_hash']}" in out


def test_build_without_lock_or_pins_says_what_is_missing(shell: Shell) -> None:
    status, _, err = shell.run("app", "build", *PINS)
    assert status == 2
    assert "keyturn app lock" in err
    shell.json("app", "lock")
    status, _, err = shell.run("app", "build")
    assert status == 2
    assert "--app-id" in err


def test_config_and_predict(shell: Shell) -> None:
    document = built(shell)
    Path("reference.json").write_text(
        json.dumps({"platform": "tpm", "shape": {"cpus": 1}, "banks": {}, "events": []})
    )
    words = ["--instance-id", "ab" * 16, "--kms", "http://10.0.2.2:8090", "--reference", "reference.json"]
    made = shell.json(*("app", "config", "app", *words, "--address", "10.0.2.15/24", "--gateway", "10.0.2.2"))
    with Path("config.disk").open("rb") as disk:
        config = parse_config(read_frame(disk))
    assert config.instance_id == b"\xab" * 16
    assert config.reference == {"platform": "tpm", "shape": {"cpus": 1}, "banks": {}}
    assert Path("config.disk").stat().st_mode & 0o777 == 0o600
    runtime = shell.json("predict", "--app", "app", "--config", "config.disk")["runtime"]
    assert runtime["app_hash"] == document["app_hash"]
    payloads = {event["name"]: event["payload"] for event in runtime["events"]}
    assert payloads["config-hash"] == made["config_hash"]
    assert payloads["instance-id"] == "ab" * 16
    assert set(runtime["booted"]) == {"aead-hmac:formatted", "aead-hmac:opened"}
    status, out, _ = shell.run("predict", "--app", "app", "--config", "config.disk")
    assert status == 0
    assert runtime["release"]["sha256"] in out


def test_an_owner_needs_a_disk_that_remembers_counters(shell: Shell) -> None:
    recipe = Path("app.toml").read_text()
    owned = recipe.replace("[app]\n", f'[app]\nowner-key = "{"ab" * 32}"\n')
    Path("app.toml").write_text(owned)
    built(shell)
    bare = owned.replace('volumes = ["data"]', "").replace(
        'mounts = [{ volume = "data", path = "/data" }]', ""
    )
    assert len(bare) < len(owned)
    Path("app.toml").write_text(bare)
    status, _, err = shell.run("app", "build", *PINS)
    assert status != 0
    assert "owner_key needs storage" in err


def test_new_instances_have_new_identities(shell: Shell) -> None:
    built(shell)
    words = ("app", "config", "app", "--kms", "http://10.0.2.2:8090")
    assert shell.json(*words)["instance_id"] != shell.json(*words)["instance_id"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--env", "DEBUG=1"), "env.DEBUG"),
        (("--env", "DEBUG"), "NAME=value"),
        (("--instance-id", "00" * 16), "zero"),
        (("--instance-id", "xy"), "not hex"),
        (("--address", "10.0.2.15/24"), "belong together"),
    ],
)
def test_configurations_that_the_guest_would_refuse(
    shell: Shell, words: tuple[str, ...], reason: str
) -> None:
    built(shell)
    status, _, err = shell.run("app", "config", "app", "--kms", "http://10.0.2.2:8090", *words)
    assert status == 2
    assert reason in err
    assert not Path("config.disk").exists()


def test_attack_prediction_for_the_config_disk_of_another_app(shell: Shell) -> None:
    built(shell)
    shell.json("app", "config", "app", "--kms", "http://10.0.2.2:8090")
    Path("app.toml").write_text(Path("app.toml").read_text().replace('version = "1"', 'version = "2"'))
    shell.json("app", "build", *PINS)
    status, _, err = shell.run("predict", "--app", "app", "--config", "config.disk")
    assert status == 1
    assert "carries the app" in err


def test_kms_project(shell: Shell) -> None:
    pins = ("--chain-id", "1", "--registry", "0x" + "22" * 20)
    hashes = ("--registry-code-hash", "33" * 32, "--app-code-hash", "44" * 32)
    shell.json("app", "kms", "kms", *pins, *hashes)
    assert tomllib.loads(Path("kms/app.toml").read_text())["key-provider"]["mode"] == "tpm-seal"
    status, _, err = shell.run("app", "kms", "kms", *pins, *hashes)
    assert status == 2
    assert "exists already" in err


def test_predict_needs_an_image_or_an_app_with_its_config(shell: Shell) -> None:
    assert shell.run("predict")[0] == 2
    assert shell.run("predict", "--app", "app")[0] == 2


@pytest.mark.parametrize(
    "target", ["web", "oci:image", "localhost:1/web", "localhost:1/a:1@sha256:" + "ab" * 32]
)
def test_push_needs_a_tag(shell: Shell, target: str) -> None:
    status, _, err = shell.run("app", "push", "image", target)
    assert status == 2
    assert "HOST/REPOSITORY" in err
