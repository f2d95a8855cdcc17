"""JSON-RPC over HTTP to an Ethereum node: one request, one answer, with a time limit and a size cap.

What comes back is not trusted: ``kms.chain_proof`` checks it.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import requests

from kms.chain_proof import AccountProof, Header, parse_header, parse_proof, quantity
from measurements.errors import KeyturnError
from measurements.json_text import json_text

CALL_SECONDS = 10
LARGEST_ANSWER = 4 << 20
_PIECE = 1 << 16


class NodeError(KeyturnError):
    """The node does not answer, or with an error."""

    code = "chain-unavailable"


class Node(Protocol):
    """What the KMS asks of a node."""

    def chain_id(self) -> int:
        """The chain's id."""

    def finalized(self) -> Header:
        """The finalized block, its hash checked."""

    def proof(self, address: bytes, slots: list[bytes], *, block: int) -> AccountProof:
        """Proof of an account and of some of its slots at ``block``."""


class RpcNode:
    """A node behind an HTTP URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def chain_id(self) -> int:
        """``eth_chainId``."""
        return quantity(self._call("eth_chainId"))

    def finalized(self) -> Header:
        """``eth_getBlockByNumber("finalized")``."""
        return parse_header(self._object("eth_getBlockByNumber", "finalized", False))

    def proof(self, address: bytes, slots: list[bytes], *, block: int) -> AccountProof:
        """``eth_getProof``."""
        names = [f"0x{slot.hex()}" for slot in slots]
        return parse_proof(self._object("eth_getProof", f"0x{address.hex()}", names, hex(block)))

    def _object(self, method: str, *parameters: object) -> dict[str, Any]:
        result = self._call(method, *parameters)
        if not isinstance(result, dict):
            raise _unavailable(f"{method} has no result")
        return result

    def _call(self, method: str, *parameters: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        try:
            with self._session.post(
                self._url, json=body, timeout=CALL_SECONDS, stream=True, allow_redirects=False
            ) as answer:
                document = json.loads(json_text(_read(answer)))
        except (requests.RequestException, ValueError) as error:
            raise _unavailable(f"{method} failed: {type(error).__name__}") from error
        if not isinstance(document, dict) or document.get("error") is not None or "result" not in document:
            raise _unavailable(f"{method} was answered with an error")
        return document["result"]


def _read(answer: requests.Response) -> bytes:
    whole = bytearray()
    for piece in answer.iter_content(_PIECE):
        whole += piece
        if len(whole) > LARGEST_ANSWER:
            raise ValueError("the answer is too large")
    return bytes(whole)


def _unavailable(reason: str) -> NodeError:
    return NodeError(
        reason, subject="Ethereum node", advice="check KEYTURN_RPC_URL and that the node is in sync"
    )
