"""Answers every GET with a signed greeting, counts its visits on the encrypted disk, and proves what it is.

``GET /?nonce=TEXT`` → ``{"payload": base64 of {"greeting", "nonce", "visits"}, "signature", "public", "kind",
"receipt"}``: the payload is signed by the agent with the app's key ``hello/signing``.

``GET /.well-known/keyturn?nonce=HEX`` (32 bytes) → what ``keyturn verify URL`` checks: "Service proof" in
docs/formats.md.
"""

import base64
import hashlib
import http.client
import json
import os
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

AGENT = os.environ.get("KEYTURN_SOCKET", "/run/keyturn.sock")
COUNTER = os.environ.get("HELLO_COUNTER", "/data/visits")
PORT = int(os.environ.get("HELLO_PORT", "8080"))
KEY = "hello/signing"
LONGEST_NONCE = 128
PROOF = "/.well-known/keyturn"
PROOF_TYPE = "keyturn-service/1"
PROOF_NONCE_SIZE = 32


class Agent(http.client.HTTPConnection):
    """The guest agent, over its socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(AGENT)


def ask(method: str, path: str, document: object = None) -> dict[str, object]:
    """The agent's answer to one call."""
    agent = Agent("agent", timeout=60)
    body = None if document is None else json.dumps(document)
    agent.request(method, path, body, {} if body is None else {"Content-Type": "application/json"})
    answer = agent.getresponse()
    shown: dict[str, object] = json.loads(answer.read())
    agent.close()
    if answer.status != 200:
        raise RuntimeError(f"the agent answers {answer.status}: {shown}")
    return shown


def sign(payload: bytes) -> dict[str, object]:
    """The agent's signature over ``payload``."""
    return ask("POST", "/v1/sign", {"path": KEY, "data": base64.b64encode(payload).decode()})


def canonical(document: object) -> bytes:
    """The one form of ``document`` that is hashed and signed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def prove(nonce: bytes) -> dict[str, object]:
    """That the key which signs here was released to this machine, which runs now."""
    prefix = PROOF_TYPE.encode() + b"\0" + nonce
    signed = sign(prefix)
    key = {"path": KEY, "kind": signed["kind"], "public": signed["public"], "signature": signed["signature"]}
    bound = hashlib.sha512(prefix + hashlib.sha256(canonical(key)).digest())
    quote = ask("POST", "/v1/quote", {"report_data": bound.hexdigest()})
    proof = {"type": PROOF_TYPE, "nonce": nonce.hex(), "key": key, "quote": quote}
    return {**proof, **ask("GET", "/v1/release")}


def greet(nonce: str) -> dict[str, object]:
    """One visit."""
    said = {"greeting": os.environ.get("GREETING", "hello"), "nonce": nonce, "visits": count()}
    payload = canonical(said)
    return {"payload": base64.b64encode(payload).decode(), **sign(payload)}


def count() -> int:
    """One more visit, on the disk before it is told."""
    try:
        with open(COUNTER) as stream:
            visits = int(stream.read()) + 1
    except FileNotFoundError:
        visits = 1
    with open(f"{COUNTER}.new", "w") as stream:
        stream.write(str(visits))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(f"{COUNTER}.new", COUNTER)
    return visits


def parse_nonce(text: str) -> bytes | None:
    """32 bytes in hex, or nothing."""
    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        return None
    return nonce if len(nonce) == PROOF_NONCE_SIZE else None


class Hello(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        text = parse_qs(asked.query).get("nonce", [""])[0][:LONGEST_NONCE]
        if asked.path != PROOF:
            self.answer(200, greet(text))
        elif (nonce := parse_nonce(text)) is None:
            self.answer(400, {"error": f"nonce is not {PROOF_NONCE_SIZE} bytes in hex"})
        else:
            self.answer(200, prove(nonce))

    def answer(self, status: int, document: object) -> None:
        """Send a JSON document."""
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    HTTPServer(("", PORT), Hello).serve_forever()
