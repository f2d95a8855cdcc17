"""``keyturn kms`` as a user calls it: a development KMS, the identity of a KMS, its receipts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from attestation.container import EvidencePlatform
from attestation.policies import policy_template
from attestation.policy_document import encode_policy, policy_digest
from attestation.policy_file import parse_policy
from contracts.deployment import Deployment
from keyturn.cli import main
from kms import client
from kms.main import MARKER, Settings
from kms.receipt import parse_receipt
from kms.service import create_app
from tests.kms.guests import AUTHORITY, SIGNING, World
from tests.kms.receipts import PIN, ROOT

REPOSITORY = Path(__file__).resolve().parents[2]
KMS_ID = ROOT.identity.kms_id.hex()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.kms.journal.close()


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(world.kms), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def call(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["kms", *words, "--json"])
    assert ended.value.code == status
    return dict(json.loads(capsys.readouterr().out))


def test_the_identity_of_a_kms(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = call(capsys, "public-key", url)
    assert shown["kms_id"] == KMS_ID
    assert shown["development"] is False


def test_receipts_are_verified_and_shown(url: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = [world.guest(keys=[SIGNING]).ask().recorded for _ in range(2)]
    hashes = [entry.hash.hex() for entry in recorded]
    shown = call(capsys, "receipts", url, *hashes, "--kms-id", KMS_ID)["receipts"]
    assert [entry["receipt"]["seq"] for entry in shown] == [1, 2]
    assert [entry["inclusion"] for entry in shown] == [None, None]
    world.kms.journal.close_batches()
    (second,) = call(capsys, "receipts", url, hashes[1], "--kms-id", KMS_ID)["receipts"]
    assert second["inclusion"]["index"] == 1
    assert parse_receipt(recorded[1].envelope.payload) == recorded[1].receipt


def test_a_receipt_of_another_kms_is_refused(
    url: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = world.guest(keys=[SIGNING]).ask().recorded
    shown = call(capsys, "receipts", url, recorded.hash.hex(), "--kms-id", "00" * 32, status=1)
    assert shown["error"]["code"] == "kms-mismatch"


def test_an_unknown_receipt(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = call(capsys, "receipts", url, "00" * 32, "--kms-id", KMS_ID, status=2)
    assert shown["error"]["code"] == "kms-answer"


def test_a_wrong_inclusion_proof_is_refused(
    url: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = [world.guest(keys=[SIGNING]).ask().recorded for _ in range(2)]
    world.kms.journal.close_batches()
    monkeypatch.setattr("kms.answers.inclusion_proof", lambda payloads, index: (bytes(32),))
    shown = call(capsys, "receipts", url, recorded[0].hash.hex(), "--kms-id", KMS_ID, status=1)
    assert shown["error"]["code"] == "kms-mismatch"


def test_another_receipt_than_asked_for_is_refused(
    url: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = [world.guest(keys=[SIGNING]).ask().recorded for _ in range(2)]
    monkeypatch.setattr(world.kms.journal, "by_hash", lambda wanted: recorded[1])
    shown = call(capsys, "receipts", url, recorded[0].hash.hex(), "--kms-id", KMS_ID, status=1)
    assert shown["error"]["code"] == "kms-mismatch"


def test_an_identity_that_contradicts_itself(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "hash_of_keys", lambda ed25519, secp256k1: bytes(32))
    assert call(capsys, "public-key", url, status=1)["error"]["code"] == "kms-mismatch"


def test_no_kms_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "public-key", "http://127.0.0.1:9", status=2)["error"]["code"] == "kms-answer"


def write_deployment(folder: Path) -> None:
    address = "0x" + "11" * 20
    registry = f"0x{PIN.contract.hex()}"
    deployment = Deployment(
        chain_id=PIN.chain_id, registry=registry, timelock=address, guardian=address, block=1
    )
    deployment.write(folder / "deployment.json")
    (folder / "authority.der").write_bytes(AUTHORITY.certificate)


def test_a_development_kms_gets_the_policies_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TOML and as a document; apps name them by their digests."""
    write_deployment(tmp_path)
    monkeypatch.chdir(tmp_path)
    policies = [
        parse_policy(policy_template([one]).encode())
        for one in (EvidencePlatform.TPM, EvidencePlatform.NITRO)
    ]
    Path("policy.toml").write_text(policy_template([EvidencePlatform.TPM]))
    Path("policy.json").write_bytes(encode_policy(policies[1]))
    seen: list[Settings] = []
    monkeypatch.setattr("kms.main.serve", lambda settings, **_: seen.append(settings))
    words = ["kms", "dev", "--data", "data", "--ek-certificate", "authority.der"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--policy", "policy.toml", "--policy", "policy.json"])
    assert not ended.value.code
    assert seen[0].rules == {policy_digest(policy): policy for policy in policies}


def test_a_development_kms(tmp_path: Path) -> None:
    write_deployment(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["kms", "dev", "--data", "data", "--ek-certificate", "authority.der", "--listen", listen]
    with subprocess.Popen(
        [sys.executable, "-m", "keyturn", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            shown = wait_for(f"http://{listen}", process)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert MARKER in process.stderr.read()
    assert shown["development"] is True
    assert (tmp_path / "data" / "journal.sqlite").exists()


def wait_for(url: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return client.fetch_identity(url)
        except client.KmsAnswerError:
            time.sleep(0.1)
    raise AssertionError("the KMS does not answer")
