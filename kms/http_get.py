"""One GET, for a verifier that trusts nobody: no redirects, no proxies, limited in time and size.

A timeout per read lets the other side hold the caller for as long as it sends a byte now and then, so the
whole answer has a deadline of its own.
"""

from __future__ import annotations

import contextlib
import socket
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Timer
from urllib.parse import urlsplit

READ_SECONDS = 60


class GetError(Exception):
    """No answer, or one beyond the limits; the text says why, for the error of whoever asked."""


def get(url: str, path: str, *, seconds: float, largest: int) -> tuple[int, bytes]:
    """Status and body of ``GET`` of ``path``, which begins with a slash and may have a query, below ``url``.

    Raises ``GetError`` for more than ``seconds`` in all or ``largest`` bytes, too.
    """
    try:
        return _get(url, path, seconds=seconds, largest=largest)
    except (OSError, HTTPException, ValueError) as error:
        raise GetError(str(error) or type(error).__name__) from error


def _get(url: str, path: str, *, seconds: float, largest: int) -> tuple[int, bytes]:
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
        raise ValueError("the address is not http:// or https:// with a host and without a query")
    kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
    until = time.monotonic() + seconds
    with contextlib.closing(
        kind(address.hostname, address.port, timeout=min(seconds, READ_SECONDS))
    ) as asked:
        asked.connect()
        watchdog = Timer(max(0, until - time.monotonic()), _cut, (asked.sock,))
        watchdog.daemon = True
        watchdog.start()
        try:
            asked.request("GET", address.path.rstrip("/") + path)
            answer = asked.getresponse()
            body = answer.read(largest + 1)
        finally:
            watchdog.cancel()
        if time.monotonic() >= until:
            raise TimeoutError("the answer took too long")
        if len(body) > largest:
            raise ValueError(f"the answer is larger than {largest} bytes")
        if answer.length:
            raise ValueError("the answer is cut off")
        return answer.status, body


def _cut(connected: socket.socket) -> None:
    """End both directions; whoever reads from it wakes up."""
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
