"""``keyturn chain`` as a user calls it, on a development chain."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from eth_keys.datatypes import PrivateKey

from contracts.dev_chain import DevChain, dev_chain
from contracts.dev_keys import write_dev_keys
from keyturn.cli import main
from kms.anchors import sign_batch
from kms.answers import identity_json
from kms.node import node_document
from kms.root_key import ChainPin, RootKey
from tests.contracts.conftest import require_anvil
from tests.kms.nodes import NONCE, identity_evidence
from tests.support.paper_tpm import Authority

IMAGE, HASH, ROOT = ("11" * 32, "22" * 32, "33" * 32)
DELAY = 100


@dataclass(frozen=True, kw_only=True)
class Shell:
    """Calls of the command line by one person or another."""

    chain: DevChain
    folder: Path
    addresses: dict[str, str]
    capsys: pytest.CaptureFixture[str]

    @property
    def deployment(self) -> Path:
        return self.folder / "deployment.json"

    def __call__(self, *words: str, by: str | None = None, status: int = 0) -> dict[str, Any]:
        arguments = ["chain", *words, "--json", "--url", self.chain.url, "--deployment", str(self.deployment)]
        if by is not None:
            arguments += ["--keystore", str(self.folder / f"keys/{by}.json")]
            arguments += ["--password-file", str(self.folder / "keys/password")]
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        shown = self.capsys.readouterr()
        assert (ended.value.code or 0) == status, shown.err
        document: dict[str, Any] = json.loads(shown.out)
        return document

    def allow(self, *words: str) -> None:
        assert self("allow", *words, by="proposer")["state"] == "proposed"
        self.chain.skip_time(DELAY)
        assert self("allow", *words, by="proposer")["state"] == "done"


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    require_anvil()
    with dev_chain(block_seconds=None) as chain:
        addresses = write_dev_keys(chain, tmp_path / "keys")
        ready = Shell(chain=chain, folder=tmp_path, addresses=addresses, capsys=capsys)
        people = ["--proposer", addresses["proposer"], "--guardian", addresses["guardian"]]
        ready("deploy", "registry", *people, "--delay", str(DELAY), by="payer")
        yield ready


def test_the_life_of_a_policy(shell: Shell) -> None:
    guardian = shell.addresses["guardian"]
    app = shell("deploy", "app", "--guardian", guardian, "--any-device", by="payer")["app"]
    shell.allow("image", IMAGE)
    shell.allow("reference", ROOT, "--image", IMAGE)
    shell.allow("app-hash", HASH, "--app", app)
    assert shell("revoke", "image", IMAGE, by="guardian")["state"] == "done"
    assert shell("epoch", "--app", app, by="guardian")["state"] == "done"
    assert shell("pause", "--app", app, by="guardian")["state"] == "done"

    found = shell("status")
    assert {(item["list"], item["state"]) for item in found["entries"]} == {
        ("image", "revoked"),
        ("reference", "holds"),
        ("app", "holds"),
    }
    assert found["block"] - found["finalized_block"] == 2
    state = shell("status", "--app", app)["state"]
    assert (state["paused"], state["epoch"], state["any_device"], state["upgrade_mode"]) == (
        True,
        2,
        True,
        "mutable",
    )
    names = [item["name"] for item in shell("history", "--app", app)["events"]]
    assert names[-3:] == ["Allowed", "EpochBumped", "Paused"]

    assert shell("pause", "--resume", "--app", app, by="proposer")["state"] == "proposed"
    shell.chain.skip_time(DELAY)
    assert shell("pause", "--resume", "--app", app, by="proposer")["state"] == "done"
    assert shell("status", "--app", app)["state"]["paused"] is False


def test_a_kms_node_is_admitted_by_its_public_keys(shell: Shell) -> None:
    answer = shell.folder / "kms.json"
    compressed = PrivateKey(b"\7" * 32).public_key.to_compressed_bytes()
    answer.write_text(json.dumps({"ed25519": "44" * 32, "secp256k1": compressed.hex()}))
    shell.allow("kms-node", "--kms", str(answer), "--app-hash", HASH, "--evidence-hash", ROOT)
    events = shell("history")["events"]
    joined = next(item for item in events if item["name"] == "KmsNodeJoined")
    assert joined["arguments"]["appHash"] == HASH
    answer.write_text("{}")
    words = ["allow", "kms-node", "--kms", str(answer), "--app-hash", HASH, "--evidence-hash", ROOT]
    assert shell(*words, by="proposer", status=2)["error"]["code"] == "chain-usage"


def node_of(shell: Shell, **changes: Any) -> tuple[str, dict[str, Any]]:
    """A file of ``keyturn kms check`` for a KMS of this registry, and its document."""
    registry = json.loads(shell.deployment.read_text())["registry"]
    pin = ChainPin(chain_id=shell.chain.chain_id, contract=bytes.fromhex(registry[2:]))
    keys = identity_json(RootKey(root=b"\x42" * 64, pin=pin, development=False).identity)
    document = {**node_document(keys, evidence=identity_evidence(), nonce=NONCE), **changes}
    path = shell.folder / "node.json"
    path.write_text(json.dumps(document))
    return str(path), document


def test_a_kms_node_is_admitted_by_its_checked_identity(shell: Shell) -> None:
    path, document = node_of(shell)
    shell.allow("kms-node", "--kms", path)
    events = shell("history")["events"]
    joined = next(item for item in events if item["name"] == "KmsNodeJoined")["arguments"]
    assert (joined["kmsId"], joined["appHash"]) == (document["kms_id"], document["app_hash"])
    assert joined["evidenceHash"] == document["evidence_hash"]
    shell.allow("kms-node", "--kms", path, "--app-hash", document["app_hash"])


@pytest.mark.parametrize("option", ["--app-hash", "--evidence-hash"])
def test_attack_option_that_contradicts_the_checked_identity(shell: Shell, option: str) -> None:
    path, _ = node_of(shell)
    error = shell("allow", "kms-node", "--kms", path, option, HASH, by="proposer", status=2)["error"]
    assert (error["code"], error["subject"]) == ("chain-usage", option)


@pytest.mark.parametrize("change", [{"contract": "0x" + "77" * 20}, {"chain_id": 1}])
def test_attack_kms_node_of_another_registry(shell: Shell, change: dict[str, Any]) -> None:
    path, _ = node_of(shell, **change)
    error = shell("allow", "kms-node", "--kms", path, by="proposer", status=2)["error"]
    assert (error["code"], error["subject"]) == ("chain-usage", "--kms")


@pytest.mark.parametrize("key", ["app_hash", "evidence_hash", "kms_id"])
def test_attack_kms_node_file_that_was_edited(shell: Shell, key: str) -> None:
    path, _ = node_of(shell, **{key: HASH})
    assert shell("allow", "kms-node", "--kms", path, by="proposer", status=2)["error"]["code"] == "malformed"


def test_a_platform_root_is_allowed_by_its_certificate(shell: Shell) -> None:
    root, below = Authority("root"), shell.folder / "below.der"
    (shell.folder / "root.der").write_bytes(root.certificate)
    below.write_bytes(Authority("below", parent=root).certificate)
    shell.allow("platform-root", "--certificate", str(shell.folder / "root.der"))
    (entry,) = shell("status")["entries"]
    digest = hashlib.sha256(root.certificate).hexdigest()
    assert (entry["list"], entry["id"]) == ("platform-root", digest)
    words = ["allow", "platform-root", "--certificate", str(below)]
    assert shell(*words, by="proposer", status=1)["error"]["code"] == "platform-root"
    words = ["allow", "platform-root", digest, "--certificate", str(shell.folder / "root.der")]
    assert shell(*words, by="proposer", status=2)["error"]["code"] == "chain-usage"


def test_the_wrong_person_is_refused(shell: Shell) -> None:
    for words in (("pause",), ("revoke", "image", IMAGE)):
        error = shell(*words, by="proposer", status=1)["error"]
        assert error["code"] == "contract-refused"
        assert "AccessControlUnauthorizedAccount" in error["reason"]
    error = shell("allow", "image", IMAGE, by="guardian", status=1)["error"]
    assert "AccessControlUnauthorizedAccount" in error["reason"]


@pytest.mark.parametrize(
    "words",
    [
        ("allow", "image"),
        ("allow", "image", "00" * 32),
        ("allow", "image", "11" * 31),
        ("allow", "image", "zz" * 32),
        ("allow", "image", IMAGE, "--app", "0x" + "11" * 20),
        ("allow", "app-hash", HASH),
        ("allow", "reference", ROOT),
        ("allow", "kms-node", ROOT),
        ("allow", "platform-root"),
        ("allow", "image", "--certificate", "root.der"),
        ("revoke", "app-hash", HASH),
        ("revoke", "image", IMAGE, "--app", "0x" + "11" * 20),
        ("epoch", "--app", "0x" + "00" * 20),
        ("pause", "--app", "0x12"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(shell: Shell, words: tuple[str, ...]) -> None:
    before = shell.chain.call("eth_blockNumber")
    assert shell(*words, by="guardian", status=2)["error"]["code"] == "chain-usage"
    assert shell.chain.call("eth_blockNumber") == before


def test_who_signs_must_be_said_once(shell: Shell) -> None:
    assert shell("pause", status=2)["error"]["subject"] == "--keystore, --signer"
    error = shell("pause", "--signer", "true", by="guardian", status=2)["error"]
    assert error["subject"] == "--keystore, --signer"


def test_a_wrong_password_is_refused(shell: Shell) -> None:
    (shell.folder / "keys/password").write_text("wrong\n")
    assert shell("pause", by="guardian", status=2)["error"]["code"] == "signer"


def test_a_deployment_is_not_replaced(shell: Shell) -> None:
    before = shell.deployment.read_bytes()
    people = ["--proposer", shell.addresses["proposer"], "--guardian", shell.addresses["guardian"]]
    assert shell("deploy", "registry", *people, by="payer", status=2)["error"]["code"] == "chain-usage"
    assert shell.deployment.read_bytes() == before


def test_status_of_another_contract_is_refused(shell: Shell) -> None:
    registry = json.loads(shell.deployment.read_text())["registry"]
    assert shell("status", "--app", registry, status=2)["error"]["code"] == "chain"


def test_dev_runs_until_interrupted(tmp_path: Path) -> None:
    require_anvil()
    command = [sys.executable, "-m", "keyturn.cli", "chain", "dev", "--port", "0", "--json"]
    command += ["--keys", str(tmp_path / "keys")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        text = ""
        for line in running.stdout:
            text += line
            if line == "}\n":
                break
        document = json.loads(text)
        assert document["url"].startswith("http://127.0.0.1:")
        assert set(document["addresses"]) == {"proposer", "guardian", "payer"}
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait(30) == 0
    with pytest.raises(OSError, match="refused"):
        DevChain(url=document["url"], chain_id=1, process=running).call("eth_chainId")


@contextmanager
def kms_that_publishes(batches: list[dict[str, Any]], asked: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({"batches": batches}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_receipts_are_anchored_once(shell: Shell) -> None:
    registry = json.loads(shell.deployment.read_text())["registry"]
    pin = ChainPin(chain_id=shell.chain.chain_id, contract=bytes.fromhex(registry[2:]))
    key = RootKey(root=b"\x42" * 64, pin=pin, development=True)
    kms_id = key.identity.kms_id.hex()
    answer = shell.folder / "kms.json"
    answer.write_text(
        json.dumps({"ed25519": key.identity.ed25519.hex(), "secp256k1": key.identity.secp256k1.hex()})
    )
    shell.allow("kms-node", "--kms", str(answer), "--app-hash", HASH, "--evidence-hash", ROOT)
    batches: list[dict[str, Any]] = [dict(sign_batch(key, from_seq=1, payloads=[b"a", b"b"]).as_json())]
    asked: list[str] = []
    with kms_that_publishes(batches, asked) as url:
        done = shell("anchor", url, "--kms-id", kms_id, by="payer")
        assert [(item["from_seq"], item["to_seq"]) for item in done["batches"]] == [(1, 2)]
        # The same batch again does not follow the last anchor.
        assert shell("anchor", url, "--kms-id", kms_id, by="payer", status=2)["error"]["code"] == "batch"
        batches.clear()
        assert shell("anchor", url, "--kms-id", kms_id, by="payer")["batches"] == []
    assert asked == ["/v1/anchors?after=0", "/v1/anchors?after=2", "/v1/anchors?after=2"]
    error = shell("anchor", url, "--kms-id", kms_id, by="payer", status=2)["error"]
    assert error["code"] == "kms-unreachable"
