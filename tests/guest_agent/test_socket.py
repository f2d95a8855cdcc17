"""The agent's socket: the documented calls, and nothing else."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from attestation.report_data import KeyRequest, quote_report_data
from guest_agent.http_message import MAX_BODY, MAX_HEAD, Head, HttpError, parse_head
from guest_agent.keys import SIGN_PREFIX, STORAGE_KEY, HeldKey, KeyStore, Signature
from guest_agent.register_log import RegisterLogError
from guest_agent.sealed_keys import KeyOwner, derive_sealed_key
from guest_agent.socket_api import ReleaseProof, answer
from guest_agent.socket_server import CONNECTIONS, SocketServer
from measurements.app_manifest import KeyKind
from measurements.canonical import Json, encode_canonical

OWNER = KeyOwner(1, b"\x01" * 20, b"\x02" * 20, b"\x03" * 32, b"\x04" * 16)
WANTED = [KeyRequest("web", "ed25519", "app"), KeyRequest("raw", "raw-256", "app"), STORAGE_KEY]
RECEIPT: Json = {"payload": "…"}


class App:
    """Services of an app with two keys and a disk."""

    def __init__(self) -> None:
        keys = [derive_sealed_key(bytes(range(64)), OWNER, wanted) for wanted in WANTED]
        self.keys = KeyStore(keys, wanted=WANTED)
        self.failure: Exception | None = None
        self.proof: ReleaseProof | None = ReleaseProof(RECEIPT, {"type": "evidence"})

    def info(self) -> Json:
        if self.failure is not None:
            raise self.failure
        return {"app_id": "0x" + "02" * 20}

    def key(self, path: str, kind: KeyKind) -> HeldKey:
        return self.keys.app_key(path, kind)

    def sign(self, path: str, data: bytes) -> Signature:
        return self.keys.sign(path, data)

    def evidence(self, report_data: bytes) -> Json:
        return {"quoted": report_data.hex()}

    def receipt(self) -> Json:
        return RECEIPT

    def release(self) -> ReleaseProof | None:
        return self.proof


def call(method: str, path: str, document: Any = None, *, app: App | None = None) -> tuple[int, Any]:
    body = b"" if document is None else encode_canonical(document)
    status, shown = answer(app or App(), Head(method, path, len(body)), body)
    return status, shown


class TestCalls:
    def test_info(self) -> None:
        assert call("GET", "/v1/info") == (200, {"app_id": "0x" + "02" * 20})

    def test_key(self) -> None:
        status, key = call("POST", "/v1/key", {"path": "raw", "kind": "raw-256"})
        assert (status, set(key)) == (200, {"secret", "public", "kind", "epoch"})
        assert len(base64.b64decode(key["secret"])) == 32
        assert key["public"] is None

    def test_sign(self) -> None:
        data = base64.b64encode(b"data").decode()
        status, signed = call("POST", "/v1/sign", {"path": "web", "data": data})
        assert (status, signed["kind"], signed["receipt"]) == (200, "ed25519", RECEIPT)
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(signed["public"]))
        public.verify(base64.b64decode(signed["signature"]), SIGN_PREFIX + b"data")

    def test_a_quote_is_for_the_purpose_of_an_app_only(self) -> None:
        status, evidence = call("POST", "/v1/quote", {"report_data": "ab" * 64})
        assert status == 200
        assert evidence["quoted"] == quote_report_data("app", b"\xab" * 64).hex()
        assert evidence["quoted"] != "ab" * 64

    def test_how_the_keys_were_released(self) -> None:
        proof = {"receipt": RECEIPT, "evidence": {"type": "evidence"}}
        assert call("GET", "/v1/release") == (200, proof)

    def test_without_a_kms_there_is_no_release(self) -> None:
        app = App()
        app.proof = None
        status, shown = call("GET", "/v1/release", app=app)
        assert (status, shown["error"]["code"]) == (404, "no-release")

    @pytest.mark.parametrize("path", ["/v1/info", "/v1/release"])
    def test_a_get_has_no_body(self, path: str) -> None:
        assert call("GET", path, {})[0] == 400

    @pytest.mark.parametrize(
        ("path", "document"),
        [
            ("/v1/key", {"path": "raw", "kind": "aes-256"}),
            ("/v1/key", {"path": STORAGE_KEY.path, "kind": "raw-256"}),
            ("/v1/sign", {"path": "raw", "data": ""}),
            ("/v1/sign", {"path": "other", "data": ""}),
            ("/v1/other", {}),
            ("/v1/info", {}),
            ("/v1/release", {}),
        ],
    )
    def test_what_is_not_there(self, path: str, document: Any) -> None:
        status, shown = call("POST", path, document)
        assert status == 404
        assert set(shown["error"]) == {"code", "reason", "advice"}

    @pytest.mark.parametrize(
        ("path", "document"),
        [
            ("/v1/key", {"path": "raw"}),
            ("/v1/key", {"path": "raw", "kind": "raw-256", "epoch": 1}),
            ("/v1/key", {"path": "raw", "kind": "raw"}),
            ("/v1/key", {"path": "r" * 129, "kind": "raw-256"}),
            ("/v1/key", {"path": 1, "kind": "raw-256"}),
            ("/v1/key", []),
            ("/v1/sign", {"path": "web", "data": "YQ"}),
            ("/v1/sign", {"path": "web", "data": "YR=="}),
            ("/v1/sign", {"path": "web", "data": None}),
            ("/v1/quote", {"report_data": ""}),
            ("/v1/quote", {"report_data": "AB"}),
            ("/v1/quote", {"report_data": "a"}),
            ("/v1/quote", {"report_data": "ab" * 65}),
        ],
    )
    def test_malformed(self, path: str, document: Any) -> None:
        status, shown = call("POST", path, document)
        assert (status, set(shown["error"])) == (400, {"code", "reason", "advice"})

    @pytest.mark.parametrize("body", [b"", b"{", b'{"path":"raw","path":"raw","kind":"raw-256"}', b"\xff"])
    def test_no_json(self, body: bytes) -> None:
        assert answer(App(), Head("POST", "/v1/key", len(body)), body).status == 400

    @pytest.mark.parametrize(
        "failure",
        [RegisterLogError("broken", subject="log", advice="boot again"), OSError(5, "/secret/place")],
    )
    def test_a_failure_of_the_machine(self, failure: Exception) -> None:
        app = App()
        app.failure = failure
        status, shown = call("GET", "/v1/info", app=app)
        assert status == 500
        assert "/secret" not in json.dumps(shown)


class TestHead:
    def test_usual(self) -> None:
        data = b"POST /v1/key HTTP/1.1\r\nHost: x\r\nAccept: */*\r\ncontent-length:  12 "
        assert parse_head(data) == Head("POST", "/v1/key", 12)

    @pytest.mark.parametrize(
        "data",
        [
            b"", b"GET /", b"GET / HTTP/1.0", b"GET / HTTP/2", b"PUT / HTTP/1.1", b"GET  / HTTP/1.1",
            b"GET http://x/ HTTP/1.1", b"GET /?a HTTP/1.1", b"GET /%00 HTTP/1.1", b" GET / HTTP/1.1",
            b"GET / HTTP/1.1\nHost: x", b"GET / HTTP/1.1\r\n folded", b"GET / HTTP/1.1\r\nA : b",
            b"GET / HTTP/1.1\r\nContent-Length: -1", b"GET / HTTP/1.1\r\nContent-Length: 01",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1",
            b"GET / HTTP/1.1\r\nContent-Length: %d" % (MAX_BODY + 1),
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked", b"GET / HTTP/1.1\r\nA: \x00",
        ],
    )  # fmt: skip
    def test_anything_else_is_refused(self, data: bytes) -> None:
        with pytest.raises(HttpError):
            parse_head(data)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        try:
            head = parse_head(b"GET / HTTP/1.1\r\n" + data)
        except HttpError:
            return
        assert (head.method, head.path) == ("GET", "/")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def server(path: Path) -> Iterator[SocketServer]:
    with closing(SocketServer(path, App(), seconds=1)) as server:
        yield server


def send(path: Path, *parts: bytes, end: bool = False) -> bytes:
    """Send parts, then read to the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        for part in parts:
            connection.sendall(part)
            time.sleep(0.01)
        if end:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(1 << 16):
            received += data
        return received


