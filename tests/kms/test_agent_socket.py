"""The agent's socket, played by a small server on a Unix socket."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestation.report_data import kms_identity_data
from kms.agent_socket import LARGEST_ANSWER, ROOT_KEY_PATHS, AgentError, AgentSocket

KEYS = {path: bytes([number]) * 32 for number, path in enumerate(ROOT_KEY_PATHS, 1)}


class Server(socketserver.ThreadingUnixStreamServer):
    """Answers of the agent; ``override`` replaces all of them."""

    override: tuple[int, bytes] | None = None
    quoted: Any = None


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def address_string(self) -> str:
        return "agent"

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Quiet."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, body = self.server.override or (200, json.dumps(self.answer(asked)).encode())
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, asked: dict[str, str]) -> Any:
        if self.path == "/v1/quote":
            self.server.quoted = asked
            return {"type": "keyturn-evidence/1"}
        assert self.path == "/v1/key"
        assert asked["kind"] == "raw-256"
        return {"secret": base64.b64encode(KEYS[asked["path"]]).decode(), "public": None}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(str(tmp_path / "agent.sock"), Handler) as opened:
        thread = threading.Thread(target=opened.serve_forever)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


@pytest.fixture
def agent(server: Server) -> AgentSocket:
    return AgentSocket(Path(str(server.server_address)))


def test_the_root_is_two_keys(agent: AgentSocket) -> None:
    assert agent.root() == b"\x01" * 32 + b"\x02" * 32


def test_identity_evidence_binds_nonce_and_kms_id(agent: AgentSocket, server: Server) -> None:
    nonce, kms_id = b"\x0a" * 32, b"\x0b" * 32
    assert agent.identity_evidence(nonce=nonce, kms_id=kms_id) == {"type": "keyturn-evidence/1"}
    bound = hashlib.sha512(kms_identity_data(nonce, kms_id)).hexdigest()
    assert server.quoted == {"report_data": bound}


@pytest.mark.parametrize(
    "override",
    [
        (404, b'{"error": {}}'),
        (200, b"{}"),
        (200, b"[]"),
        (200, b"no json"),
        (200, json.dumps({"secret": base64.b64encode(bytes(31)).decode()}).encode()),
        (200, b'{"secret": "?"}'),
        (200, b'"' + b"x" * LARGEST_ANSWER + b'"'),
    ],
    ids=lambda override: override[1][:20].decode(),
)
def test_an_answer_that_is_none(agent: AgentSocket, server: Server, override: tuple[int, bytes]) -> None:
    server.override = override
    with pytest.raises(AgentError):
        agent.root()


def test_no_agent(tmp_path: Path) -> None:
    with pytest.raises(AgentError):
        AgentSocket(tmp_path / "none.sock").root()
