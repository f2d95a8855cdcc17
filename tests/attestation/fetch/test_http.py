"""One file over HTTP: limits, retries, pauses, and servers that do wrong. Pauses are not waited for."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestation.fetch.errors import FetchError
from attestation.fetch.http import ATTEMPTS, HttpClient
from tests.support.collateral_server import CollateralServer, Reply, collateral_server

WALL = 1_781_000_000.0


@dataclass
class Pauses:
    """Takes the pauses instead of sleeping; they count as time that has passed."""

    taken: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)

    def monotonic(self) -> float:
        return time.monotonic() + sum(self.taken)


def client(pauses: Pauses | None = None, *, timeout: float = 30, attempts: int = ATTEMPTS) -> HttpClient:
    pauses = pauses or Pauses()
    return HttpClient(
        timeout=timeout,
        attempts=attempts,
        sleep=pauses.sleep,
        monotonic=pauses.monotonic,
        wall=lambda: WALL,
        chance=lambda: 0.0,
    )


def refused(server: CollateralServer, asking: HttpClient, *, limit: int = 1000) -> FetchError:
    with pytest.raises(FetchError) as found:
        asking.get(f"{server.url}/file", limit=limit)
    assert found.value.subject == f"{server.url}/file"
    assert found.value.advice
    return found.value


def test_an_answer_with_its_headers(server: CollateralServer) -> None:
    server.serve("/file?x=1", Reply(body=b"content", headers={"ETag": '"a"', "X-Chain": "%0A"}))
    answer = client().get(f"{server.url}/file?x=1", limit=7, headers={"If-None-Match": '"b"'})
    assert (answer.status, answer.body) == (200, b"content")
    assert (answer.headers["etag"], answer.headers["x-chain"]) == ('"a"', "%0A")
    (asked,) = server.asked
    assert asked.target == "/file?x=1"
    assert asked.headers["if-none-match"] == '"b"'
    assert asked.headers["accept-encoding"] == "identity"
    assert "authorization" not in asked.headers


def test_an_answer_that_nothing_changed(server: CollateralServer) -> None:
    server.serve("/file", Reply(body=b"content", headers={"ETag": '"a"'}))
    answer = client().get(f"{server.url}/file", limit=7, headers={"If-None-Match": '"a"'})
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_trouble_is_tried_again(server: CollateralServer, status: int) -> None:
    server.serve("/file", Reply(status=status), Reply(status=status), Reply(body=b"content"))
    pauses = Pauses()
    assert client(pauses).get(f"{server.url}/file", limit=10).body == b"content"
    assert pauses.taken == ([5.0, 10.0] if status == 429 else [0.5, 1.0])
    assert len(server.asked) == 3


def test_lasting_trouble_ends(server: CollateralServer) -> None:
    server.serve("/file", Reply(status=503))
    pauses = Pauses()
    error = refused(server, client(pauses))
    assert "503" in error.reason
    assert "asked 4 times" in error.reason
    assert error.status == 503
    assert pauses.taken == [0.5, 1.0, 2.0]


def test_a_random_part_of_each_pause_is_left_out(server: CollateralServer) -> None:
    server.serve("/file", Reply(status=500), Reply(body=b""))
    taken: list[float] = []
    HttpClient(sleep=taken.append, chance=lambda: 0.5).get(f"{server.url}/file", limit=1)
    assert taken == [0.375]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_refusal_is_not_tried_again(server: CollateralServer, status: int) -> None:
    server.serve("/file", Reply(status=status))
    error = refused(server, client())
    assert error.status == status
    assert str(status) in error.reason
    assert len(server.asked) == 1
    assert ("nothing for this platform" in error.advice) == (status in (404, 410))


def test_the_server_says_when_to_come_back(server: CollateralServer) -> None:
    later = formatdate(WALL + 7, usegmt=True)
    server.serve(
        "/file",
        Reply(status=429, headers={"Retry-After": "3"}),
        Reply(status=503, headers={"Retry-After": later}),
        Reply(status=503, headers={"Retry-After": formatdate(WALL - 7, usegmt=True)}),
        Reply(body=b"content"),
    )
    pauses = Pauses()
    assert client(pauses).get(f"{server.url}/file", limit=10).body == b"content"
    assert pauses.taken == [3.0, 7.0, 0.0]


@pytest.mark.parametrize("text", ["soon", "-1", "1e9", "", "Mon, 99 Xxx 2026 00:00:00 GMT", "9" * 30, "٣"])
def test_a_senseless_time_to_come_back_is_passed_over(server: CollateralServer, text: str) -> None:
    headers = {"Retry-After": text.encode("utf-8").decode("latin-1")}
    server.serve("/file", Reply(status=429, headers=headers), Reply(body=b"content"))
    pauses = Pauses()
    assert client(pauses).get(f"{server.url}/file", limit=10).body == b"content"
    assert pauses.taken == [5.0]


def test_waiting_longer_than_the_timeout_is_not_begun(server: CollateralServer) -> None:
    server.serve("/file", Reply(status=429, headers={"Retry-After": "600"}))
    pauses = Pauses()
    error = refused(server, client(pauses))
    assert "asks to wait 600 s" in error.reason
    assert "--timeout" in error.advice
    assert pauses.taken == []
    assert len(server.asked) == 1


def test_pauses_count_against_the_timeout(server: CollateralServer) -> None:
    server.serve("/file", Reply(status=503, headers={"Retry-After": "6"}))
    pauses = Pauses()
    refused(server, client(pauses, timeout=10))
    assert pauses.taken == [6.0]


def test_an_answer_that_does_not_come(server: CollateralServer) -> None:
    server.serve("/file", Reply(body=b"x", delay=2))
    started = time.monotonic()
    error = refused(server, client(timeout=0.3))
    assert "in time" in error.reason or "within 0.3 s" in error.reason
    assert time.monotonic() - started < 1.5


def test_a_body_that_drips_is_cut_off(server: CollateralServer) -> None:
    server.serve("/file", Reply(body=bytes(1000), drip=0.05))
    started = time.monotonic()
    error = refused(server, client(timeout=0.3))
    assert "not answered completely within 0.3 s" in error.reason
    assert time.monotonic() - started < 1.5


def test_a_head_that_drips_is_cut_off(server: CollateralServer) -> None:
    server.serve("/file", Reply(head_drip=0.05))
    started = time.monotonic()
    error = refused(server, client(timeout=0.3))
    assert "not answered completely within 0.3 s" in error.reason
    assert time.monotonic() - started < 1.5


def test_a_body_that_breaks_off_is_tried_again(server: CollateralServer) -> None:
    server.serve("/file", Reply(body=b"con", cut=4), Reply(body=b"content"))
    assert client().get(f"{server.url}/file", limit=10).body == b"content"


def test_a_body_that_always_breaks_off(server: CollateralServer) -> None:
    server.serve("/file", Reply(body=b"con", cut=4))
    assert "broke off" in refused(server, client()).reason


@pytest.mark.parametrize("announced", [True, False])
def test_too_large_a_body_is_not_read(server: CollateralServer, announced: bool) -> None:
    server.serve("/file", Reply(body=bytes(2000), cut=10**9 if announced else 0))
    error = refused(server, client(), limit=1000)
    assert "more than 1000 bytes" in error.reason
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["http://127.0.0.1:9/elsewhere", "/elsewhere", "//other.example/"])
def test_a_redirect_is_never_followed(server: CollateralServer, status: int, to: str) -> None:
    server.serve("/file", Reply(status=status, headers={"Location": to}))
    server.serve("/elsewhere", Reply(body=b"taken"))
    error = refused(server, client())
    assert to in error.reason
    assert "--pccs" in error.advice
    assert server.targets() == ["/file"]


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
    pauses = Pauses()
    with pytest.raises(FetchError, match="cannot be reached") as found:
        client(pauses).get(url, limit=1)
    assert found.value.subject == url
    assert len(pauses.taken) == ATTEMPTS - 1


def test_a_server_without_a_certificate() -> None:
    """TLS to a server that speaks none is not tried over plain HTTP."""
    with collateral_server() as server, pytest.raises(FetchError) as found:
        client(attempts=1).get(server.url.replace("http://", "https://"), limit=1)
    assert server.asked == []
    assert found.value.advice


def server_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """TLS for 127.0.0.1, and the file with the certificate, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a PCCS of one's own")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    files = (folder / "key.pem", folder / "certificate.pem")
    files[0].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files[1].write_bytes(certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    return context, files[1]


def test_a_certificate_of_ones_own_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    context, authority = server_certificate(tmp_path)
    with collateral_server(tls=context) as server:
        server.serve("/file", Reply(body=b"content"))
        pauses = Pauses()
        error = refused(server, client(pauses))
        assert "certificate is not accepted" in error.reason
        assert "REQUESTS_CA_BUNDLE" in error.advice
        assert (server.asked, pauses.taken) == ([], [])
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        assert client().get(f"{server.url}/file", limit=10).body == b"content"


def test_a_question_is_posted(server: CollateralServer) -> None:
    server.serve("/", Reply(status=503), Reply(body=b"answer"))
    found = client().get(f"{server.url}/", limit=10, headers={"Content-Type": "x/y"}, question=b"question")
    assert found.body == b"answer"
    assert [one.body for one in server.asked] == [b"question"] * 2
    assert server.asked[1].headers["content-type"] == "x/y"


def test_credentials_and_proxies_of_the_environment_are_not_used_here(
    server: CollateralServer, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.serve("/file", Reply(body=b"content"))
    assert client().get(f"{server.url}/file", limit=10).body == b"content"
    assert "authorization" not in server.asked[0].headers
