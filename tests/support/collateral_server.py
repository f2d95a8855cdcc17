"""A web server on 127.0.0.1 that replays answers of Intel's PCS, a PCCS, AMD's KDS and NVIDIA's RIM service,
and everything that can go wrong with them.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

from attestation.collateral import DcapCollateral

SGX, TDX = "/sgx/certification/v4", "/tdx/certification/v4"
PCCS_ROOT_CRL = f"{SGX}/rootcacrl"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer. ``delay`` is in seconds before it; ``drip`` between single bytes of ``body``; ``head_drip``
    between single bytes of the head; ``cut`` bytes of the body are announced and never sent.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    drip: float = 0
    head_drip: float = 0
    cut: int = 0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request; names of headers in lower case."""

    target: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(kw_only=True)
class CollateralServer:
    """``replies`` holds for each target what comes next; the last one stays. Targets that are not there get
    404.
    """

    url: str
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, target: str, *replies: Reply) -> None:
        """Answer requests for ``target`` with these, one after another."""
        self.replies[target] = list(replies)

    def serve_all(self, replies: Mapping[str, Reply]) -> None:
        """Answer with each of these."""
        for target, reply in replies.items():
            self.serve(target, reply)

    def targets(self) -> list[str]:
        """What was asked for, in order."""
        return [one.target for one in self.asked]

    def next_reply(self, asked: Asked) -> Reply:
        """The reply to a request; 304 where the request names the reply's tag."""
        with self.lock:
            self.asked.append(asked)
            waiting = self.replies.get(asked.target, [Reply(status=404, body=b"nothing here")])
            reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        tag = reply.headers.get("ETag")
        if tag is not None and asked.headers.get("if-none-match") == tag:
            return Reply(status=304, headers={"ETag": tag})
        return reply


@contextmanager
def collateral_server(*, tls: ssl.SSLContext | None = None) -> Iterator[CollateralServer]:
    """A running server; it is gone after the ``with`` block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            _send(self, state.next_reply(Asked(target=self.path, headers=headers)))

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            _send(self, state.next_reply(Asked(target=self.path, headers=headers, body=body)))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    state = CollateralServer(url=f"{scheme}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    time.sleep(reply.delay)
    head = [f"HTTP/1.1 {reply.status} Reply", "Connection: close"]
    head += [f"{name}: {value}" for name, value in reply.headers.items()]
    if reply.status != 304:
        head.append(f"Content-Length: {len(reply.body) + reply.cut}")
    try:
        _drip(handler, "\r\n".join([*head, "", ""]).encode("latin-1"), reply.head_drip)
        _drip(handler, b"" if reply.status == 304 else reply.body, reply.drip)
    except OSError:
        pass
    handler.close_connection = True


def _drip(handler: BaseHTTPRequestHandler, data: bytes, pause: float) -> None:
    if not pause:
        handler.wfile.write(data)
        return
    for place in range(len(data)):
        handler.wfile.write(data[place : place + 1])
        handler.wfile.flush()
        time.sleep(pause)


def signed_reply(key: str, text: str, signature: bytes, header: str, chain: str) -> Reply:
    """Signed JSON as Intel's API sends it, with the chain in ``header`` and a tag."""
    body = f'{{"{key}":{text},"signature":"{signature.hex()}"}}'.encode()
    return Reply(
        body=body,
        headers={
            "Content-Type": "application/json",
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:8]}"',
            header: quote(chain),
        },
    )


def dcap_replies(
    one: DcapCollateral, *, tee: str, fmspc: str, ca: str, edition: str = "update=standard"
) -> dict[str, Reply]:
    """What Intel's PCS (and its host of certificates) and a PCCS answer for one set."""
    base = f"/{tee}/certification/v4"
    return {
        f"{base}/tcb?fmspc={fmspc.upper()}&{edition}": signed_reply(
            "tcbInfo",
            one.tcb_info,
            one.tcb_info_signature,
            "TCB-Info-Issuer-Chain",
            one.tcb_info_issuer_chain,
        ),
        f"{base}/qe/identity?{edition}": signed_reply(
            "enclaveIdentity",
            one.qe_identity,
            one.qe_identity_signature,
            "SGX-Enclave-Identity-Issuer-Chain",
            one.qe_identity_issuer_chain,
        ),
        f"{SGX}/pckcrl?ca={ca}&encoding=der": Reply(
            body=one.pck_crl,
            headers={
                "Content-Type": "application/pkix-crl",
                "SGX-PCK-CRL-Issuer-Chain": quote(one.pck_crl_issuer_chain),
            },
        ),
        "/IntelSGXRootCA.der": Reply(body=one.root_ca_crl),
        PCCS_ROOT_CRL: Reply(body=one.root_ca_crl.hex().encode(), headers={"Content-Type": "text/plain"}),
    }
