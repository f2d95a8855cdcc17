"""Serves the agent's socket: a thread per connection, few at a time, each with a limit of bytes and time."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

from guest_agent.http_message import HEAD_END, MAX_HEAD, Head, http_error, parse_head
from guest_agent.socket_api import Services, answer, error_answer
from measurements.errors import FormatError

CONNECTION_SECONDS = 10.0
CONNECTIONS = 16
"""Connections that are served at once; further ones wait."""


class SocketServer:
    """The socket at ``path``, open to whoever has it in its file system; served until ``close``."""

    def __init__(self, path: Path, services: Services, *, seconds: float = CONNECTION_SECONDS) -> None:
        self._services = services
        self._seconds = seconds
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(path))
            os.chmod(path, 0o666)  # noqa: S103  # only containers with the socket in their mounts see it
            self._listener.listen(CONNECTIONS)
        except BaseException:
            self._listener.close()
            raise
        self._thread = threading.Thread(target=self._accept, name="socket", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        finally:
            self._listener.close()
            self._thread.join()

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._exchange(connection, time.monotonic() + self._seconds)
        except OSError:
            return  # the caller left, or took too long
        finally:
            self._slots.release()

    def _exchange(self, connection: socket.socket, deadline: float) -> None:
        try:
            head, body = _receive(connection, deadline)
        except FormatError as error:
            data = error_answer(400, error).encode()
        else:
            data = answer(self._services, head, body).encode()
        connection.settimeout(self._seconds)
        connection.sendall(data)


def _receive(connection: socket.socket, deadline: float) -> tuple[Head, bytes]:
    data = b""
    while HEAD_END not in data:
        if len(data) > MAX_HEAD:
            raise http_error(f"the head is larger than {MAX_HEAD} bytes")
        data += _some(connection, deadline)
    raw, _, body = data.partition(HEAD_END)
    head = parse_head(raw)
    while len(body) < head.length:
        body += _some(connection, deadline)
    if len(body) > head.length:
        raise http_error("bytes follow the request")
    return head, body


def _some(connection: socket.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    data = connection.recv(1 << 16)
    if not data:
        raise http_error("the request is cut off")
    return data
