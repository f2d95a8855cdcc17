"""Answers every GET with a signed greeting and counts its visits on the encrypted disk.

``GET /?nonce=TEXT`` → ``{"payload": base64 of {"greeting", "nonce", "visits"}, "signature", "public", "kind",
"receipt"}``: the payload is signed by the agent with the app's key ``hello/signing``.
"""

import base64
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


class Agent(http.client.HTTPConnection):
    """The guest agent, over its socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(AGENT)


def sign(payload: bytes) -> dict[str, object]:
    """The agent's signature over ``payload``."""
    agent = Agent("agent", timeout=60)
    body = json.dumps({"path": KEY, "data": base64.b64encode(payload).decode()})
    agent.request("POST", "/v1/sign", body, {"Content-Type": "application/json"})
    answer = agent.getresponse()
    document: dict[str, object] = json.loads(answer.read())
    agent.close()
    if answer.status != 200:
        raise RuntimeError(f"the agent answers {answer.status}: {document}")
    return document


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


class Hello(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        nonce = parse_qs(urlsplit(self.path).query).get("nonce", [""])[0][:LONGEST_NONCE]
        greeting = os.environ.get("GREETING", "hello")
        said = {"greeting": greeting, "nonce": nonce, "visits": count()}
        payload = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        body = json.dumps({"payload": base64.b64encode(payload).decode(), **sign(payload)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    HTTPServer(("", PORT), Hello).serve_forever()
