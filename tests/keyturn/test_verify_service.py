"""``keyturn verify http://…`` as a user calls it: a service, its KMS and a node, each over HTTP."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn

from keyturn import service_client
from kms.anchors import Anchor
from kms.bundle import Bundle, parse_batch, parse_bundle
from kms.service import create_app
from tests.keyturn.test_verb_verify import Rpc, Shell, trusted
from tests.kms.bundles import make_bundle
from tests.kms.fake_chain import NOW
from tests.kms.guests import BOOTED, Guest, World
from tests.kms.nodes import make_node
from tests.kms.receipts import PIN
from tests.kms.services import make_fresh, service_proof
from tests.support.reference_documents import reference_document

Answer = Callable[[bytes], tuple[int, dict[str, str], bytes]]


class Surroundings:
    """A release, its KMS and a node; ``answer`` is what the service says to a nonce."""

    def __init__(self, world: World, guest: Guest, bundle: Bundle) -> None:
        self.world, self.guest, self.bundle = world, guest, bundle
        self.kms_url = self.rpc_url = self.url = ""
        self.asked: list[str] = []
        self.answer: Answer = self.honest
        self.drip = False

    def honest(self, nonce: bytes, **changes: Any) -> tuple[int, dict[str, str], bytes]:
        proof = service_proof(make_fresh(self.world, self.guest, nonce=nonce, **changes), self.bundle)
        return 200, {}, json.dumps(proof).encode()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    world = World(tmp_path_factory.mktemp("kms"))
    guest = world.guest()
    around = Surroundings(world, guest, make_bundle(world, guest))
    handler = type("Node", (Rpc,), {"chain": world.chain, "asked_id": PIN.chain_id, "ahead": 1})
    service = type("Service", (Service,), {"around": around})
    with kms_of(world) as around.kms_url, server(handler) as around.rpc_url, server(service) as around.url:
        yield around
    world.kms.journal.close()


@pytest.fixture
def around(running: Surroundings) -> Surroundings:
    running.answer, running.drip = running.honest, False
    running.asked.clear()
    return running


class Service(http.server.BaseHTTPRequestHandler):
    """The service."""

    around: Surroundings

    def do_GET(self) -> None:
        self.around.asked.append(self.path)
        nonce = bytes.fromhex(parse_qs(urlsplit(self.path).query)["nonce"][0])
        status, headers, body = self.around.answer(nonce)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.around.drip:
            self.trickle(body)
        else:
            self.wfile.write(body)

    def trickle(self, body: bytes) -> None:
        with contextlib.suppress(OSError):
            for place in range(len(body)):
                self.wfile.write(body[place : place + 1])
                time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Quiet."""


