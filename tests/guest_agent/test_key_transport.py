"""Several addresses, back-off, one deadline; and HTTP against servers that misbehave."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from guest_agent.key_client import RefusedByKmsError
from guest_agent.key_transport import (
    MAX_ANSWER,
    Answer,
    HttpKms,
    Kms,
    NoKmsError,
    TransportError,
    fetch_identity,
    try_each,
)
from guest_agent.kms_receipt import KmsIdentityError, Pin
from guest_agent.register_log import RegisterLogError


class Clock:
    """Time that passes only in ``sleep``."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Named:
    """A KMS that is nothing but its address."""

    def __init__(self, url: str, *, deadline: float) -> None:
        self.url = url

    def call(self, method: str, path: str, body: bytes | None) -> Answer:
        raise AssertionError


def run(urls: list[str], outcomes: dict[str, list[Exception]], *, seconds: float = 60) -> tuple[str, Clock]:
    """Each address fails as listed, then succeeds; what succeeded, and the clock."""
    clock = Clock()

    def attempt(kms: Kms) -> str:
        assert isinstance(kms, Named)
        if outcomes.get(kms.url):
            raise outcomes[kms.url].pop(0)
        return kms.url

    found = try_each(urls, attempt, deadline_seconds=seconds, clock=clock, sleep=clock.sleep, connect=Named)
    return found, clock


def gone() -> TransportError:
    return TransportError("connection refused", subject="a", advice="")


def another() -> KmsIdentityError:
    return KmsIdentityError("another KMS", subject="KMS", advice="")


class TestTurns:
    def test_the_first_that_answers(self) -> None:
        assert run(["a", "b"], {})[0] == "a"

    def test_the_next_one_without_a_pause(self) -> None:
        found, clock = run(["a", "b"], {"a": [gone()]})
        assert (found, clock.pauses) == ("b", [])

    def test_pauses_grow_up_to_a_limit(self) -> None:
        found, clock = run(["a"], {"a": [gone() for _ in range(7)]})
        assert (found, clock.pauses) == ("a", [0.5, 1, 2, 4, 8, 8, 8])

    def test_the_deadline_ends_it(self) -> None:
        with pytest.raises(NoKmsError, match="a: connection refused"):
            run(["a"], {"a": [gone() for _ in range(100)]})

    def test_another_kms_is_not_asked_twice(self) -> None:
        assert run(["a", "b"], {"a": [another()], "b": [gone()]})[0] == "b"

    def test_only_other_kms_end_at_once(self) -> None:
        with pytest.raises(NoKmsError, match="a: another KMS; b: another KMS"):
            run(["a", "b"], {"a": [another()], "b": [another()]}, seconds=1e9)

    def test_no_address(self) -> None:
        with pytest.raises(NoKmsError, match="no address is configured"):
            run([], {})

    def test_a_final_refusal_ends_it(self) -> None:
        with pytest.raises(RefusedByKmsError, match="app-hash"):
            run(["a", "b"], {"a": [RefusedByKmsError("app-hash", "not allowed", advice="")]})

    def test_a_passing_refusal_does_not(self) -> None:
        assert run(["a", "b"], {"a": [RefusedByKmsError("stale-head", "late", advice="")]})[0] == "b"

    def test_the_machine_s_own_failure_ends_it(self) -> None:
        failure = RegisterLogError("the register is not what the log says", subject="log", advice="")
        with pytest.raises(RegisterLogError):
            run(["a", "b"], {"a": [failure]})

    def test_the_line_for_the_console_is_one(self) -> None:
        error = TransportError("a\nb", subject="a", advice="")
        with pytest.raises(NoKmsError) as caught:
            run(["a"], {"a": [error, gone()]}, seconds=0.1)
        assert "keyturn" not in str(caught.value)
        assert str(caught.value).startswith("no KMS released the keys: a: ")


class Serve:
    """Servers on loopback that hand their one connection to a function."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.threads: list[threading.Thread] = []
        self.requests: list[bytes] = []

    def __call__(self, answer: Callable[[socket.socket], None]) -> str:
        """Starts one; its URL."""
        thread = threading.Thread(target=self._run, args=(answer,))
        thread.start()
        self.threads.append(thread)
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _run(self, answer: Callable[[socket.socket], None]) -> None:
        connection, _ = self._listener.accept()
        with closing(connection):
            self.requests.append(connection.recv(1 << 16))
            try:
                answer(connection)
            except OSError:
                return


@pytest.fixture
def serve() -> Iterator[Serve]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        servers = Serve(listener)
        yield servers
        for thread in servers.threads:
            thread.join(10)
            assert not thread.is_alive()


def get(url: str, *, seconds: float = 5) -> Answer:
    return HttpKms(url, deadline=time.monotonic() + seconds).call("GET", "/v1/public-key", None)


def sending(data: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(data)


class TestHttp:
    def test_status_and_body(self, serve: Serve) -> None:
        answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}"
        assert get(serve(sending(answer))) == Answer(403, b"{}")

    def test_the_path_of_the_address_comes_first(self, serve: Serve) -> None:
        ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        url = serve(sending(ok))
        kms = HttpKms(url + "/kms/", deadline=time.monotonic() + 5)
        assert kms.call("POST", "/v1/keys", b"{}").status == 200
        assert serve.requests[0].startswith(b"POST /kms/v1/keys HTTP/1.1\r\n")
        assert b"\r\nContent-Length: 2\r\n" in serve.requests[0]

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "closed connection"),
            (b"garbage\r\n\r\n", "garbage"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", "cut off|IncompleteRead"),
            (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MAX_ANSWER + 1), "larger than"),
        ],
    )
    def test_answers_that_are_none(self, serve: Serve, data: bytes, reason: str) -> None:
        with pytest.raises(TransportError, match=reason):
            get(serve(sending(data)))

    def test_a_redirect_is_not_followed(self, serve: Serve) -> None:
        data = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
        url = serve(sending(data))
        with pytest.raises(TransportError, match="status 302"):
            fetch_identity(HttpKms(url, deadline=time.monotonic() + 5), Pin(bytes(32), 1, bytes(20)))

    def test_an_error_that_nobody_signed_is_shown_but_not_believed(self, serve: Serve) -> None:
        body = b'{"error": {"code": "busy", "reason": "too\\nmany", "advice": ""}}'
        data = b"HTTP/1.1 429 Busy\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        url = serve(sending(data))
        with pytest.raises(TransportError, match=r"status 429 \(busy: too\?many\)"):
            fetch_identity(HttpKms(url, deadline=time.monotonic() + 5), Pin(bytes(32), 1, bytes(20)))

    @pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"])
    def test_a_server_that_drips_is_cut_off_at_the_deadline(self, serve: Serve, start: bytes) -> None:
        def drip(connection: socket.socket) -> None:
            connection.sendall(start)
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.05)

        began = time.monotonic()
        url = serve(drip)
        with pytest.raises(TransportError):
            get(url, seconds=0.5)
        assert time.monotonic() - began < 3

    def test_nobody_listens(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(TransportError, match="refused"):
            get(f"http://127.0.0.1:{port}")

    def test_no_time_is_left(self) -> None:
        with pytest.raises(TransportError, match="no time"):
            get("http://127.0.0.1:1", seconds=-1)


def test_preload_loads_what_a_call_would_load() -> None:
    program = (
        "import sys; from guest_agent.key_transport import preload; "
        "before = 'http.client' in sys.modules; preload(); print(before, 'http.client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
