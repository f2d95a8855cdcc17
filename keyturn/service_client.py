"""Asks a service for its proof: one request, no redirects, no proxies, limited in time and size."""

from __future__ import annotations

import contextlib
import socket
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Timer
from urllib.parse import urlsplit

from kms.service_proof import LARGEST_PROOF, PATH, ServiceProof, parse_service_proof
from measurements.errors import KeyturnError

READ_SECONDS = 60
TOTAL_SECONDS = 180
"""A quote takes its time where the machine is emulated."""


class ServiceError(KeyturnError):
    """The service does not answer, or with an error."""

    code = "service"


def is_url(text: str) -> bool:
    """Whether ``text`` names a service and no file."""
    return text.startswith(("http://", "https://"))


def fetch_service_proof(url: str, *, nonce: bytes) -> ServiceProof:
    """What the service at ``url`` shows for ``nonce`` (32 bytes); nothing of it is verified.

    Raises ``ServiceError``, or ``FormatError`` for an answer that is no proof.
    """
    try:
        status, body = _get(url, f"{PATH}?nonce={nonce.hex()}")
    except (OSError, HTTPException, ValueError) as error:
        raise _error(url, f"gave no proof: {error or type(error).__name__}") from error
    if status != 200:
        raise _error(url, f"answered with status {status}")
    return parse_service_proof(body)


def _get(url: str, path: str) -> tuple[int, bytes]:
    """Status and body. The timeout is per read, so an answer byte by byte needs a limit of its own."""
    address = urlsplit(url)
    if not address.hostname or address.query or address.fragment:
        raise ValueError("the address has no host, or a query")
    kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
    connection, until = kind(address.hostname, address.port, timeout=READ_SECONDS), _clock() + TOTAL_SECONDS
    with contextlib.closing(connection):
        connection.connect()
        watchdog = Timer(max(0, until - _clock()), _cut, (connection.sock,))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("GET", address.path.rstrip("/") + path)
            answer = connection.getresponse()
            body = answer.read(LARGEST_PROOF + 1)
        finally:
            watchdog.cancel()
        if _clock() >= until:
            raise TimeoutError("the answer took too long")
        if len(body) > LARGEST_PROOF or answer.length:
            raise ValueError("the answer is too large, or cut off")
        return answer.status, body


def _cut(connected: socket.socket) -> None:
    """End both directions; whoever reads from it wakes up."""
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _clock() -> float:
    return time.monotonic()


def _error(url: str, reason: str) -> ServiceError:
    return ServiceError(
        reason,
        subject=url,
        advice=f"check the address, and that the service answers {PATH} (docs/formats.md)",
    )
