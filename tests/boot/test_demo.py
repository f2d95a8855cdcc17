"""The demo, as `make demo` runs it, once; then its KMS again, on what the demo has left on disk.

Everything is real: firmware, TPM, guests, contracts on a node, the KMS in its own guest. Each refusal is a
test by its name.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from keyturn.demo.guest import GivenUp, Guest, Machine
from keyturn.demo.kms_act import KMS, start_kms
from keyturn.demo.runner import Runner
from keyturn.verb_demo import free_port
from measurements.boot_timeline import Moment, find_timeline
from tests.boot.test_run import processes_with
from tests.support.tools import require_tool

pytestmark = [pytest.mark.boot, pytest.mark.network]

PATIENCE_SECONDS = 1200


class Demo(NamedTuple):
    """A finished demo: its folder, its result, and an answer of the app that it left running."""

    folder: Path
    document: dict[str, Any]
    kept: dict[str, Any]

    def refusal(self, name: str) -> dict[str, str]:
        [found] = [each for each in self.document["refusals"] if each["name"] == name]
        return {key: value for key, value in found.items() if key != "name"}

    def events(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.document["events"] if each["name"] == name]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo with ``--keep``: what still runs is asked once more, and ended as a user ends it."""
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    require_tool("swtpm_setup", package="swtpm-tools")
    folder = tmp_path_factory.mktemp("demo")
    (folder / "demo.lock").touch()
    unusable = folder / "base" / "keyturn.lock"
    unusable.parent.mkdir()
    unusable.write_text("version = 0\n")
    output, errors = folder.with_name("demo.json"), folder.with_name("demo.errors")
    command = [sys.executable, "-m", "keyturn", "demo", "--folder", str(folder), "--keep", "--json"]
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    try:
        document = await_result(process, output, errors)
        kept = requests.get(f"{document['addresses']['app']}/", timeout=60).json()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
    assert process.returncode == 0, errors.read_text()[-4000:]
    assert processes_with(str(folder)) == []
    yield Demo(folder, document, kept)
    shutil.rmtree(folder)


def await_result(process: subprocess.Popen[bytes], output: Path, errors: Path) -> dict[str, Any]:
    """The demo's result, which comes whole."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            document: dict[str, Any] = json.loads(output.read_text())
        except ValueError:
            time.sleep(0.5)
        else:
            return document
    raise AssertionError(output.read_text()[-4000:] + errors.read_text()[-4000:])


class Again(NamedTuple):
    """The KMS's guest after the demo: why changed ones gave up, and who the same one is."""

    refused: dict[str, GivenUp]
    kms_id: str


@pytest.fixture(scope="module")
def again(demo: Demo) -> Again:
    """Two guests at a time. Each changed one has a copy of the TPM, made while nobody uses it."""
    for changed in ("command-line", "image", "app"):
        shutil.copytree(demo.folder / "tpm" / KMS, demo.folder / "tpm" / f"{KMS}-{changed}")
    with ThreadPoolExecutor(2) as pool:
        same = pool.submit(reboot, runner := Runner(demo.folder))
        refused = {
            "command-line": pool.submit(attempt, runner, "command-line", image="changed/image"),
            "image": pool.submit(attempt, runner, "image", image=change_image(runner)),
            "app": pool.submit(attempt, runner, "app", app=change_app(runner)),
        }
        return Again({name: each.result() for name, each in refused.items()}, same.result())


def reboot(runner: Runner) -> str:
    guest = start_kms(runner, port=free_port(), boot=2)
    try:
        return str(guest.await_answer("/v1/public-key")["kms_id"])
    finally:
        guest.close()


def attempt(runner: Runner, changed: str, *, image: str = "base/image", app: str = "kms/app") -> GivenUp:
    name = f"{KMS}-{changed}"
    config(runner, name, app=app)
    guest = Guest(runner, Machine(name=name, image=image, app=app, config=f"{name}.config"))
    try:
        return guest.await_end()
    finally:
        guest.close()


def config(runner: Runner, name: str, *, app: str) -> None:
    """The config of the KMS, with another app in it."""
    kept = (runner.folder / f"{KMS}.config").read_bytes()
    document = json.loads(kept[12 : 12 + int.from_bytes(kept[8:12], "little")])
    given = [word for key, value in document["env"].items() for word in ("--env", f"{key}={value}")]
    options = ("--output", f"{name}.config", "--instance-id", document["instance_id"])
    runner.run("app", "config", app, *options, *given)


def change_image(runner: Runner) -> str:
    folder = runner.folder / "changed-image"
    shutil.copytree(runner.folder / "base", folder, ignore=shutil.ignore_patterns("image"))
    (folder / "motd").write_text("changed\n")
    with (folder / "keyturn.toml").open("a") as recipe:
        recipe.write('\n[[file]]\nsource = "motd"\npath = "/etc/motd"\n')
    runner.run("lock", "--local", "changed-image/keyturn.toml")
    runner.run("build", "changed-image/keyturn.toml")
    return "changed-image/image"


