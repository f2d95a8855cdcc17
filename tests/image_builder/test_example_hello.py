"""``examples/hello``: its recipes are valid, and the service does what it says with an agent at hand."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from attestation.report_data import PURPOSE_APP, quote_report_data
from image_builder.app_recipe import read_app_recipe
from image_builder.local_files import local_path
from image_builder.recipe import read_recipe
from kms.service_proof import FreshPart, ServiceKey, service_report_data
from measurements.app_manifest import KeyKind
from tests.support.paper_tpm import Authority, PaperTpm

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello"


def test_recipes_are_valid() -> None:
    app = read_app_recipe(EXAMPLE / "app.toml")
    root = read_recipe(EXAMPLE / "root" / "keyturn.toml")
    (container,) = app.containers
    assert container.image == "recipe:root"
    assert container.user in {user.name for user in root.users}
    assert container.entrypoint[-1] in {entry.path for entry in root.files}
    assert all(local_path(EXAMPLE / "root", entry.source).is_file() for entry in root.files)
    assert f'KEY = "{app.keys[0].path}"' in (EXAMPLE / "root" / "service.py").read_text()


RELEASE: dict[str, Any] = {"receipt": {"payload": "…"}, "evidence": {"type": "…"}}
NONCE = bytes(range(32))


class Agent(BaseHTTPRequestHandler):
    """Signs and quotes by returning what it was asked."""

    status = 200

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        answer = {"signature": "c2ln", "public": "cHVi", "kind": "ed25519", "receipt": None}
        self.send({**answer, "asked": [self.path, json.loads(asked)]})

    def do_GET(self) -> None:
        self.send(RELEASE if self.path == "/v1/release" else {})

    def send(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "agent"

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service(tmp_path: Path) -> Iterator[int]:
    """Port of the running service."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    agent = socketserver.UnixStreamServer(str(tmp_path / "agent.sock"), Agent)
    thread = threading.Thread(target=agent.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    variables = {
        "KEYTURN_SOCKET": str(tmp_path / "agent.sock"),
        "HELLO_COUNTER": str(tmp_path / "visits"),
        "HELLO_PORT": str(port),
        "GREETING": "good day",
    }
    process = subprocess.Popen(
        [sys.executable, "-I", EXAMPLE / "root" / "service.py"],
        env=os.environ | variables,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)
        agent.shutdown()
        thread.join()
        agent.server_close()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the service does not answer")


def ask(port: int, path: str, *, status: int = 200) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert answer.status == status
    assert isinstance(document, dict)
    return document


def test_answers_are_signed_and_visits_are_kept(service: int, tmp_path: Path) -> None:
    for visits in (1, 2):
        document = ask(service, "/?nonce=abc")
        path, asked = document["asked"]
        assert path == "/v1/sign"
        assert asked == {"path": "hello/signing", "data": document["payload"]}
        said = json.loads(base64.b64decode(document["payload"]))
        assert said == {"greeting": "good day", "nonce": "abc", "visits": visits}
        assert (document["signature"], document["public"]) == ("c2ln", "cHVi")
        assert (tmp_path / "visits").read_text() == str(visits)


def test_without_the_agents_signature_there_is_no_answer(
    service: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agent, "status", 404)
    with pytest.raises(http.client.HTTPException):
        ask(service, "/")


def test_a_proof_binds_nonce_key_and_quote(service: int, tmp_path: Path) -> None:
    proof = ask(service, f"/.well-known/keyturn?nonce={NONCE.hex()}")
    assert {key: proof[key] for key in RELEASE} == RELEASE
    assert (proof["type"], proof["nonce"]) == ("keyturn-service/1", NONCE.hex())
    assert proof["key"] == {
        "path": "hello/signing",
        "kind": "ed25519",
        "public": "cHVi",
        "signature": "c2ln",
    }
    path, asked = proof["quote"]["asked"]
    key = ServiceKey(path="", kind=KeyKind.ED25519, public=b"", signature=b"", document=proof["key"])
    quote = PaperTpm(Authority("root")).evidence(report_data=bytes(64), runtime_events=[], app_manifest=b"{}")
    bound = service_report_data(FreshPart(nonce=NONCE, key=key, quote=quote))
    assert path == "/v1/quote"
    assert quote_report_data(PURPOSE_APP, bytes.fromhex(asked["report_data"])) == bound
    assert not (tmp_path / "visits").exists()


@pytest.mark.parametrize("query", ["", "?nonce=", "?nonce=00", f"?nonce={'zz' * 32}", f"?nonce={'00' * 33}"])
def test_a_proof_of_no_nonce_is_refused(query: str, service: int) -> None:
    assert set(ask(service, f"/.well-known/keyturn{query}", status=400)) == {"error"}


def test_without_the_agent_there_is_no_proof(service: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agent, "status", 404)
    with pytest.raises(http.client.HTTPException):
        ask(service, f"/.well-known/keyturn?nonce={NONCE.hex()}")
