"""GETs of a verifier: whatever the other side does, an answer within the limits or an error in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kms.http_get import GetError, get

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes a server whose connections are handed to a function; the result is its URL."""
    with contextlib.ExitStack() as stack:

        def start(handle: Callable[[socket.socket], None]) -> str:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listening.accept()
                        with connection, contextlib.suppress(OSError):
                            handle(connection)

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(listening.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start


def answer_with(data: bytes, asked: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        request = connection.recv(1 << 16)
        if asked is not None:
            asked.append(request)
        connection.sendall(data)

    return handle


def drip(data: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for place in range(len(data)):
            connection.sendall(data[place : place + 1])
            time.sleep(0.05)

    return handle


def test_an_answer(serve: Serve) -> None:
    asked: list[bytes] = []
    assert get(serve(answer_with(OK, asked)) + "/base/", "/a?b=c", seconds=10, largest=4) == (200, b"body")
    assert asked[0].startswith(b"GET /base/a?b=c HTTP/1.1\r\n")


def test_attack_redirect_is_not_followed(serve: Serve) -> None:
    asked: list[bytes] = []
    moved = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
    assert get(serve(answer_with(moved, asked)), "/a", seconds=10, largest=4) == (302, b"")
    assert len(asked) == 1


def test_attack_more_than_was_asked_for(serve: Serve) -> None:
    with pytest.raises(GetError, match="larger than 3"):
        get(serve(answer_with(OK)), "/a", seconds=10, largest=3)
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000
    with pytest.raises(GetError, match="larger than 1000"):
        get(serve(answer_with(endless)), "/a", seconds=10, largest=1000)


@pytest.mark.parametrize("data", [OK[:-1] + b"y" * 200, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 60])
def test_attack_byte_by_byte(data: bytes, serve: Serve) -> None:
    url, began = serve(drip(data.replace(b"Length: 4", b"Length: 203"))), time.monotonic()
    with pytest.raises(GetError):
        get(url, "/a", seconds=0.5, largest=1000)
    assert time.monotonic() - began < 5


def test_attack_silence(serve: Serve) -> None:
    url, began = serve(lambda connection: time.sleep(3)), time.monotonic()
    with pytest.raises(GetError):
        get(url, "/a", seconds=0.5, largest=1000)
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("data", [b"", OK[:-1], b"nonsense\r\n\r\n"])
def test_answers_that_are_cut_off_or_none(data: bytes, serve: Serve) -> None:
    with pytest.raises(GetError):
        get(serve(answer_with(data)), "/a", seconds=10, largest=1000)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "service",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://",
        "http://127.0.0.1/?a=b",
        "https://[",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(GetError):
        get(url, "/a", seconds=10, largest=4)


def test_nobody_there() -> None:
    with pytest.raises(GetError):
        get("http://127.0.0.1:9", "/a", seconds=10, largest=4)