@contextlib.contextmanager
def server(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


@contextlib.contextmanager
def kms_of(world: World) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        running = uvicorn.Server(uvicorn.Config(create_app(world.kms), log_level="error"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        running.should_exit = True
        thread.join()


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr("keyturn.verb_verify._now", lambda: NOW)
    return Shell(capsys, tmp_path)


def words(shell: Shell, around: Surroundings, **changes: str) -> list[str]:
    options = {
        "--kms": around.kms_url,
        "--rpc": around.rpc_url,
        "--reference": shell.file("reference.json", reference_document(BOOTED[0])),
        **changes,
    }
    given = [word for option in options.items() for word in option]
    return [around.url, *given, *trusted(shell, around.bundle)]


def test_a_service_verifies_from_its_address(shell: Shell, around: Surroundings) -> None:
    kept = shell.folder / "bundle.json"
    assert shell.failures(*words(shell, around), "--write-bundle", str(kept)) == (0, [])
    (asked,) = around.asked
    assert asked.startswith("/.well-known/keyturn?nonce=")
    bundle = parse_bundle(kept.read_bytes())
    assert bundle.service["nonce"] == asked.partition("=")[2]
    offline = ["--bundle", str(kept), *trusted(shell, around.bundle)]
    assert shell.failures(*offline) == (0, [])
    assert shell.failures(*offline, "--nonce", bundle.service["nonce"]) == (0, [])
    assert shell.failures(*offline, "--nonce", "01" * 32) == (1, ["service-nonce"])
    status, out = shell.run(*offline)
    assert status == 0
    assert "the word of whoever kept it" in out
    node = shell.file("node.json", make_node())
    assert shell.failures(*offline, "--kms-node", node) == (1, ["kms-app-hash"])


def test_every_call_has_its_own_nonce(shell: Shell, around: Surroundings) -> None:
    for _ in range(2):
        assert shell.failures(*words(shell, around))[0] == 0
    assert len(set(around.asked)) == 2


def test_attack_service_that_replays_an_old_proof(shell: Shell, around: Surroundings) -> None:
    old = around.honest(b"\x01" * 32)
    around.answer = lambda nonce: old
    assert shell.failures(*words(shell, around)) == (1, ["service-nonce"])


def test_attack_service_that_replays_an_old_quote(shell: Shell, around: Surroundings) -> None:
    around.answer = lambda nonce: around.honest(nonce, quoted=b"\x01" * 32)
    assert shell.failures(*words(shell, around)) == (1, ["fresh-report-data"])


def test_attack_service_without_the_key(shell: Shell, around: Surroundings) -> None:
    around.answer = lambda nonce: around.honest(nonce, signed=b"\x01" * 32)
    assert shell.failures(*words(shell, around)) == (1, ["service-signature"])


def test_attack_service_whose_keys_another_instance_got(shell: Shell, around: Surroundings) -> None:
    other = around.world.guest(instance_id=b"\x99" * 16)
    bundle = make_bundle(around.world, other)

    def answer(nonce: bytes) -> tuple[int, dict[str, str], bytes]:
        proof = service_proof(make_fresh(around.world, around.guest, nonce=nonce), bundle)
        return 200, {}, json.dumps(proof).encode()

    around.answer = answer
    assert shell.failures(*words(shell, around)) == (1, ["same-instance"])
    around.world.chain.anchor(anchor_of(around.bundle))


def anchor_of(bundle: Bundle) -> Anchor:
    return parse_batch(bundle.batch).anchor


def test_attack_service_that_redirects(shell: Shell, around: Surroundings) -> None:
    around.answer = lambda nonce: (302, {"Location": f"{around.url}/other?nonce={nonce.hex()}"}, b"")
    assert shell.failures(*words(shell, around)) == (2, ["service"])
    assert len(around.asked) == 1


def test_attack_service_that_never_ends(
    shell: Shell, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_client, "LARGEST_PROOF", 1000)
    assert shell.failures(*words(shell, around)) == (2, ["service"])


def test_attack_service_that_answers_byte_by_byte(
    shell: Shell, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_client, "TOTAL_SECONDS", 1)
    around.drip = True
    began = time.monotonic()
    assert shell.failures(*words(shell, around)) == (2, ["service"])
    assert time.monotonic() - began < 10


def test_an_answer_that_is_cut_off(shell: Shell, around: Surroundings) -> None:
    whole = around.honest
    around.answer = lambda nonce: (200, {"Content-Length": "9000000"}, whole(nonce)[2])
    assert shell.failures(*words(shell, around)) == (2, ["service"])


@pytest.mark.parametrize(
    "url", ["http://", "http://127.0.0.1:1/?a=b", "http://127.0.0.1:99999/", "https://["]
)
def test_an_address_that_is_none(url: str, shell: Shell, around: Surroundings) -> None:
    assert shell.failures(url, *words(shell, around)[1:]) == (2, ["service"])


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"type":"keyturn-service/1"}'])
def test_an_answer_that_is_no_proof(body: bytes, shell: Shell, around: Surroundings) -> None:
    around.answer = lambda nonce: (200, {}, body)
    assert shell.failures(*words(shell, around)) == (2, ["malformed"])


def test_a_service_that_is_not_there(shell: Shell, around: Surroundings) -> None:
    dead = ["http://127.0.0.1:9", *words(shell, around)[1:]]
    assert shell.failures(*dead) == (2, ["service"])
    around.answer = lambda nonce: (404, {}, b"{}")
    assert shell.failures(*words(shell, around)) == (2, ["service"])


@pytest.mark.parametrize("left_out", ["--kms", "--rpc", "--reference", "--root", "--app-id"])
def test_a_missing_option_is_bad_input(left_out: str, shell: Shell, around: Surroundings) -> None:
    given = words(shell, around)
    place = given.index(left_out)
    del given[place : place + 2]
    assert shell.failures(*given) == (2, ["verify-usage"])
    assert around.asked == []


@pytest.mark.parametrize("nonce", ["", "01", "zz" * 32])
def test_a_nonce_that_is_none_is_bad_input(nonce: str, shell: Shell, around: Surroundings) -> None:
    bundle = shell.file("bundle.json", b"{}")
    found = shell.failures("--bundle", bundle, "--nonce", nonce, *trusted(shell, around.bundle))
    assert found[0] == 2


def test_a_nonce_for_a_running_service_is_made_here(shell: Shell, around: Surroundings) -> None:
    assert shell.failures(*words(shell, around, **{"--nonce": "01" * 32})) == (2, ["verify-usage"])


def test_a_batch_that_nobody_anchored_is_refused(shell: Shell, around: Surroundings) -> None:
    receipts = around.world.chain.receipts
    around.world.chain.receipts = []
    try:
        assert shell.failures(*words(shell, around)) == (1, ["part-anchoring"])
        _, out = shell.run(*words(shell, around))
        assert "keyturn chain anchor" in out
    finally:
        around.world.chain.receipts = receipts


def test_the_kms_itself_is_in_the_tree_where_it_is_asked_for(shell: Shell, around: Surroundings) -> None:
    """This registry admitted no evidence, so the KMS is whole but not the admitted one."""
    node = shell.file("node.json", make_node())
    assert shell.failures(*words(shell, around, **{"--kms-node": node})) == (1, ["kms-app-hash"])
    wrong = shell.file("wrong.json", reference_document(BOOTED[0], other_pcr=4))
    more = {"--kms-node": node, "--kms-reference": wrong}
    assert shell.failures(*words(shell, around, **more)) == (1, ["kms-reference"])
    assert shell.failures(*words(shell, around, **{"--kms-reference": wrong})) == (2, ["verify-usage"])