@pytest.mark.usefixtures("server")
class TestServer:
    def test_a_library_s_client(self, path: Path) -> None:
        client = http.client.HTTPConnection("localhost")
        client.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.sock.connect(str(path))
        client.request("POST", "/v1/key", body=b'{"path": "raw", "kind": "raw-256"}')
        response = client.getresponse()
        assert response.status == 200
        assert response.getheader("Cache-Control") == "no-store"
        assert json.loads(response.read())["kind"] == "raw-256"
        client.close()

    def test_in_pieces(self, path: Path) -> None:
        sent = send(path, b"GET /v1/in", b"fo HTTP/1.1\r", b"\n\r", b"\n")
        assert sent.startswith(b"HTTP/1.1 200 OK\r\n")

    def test_everybody_with_the_socket_may_call(self, path: Path) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666

    @pytest.mark.parametrize(
        "data",
        [
            b"GET /v1/info HTTP/1.1\r\n\r\nmore",
            b"GET /v1/info HTTP/1.1\r\n\r\nGET /v1/info HTTP/1.1\r\n\r\n",
            b"POST /v1/key HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}",
            b"GET /v1/info HTTP/1.1\r\nA: " + b"x" * (MAX_HEAD + 1),
            b"\r\n\r\n",
        ],
    )
    def test_requests_that_are_none(self, path: Path, data: bytes) -> None:
        assert send(path, data, end=True).startswith(b"HTTP/1.1 400 ")

    def test_a_silent_caller_is_dropped(self, path: Path) -> None:
        began = time.monotonic()
        assert send(path, b"GET /v1/info") == b""
        assert 0.5 < time.monotonic() - began < 4

    def test_silent_callers_cost_others_only_time(self, path: Path) -> None:
        silent = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(CONNECTIONS)]
        try:
            for connection in silent:
                connection.connect(str(path))
            assert send(path, b"GET /v1/info HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        finally:
            for connection in silent:
                connection.close()


def test_a_closed_server_is_gone(path: Path) -> None:
    SocketServer(path, App()).close()
    with pytest.raises(ConnectionRefusedError):
        send(path, b"")


def test_a_place_that_is_taken_is_not_taken_over(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(OSError, match="in use"):
        SocketServer(path, App())
