"""Proofs from a live node, kept as they came, for a bundle: the policy at a block, and an anchored batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kms.rpc import NodeError, RpcNode
from measurements.errors import RefusedError

if TYPE_CHECKING:
    from kms.chain_view import ChainPins
    from kms.receipt import Receipt


class NotFinalError(RefusedError):
    """A receipt of a block that the node does not call final, or of another chain."""

    code = "not-final"


class ProvingNode(RpcNode):
    """A node whose answers are kept as they came, for a bundle."""

    def block(self, number: int) -> dict[str, Any]:
        """``eth_getBlockByNumber``."""
        return self._object("eth_getBlockByNumber", hex(number), False)

    def raw_proof(self, address: bytes, slots: Sequence[bytes], *, block: int) -> dict[str, Any]:
        """``eth_getProof``."""
        names = [f"0x{slot.hex()}" for slot in slots]
        return self._object("eth_getProof", f"0x{address.hex()}", names, hex(block))

    def logs(
        self, address: bytes, topics: Sequence[bytes], *, blocks: tuple[int, int]
    ) -> list[dict[str, Any]]:
        """``eth_getLogs`` from the first to the last of ``blocks``."""
        wanted = {
            "address": f"0x{address.hex()}",
            "topics": [f"0x{topic.hex()}" for topic in topics],
            "fromBlock": hex(blocks[0]),
            "toBlock": hex(blocks[1]),
        }
        return self._objects("eth_getLogs", wanted)

    def receipts(self, number: int) -> list[dict[str, Any]]:
        """``eth_getBlockReceipts``."""
        return self._objects("eth_getBlockReceipts", hex(number))

    def _objects(self, method: str, *parameters: object) -> list[dict[str, Any]]:
        result = self._call(method, *parameters)
        if not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
            raise _no_list(method)
        return result


def fetch_chain(node: ProvingNode, receipt: Receipt, pins: ChainPins) -> dict[str, Any]:
    """Header and proofs at the block of ``receipt``, which need not be verified. Raises ``NodeError``,
    ``NotFinalError``, and ``RefusalError`` where the chain does not know the reference values.
    """
    from contracts import layout
    from kms.bundle import header_part, proof_part
    from kms.chain_proof import parse_header, parse_proof
    from kms.chain_view import app_slots, named_image, registry_slots
    from kms.policy_tree import receipt_query

    position = receipt.outcome.chain
    if position is None:
        raise _not_final("the receipt names no block")
    if node.chain_id() != pins.pin.chain_id:
        raise _not_final("the node is of another chain than the trusted one")
    if node.finalized().number < position.block_number:
        raise _not_final(f"the node has not finalized block {position.block_number}")
    number, query = position.block_number, receipt_query(receipt)
    block = node.block(number)
    registry = node.raw_proof(pins.pin.contract, registry_slots(query), block=number)
    image_id = named_image(parse_proof(registry), head=parse_header(block), pins=pins, query=query)
    image = node.raw_proof(pins.pin.contract, layout.image_slots(image_id), block=number)
    app = node.raw_proof(query.app_id, app_slots(query, image_id), block=number)
    return {
        "header": header_part(block),
        "registry": proof_part(registry),
        "image": proof_part(image),
        "app": proof_part(app),
    }


def fetch_anchoring(node: ProvingNode, batch: Any, contract: bytes, *, first: int) -> dict[str, Any] | None:
    """Proof that the registry at ``contract`` (20 bytes) kept ``batch`` (as ``GET /v1/anchors`` shows it) in
    block ``first`` or later; None where no final block has it.

    Raises ``NodeError``, ``FormatError`` for a batch that is none, and ``RefusalError``.
    """
    from kms.anchor_proof import anchor_log, prove_receipt
    from kms.bundle import header_part, parse_batch
    from kms.chain_proof import data, parse_header, quantity

    wanted = anchor_log(parse_batch(batch).anchor, contract)
    final = node.finalized().number
    if final < first:
        return None
    for log in node.logs(wanted.address, wanted.topics, blocks=(first, final)):
        number, index = quantity(log.get("blockNumber")), quantity(log.get("transactionIndex"))
        if data(log.get("data")) != wanted.data or number > final:
            continue
        block = node.block(number)
        root = parse_header(block).receipts_root
        return {
            "header": header_part(block),
            "index": index,
            "proof": prove_receipt(node.receipts(number), index, root=root),
        }
    return None


def _no_list(method: str) -> NodeError:
    return NodeError(
        f"{method} has no list as its result",
        subject="Ethereum node",
        advice="ask a node that knows this call",
    )


def _not_final(reason: str) -> NotFinalError:
    return NotFinalError(
        reason, subject="chain", advice="ask a synchronised node of the trusted chain that keeps this block"
    )
