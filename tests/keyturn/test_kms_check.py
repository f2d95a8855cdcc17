"""``keyturn kms check`` as a user calls it: a KMS in a guest on paper, over HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from keyturn.cli import main
from kms.node import parse_node
from kms.root_key import RootKey
from kms.service import create_app
from tests.kms.guests import AUTHORITY, BOOTED, World
from tests.kms.nodes import MANIFEST, identity_evidence, kms_manifest
from tests.kms.receipts import DEVELOPMENT_ROOT, ROOT
from tests.support.reference_documents import reference_document


class Proof:
    """The agent of the KMS's guest; ``replay`` answers with evidence of an earlier nonce."""

    replay: bytes | None = None

    def identity_evidence(self, *, nonce: bytes, kms_id: bytes) -> Any:
        assert kms_id == ROOT.identity.kms_id
        return identity_evidence(nonce=self.replay or nonce)


class Shell:
    """Runs the verb against a KMS."""

    def __init__(self, url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url, self.folder, self._capsys = url, folder, capsys

    def file(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def __call__(self, *more: str, app: bool = True, status: int = 0) -> dict[str, Any]:
        (self.folder / "app").mkdir(exist_ok=True)
        self.file("app/app-manifest.json", MANIFEST)
        words = [
            *("kms", "check", self.url),
            *("--reference", self.file("ref.json", json.dumps(reference_document(BOOTED[0])).encode())),
            *("--root", self.file("root.der", AUTHORITY.certificate)),
            *(["--app", str(self.folder / "app")] if app else []),
        ]
        with pytest.raises(SystemExit) as ended:
            main([*words, *more, "--json"])
        shown = self._capsys.readouterr()
        assert (ended.value.code or 0) == status, shown.err
        return dict(json.loads(shown.out))


@pytest.fixture
def proof() -> Proof:
    return Proof()


def serve(folder: Path, root: RootKey, proof: Proof | None) -> Iterator[str]:
    world = World(folder, root=root)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(world.kms, proof=proof), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()
    world.kms.journal.close()


@pytest.fixture
def shell(tmp_path: Path, proof: Proof, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    for url in serve(tmp_path, ROOT, proof):
        yield Shell(url, tmp_path, capsys)


def test_a_kms_is_checked_and_its_identity_kept(shell: Shell) -> None:
    kept = shell.folder / "node.json"
    shown = shell("--output", str(kept))
    assert (shown["passed"], shown["failures"]) == (True, [])
    assert [group["name"] for group in shown["groups"]][-1] == "node"
    document = json.loads(kept.read_text())
    assert document == shown["node"]
    assert parse_node(document).kms_id == ROOT.identity.kms_id
    assert parse_node(document).nonce != parse_node(shell()["node"]).nonce


def test_attack_replayed_identity(shell: Shell, proof: Proof) -> None:
    proof.replay = b"\x01" * 32
    kept = shell.folder / "node.json"
    assert shell("--output", str(kept), status=1)["failures"] == ["report-data"]
    assert not kept.exists()


def test_attack_another_kms_app(shell: Shell) -> None:
    other = shell.file("other.json", kms_manifest(version="9"))
    assert shell("--manifest", other, app=False, status=1)["failures"] == ["expected-app"]


def test_attack_machine_that_booted_something_else(shell: Shell) -> None:
    wrong = json.dumps(reference_document(BOOTED[0], other_pcr=4)).encode()
    assert shell("--reference", shell.file("wrong.json", wrong), status=1)["failures"] == ["reference"]


def test_the_app_is_named_once(shell: Shell) -> None:
    assert shell(app=False, status=2)["error"]["code"] == "kms-usage"
    both = shell("--manifest", shell.file("m.json", MANIFEST), status=2)
    assert both["error"]["code"] == "kms-usage"


def test_a_development_kms_on_the_host_has_no_identity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in serve(tmp_path, DEVELOPMENT_ROOT, None):
        assert Shell(url, tmp_path, capsys)(status=1)["error"]["code"] == "kms-mismatch"


def test_a_kms_without_evidence_is_no_verified_kms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in serve(tmp_path, ROOT, None):
        assert Shell(url, tmp_path, capsys)(status=2)["error"]["code"] == "kms-answer"