def change_app(runner: Runner) -> str:
    folder = runner.folder / "changed-kms"
    shutil.copytree(runner.folder / "kms", folder)
    recipe = folder / "app.toml"
    text = recipe.read_text()
    changed = text.replace('name = "keyturn-kms"', 'name = "keyturn-kms-2"', 1)
    assert changed != text
    recipe.write_text(changed)
    runner.run("app", "build", "changed-kms/app.toml")
    return "changed-kms/app"


class TestStory:
    def test_the_kms_guest_boots_with_the_predicted_registers(self, demo: Demo) -> None:
        document = demo.document
        assert (document["equal"], document["different"]) == (True, [])
        assert [len(registers) for registers in document["predicted"].values()] == [15, 15]
        for bank, registers in document["predicted"].items():
            assert registers == {pcr: document["booted"][bank][pcr] for pcr in registers}

    def test_an_unusable_lock_is_put_aside(self, demo: Demo) -> None:
        assert (demo.folder / "base" / "keyturn.lock.old").read_text() == "version = 0\n"

    def test_the_app_is_verified_from_the_hardware_to_the_contract(self, demo: Demo) -> None:
        assert demo.document["verified"] > 40

    def test_a_reboot_keeps_the_data_and_the_key(self, demo: Demo) -> None:
        assert demo.document["visits"] == [1, 2]
        assert (demo.kept["kind"], demo.kept["public"]) == ("ed25519", demo.document["public"])

    @pytest.mark.parametrize("boot", [1, 2])
    def test_the_guest_tells_its_timeline(self, demo: Demo, boot: int) -> None:
        times = find_timeline((demo.folder / f"hello-{boot}.log").read_bytes())
        assert list(times) == list(Moment)
        assert list(times.values()) == sorted(times.values())

    def test_every_issuance_and_refusal_is_anchored(self, demo: Demo) -> None:
        """Two releases and a confirmation for the app; four guests and a replay refused."""
        batches = [batch["arguments"] for batch in demo.events("ReceiptsAnchored")]
        assert len(batches) >= 2
        starts = [1, *(batch["toSeq"] + 1 for batch in batches)]
        assert [batch["fromSeq"] for batch in batches] == starts[:-1]
        assert batches[-1]["toSeq"] >= 8

    def test_additions_are_timelocked_and_the_revocation_is_not(self, demo: Demo) -> None:
        lists = [
            each["arguments"]["list"] for each in demo.events("Allowed") if each["contract"] == "registry"
        ]
        assert sorted(lists) == [0, 1, 2, 3, 4]
        assert len(demo.events("Revoked")) == 1

    def test_the_kms_is_registered_by_its_keys(self, demo: Demo) -> None:
        [event] = demo.events("KmsNodeJoined")
        assert event["arguments"]["kmsId"] == demo.document["kms_id"]


class TestRefusals:
    def test_changed_container(self, demo: Demo) -> None:
        found = demo.refusal("changed-container")
        assert (found["by"], found["code"]) == ("KMS", "app-hash-not-allowed")

    def test_changed_kernel_command_line(self, demo: Demo) -> None:
        found = demo.refusal("changed-command-line")
        assert (found["by"], found["code"]) == ("KMS", "registers")
        assert all(f"sha256 PCR {pcr}" in found["reason"] for pcr in (4, 9, 10, 11))

    def test_app_hash_not_allowed(self, demo: Demo) -> None:
        found = demo.refusal("app-hash-not-allowed")
        assert (found["by"], found["code"]) == ("KMS", "app-hash-not-allowed")
        assert found["reason"] != demo.refusal("changed-container")["reason"]

    def test_image_revoked_on_chain(self, demo: Demo) -> None:
        found = demo.refusal("image-revoked")
        assert (found["by"], found["code"]) == ("KMS", "image-revoked")
        assert demo.document["image_id"] in found["reason"]

    def test_replayed_evidence(self, demo: Demo) -> None:
        found = demo.refusal("replayed-evidence")
        assert (found["by"], found["code"]) == ("KMS", "challenge-replayed")

    def test_wrong_kms_pinned(self, demo: Demo) -> None:
        found = demo.refusal("wrong-kms-pinned")
        assert (found["by"], found["code"]) == ("agent", "no-kms")
        assert "not those that the app manifest pins" in found["reason"]


class TestKmsAgain:
    """The KMS's TPM and disk, as the demo has left them, below other software and below the same."""

    @pytest.mark.parametrize("changed", ["command-line", "image", "app"])
    def test_what_is_changed_cannot_unseal(self, again: Again, changed: str) -> None:
        found = again.refused[changed]
        assert (found.by, found.code) == ("agent", "sealed-secret")

    def test_a_reboot_finds_the_same_root_key(self, demo: Demo, again: Again) -> None:
        assert again.kms_id == demo.document["kms_id"]
