"""The part of HTTP/1.1 (RFC 9112) that the agent's socket speaks: one request and one answer per connection.

A request is ``METHOD SP path SP HTTP/1.1``, header lines, an empty line, and a body exactly as long as
``Content-Length`` says. Chunked bodies, folded headers, bare line feeds and a second ``Content-Length`` are
refused: there is one way to read every request. Pure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from measurements.errors import FormatError

MAX_HEAD = 8192
MAX_BODY = 1 << 20
HEAD_END = b"\r\n\r\n"
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}
_REQUEST_LINE = re.compile(rb"(GET|POST) (/[A-Za-z0-9/_.-]{0,255}) HTTP/1\.1")
_HEADER = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([\x20-\x7e\t]*)")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,9}")


class HttpError(FormatError):
    """A request that is not one."""

    code = "http"


class Head(NamedTuple):
    """Everything before the body."""

    method: str
    path: str
    length: int


def parse_head(data: bytes) -> Head:
    """The head from its bytes, without the empty line that ends it. Raises ``HttpError``."""
    first, *lines = data.split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise http_error("the first line is not GET or POST, a plain path and HTTP/1.1")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise http_error("a header line is not well formed")
        name = header[1].lower()
        if name in headers and name in (b"content-length", b"host"):
            raise http_error("a header comes twice")
        headers[name] = header[2].rstrip()
    if b"transfer-encoding" in headers:
        raise http_error("bodies in chunks are not taken")
    return Head(request[1].decode("ascii"), request[2].decode("ascii"), _length(headers))


def _length(headers: dict[bytes, bytes]) -> int:
    text = headers.get(b"content-length", b"0")
    if not _LENGTH.fullmatch(text) or int(text) > MAX_BODY:
        raise http_error(f"Content-Length is not a number up to {MAX_BODY}")
    return int(text)


def encode_answer(status: int, body: bytes) -> bytes:
    """A whole answer with a JSON body; the connection ends after it."""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def http_error(reason: str) -> HttpError:
    """The error for a request that is not one."""
    return HttpError(reason, subject="request", advice="send one plain HTTP/1.1 request per connection")
