"""The node's client against a real node: its header and proofs hold, and its failures are told apart."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from eth_hash.auto import keccak

from contracts.dev_chain import dev_chain, find_anvil
from kms.chain_proof import prove_account, prove_word
from kms.rpc import LARGEST_ANSWER, NodeError, RpcNode
from measurements.errors import MissingToolError
from tests.support.tools import unavailable


def test_a_real_nodes_header_and_proofs_hold() -> None:
    try:
        find_anvil()
    except MissingToolError as error:
        unavailable(str(error))
    address, slot, word = b"\x42" * 20, b"\x07" * 32, b"\x01" + bytes(31)
    with dev_chain(block_seconds=None) as chain:
        chain.call("anvil_setCode", f"0x{address.hex()}", "0x6001")
        chain.call("anvil_setStorageAt", f"0x{address.hex()}", f"0x{slot.hex()}", f"0x{word.hex()}")
        chain.mine(3)
        node = RpcNode(chain.url)
        assert node.chain_id() == chain.chain_id
        header = node.finalized()
        absent = b"\x08" * 32
        proof = node.proof(address, [slot, absent, bytes(32)], block=header.number)
        account = prove_account(proof, state_root=header.state_root, address=address)
        assert account.code_hash == keccak(b"\x60\x01")
        assert prove_word(proof, account=account, slot=slot) == word
        assert prove_word(proof, account=account, slot=absent) == bytes(32)
        assert prove_word(proof, account=account, slot=bytes(32)) == bytes(32)
        with pytest.raises(NodeError):
            node.proof(address, [], block=header.number + 1000)
    with pytest.raises(NodeError):
        node.chain_id()


class Answer(http.server.BaseHTTPRequestHandler):
    body = b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"no json",
        b"{}",
        b'{"error": {"code": 1, "message": "no"}}',
        b'{"error": {"code": 1}, "result": "0x1"}',
        b"[" * 100_000,
        b'{"result": "' + b"0" * LARGEST_ANSWER + b'"}',
    ],
    ids=lambda body: body[:12].decode(),
)
def test_an_answer_that_is_none_is_an_error_of_the_node(
    url: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answer, "body", body)
    with pytest.raises(NodeError):
        RpcNode(url).chain_id()


def test_a_whole_answer_is_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answer, "body", b'{"result": "0x7a69"}')
    assert RpcNode(url).chain_id() == 31337
