"""The host between guest and KMS: passes everything on, keeps what it saw, and can send it again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from keyturn.demo.guest import GATEWAY, GivenUp
from keyturn.demo.runner import DemoError

CALL_SECONDS = 120
LARGEST_BODY = 16 << 20
KEYS_PATH = "/v1/keys"


class Relay:
    """Where a guest of the demo finds its KMS; ``recorded`` holds its requests for keys.

    While it is not ``open``, it answers as if the KMS were out of service, and the guest asks again.
    """

    def __init__(self, kms_url: str, *, is_open: threading.Event | None = None) -> None:
        self.kms_url = kms_url
        self.recorded: list[bytes] = []
        self._open = is_open
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                relay.pass_on(self)

            do_GET = do_POST  # noqa: N815 - the server's name for it

            def log_message(self, *arguments: object) -> None:
                """Nothing: the story is told elsewhere."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def guest_url(self) -> str:
        """The relay behind a guest's gateway."""
        return f"http://{GATEWAY}:{self._server.server_address[1]}"

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        """One request, to the KMS and back."""
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(min(length, LARGEST_BODY))
        if handler.command == "POST" and handler.path == KEYS_PATH:
            self.recorded.append(body)
        if self._open is not None and not self._open.is_set():
            status, answer = 503, b"{}"
        else:
            status, answer = self._ask(handler.command, handler.path, body)
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def replay(self) -> GivenUp:
        """Send the first request for keys again; the KMS's refusal. Raises ``DemoError`` if there is none."""
        if not self.recorded:
            raise DemoError("has seen no request for keys", subject="relay", advice="boot the app first")
        response = requests.post(
            f"{self.kms_url}{KEYS_PATH}",
            data=self.recorded[0],
            headers={"Content-Type": "application/json"},
            timeout=CALL_SECONDS,
        )
        document: dict[str, Any] = response.json()
        if response.status_code != 403:
            raise DemoError(
                f"was answered with status {response.status_code}",
                subject="replayed evidence",
                advice="look at the KMS's log",
            )
        error = document["error"]
        return GivenUp(by="KMS", code=error["code"], reason=error["reason"])

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            response = requests.request(
                method,
                f"{self.kms_url}{path}",
                data=body or None,
                headers={"Content-Type": "application/json"} if body else None,
                timeout=CALL_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException:
            return 502, b"{}"
        return response.status_code, response.content

    @contextmanager
    def serving(self) -> Iterator[Relay]:
        """Serve on loopback for the time of a ``with`` block."""
        thread = threading.Thread(target=self._server.serve_forever, name="relay", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
