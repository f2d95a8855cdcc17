"""Proof that a batch is anchored on chain: the registry's event, in the receipts trie of a block.

Part of a bundle (docs/formats.md, "Bundle")::

    {"header": {...}, "index": int, "proof": ["0x…", ...]}

``header`` is that of the block, ``index`` the transaction's place in it, ``proof`` the nodes of the trie of
the header's receipts root, from the root to the receipt. The trie holds under ``rlp(index)`` the receipt of a
transaction: ``rlp([status, cumulative gas, bloom, logs])``, with the type's byte before it where there is one
(EIP-2718); a log is ``[address, topics, data]`` (execution-specs, Prague; EIP-658). The registry's event is
``ReceiptsAnchored(bytes32 indexed kmsId, uint64 fromSeq, uint64 toSeq, bytes32 root)``: topics its Keccak-256
signature and the KMS id, data three words.

A header's hash says that the header is whole, not that the block is final: that is the word of the node that
was asked. Errors are ``FormatError`` and ``RefusalError``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import rlp
from eth_hash.auto import keccak
from rlp.exceptions import RLPException
from trie.hexary import HexaryTrie

from attestation.verdict import CheckList
from kms.anchors import Anchor
from kms.chain_proof import MOST_NODES, Header, data, parse_header, prove_value, quantity
from kms.receipt import ChainPosition
from kms.refusal import RefusalCode, RefusalError
from kms.strict_json import Fields

EVENT_TOPIC = keccak(b"ReceiptsAnchored(bytes32,uint64,uint64,bytes32)")
ANCHOR_CHECKS = ("anchor-block", "anchored-on-chain")
SUCCEEDED = b"\x01"
KNOWN_TYPES = (0, 1, 2, 3, 4)
"""Of transactions: legacy, EIP-2930, EIP-1559, EIP-4844, EIP-7702; their receipts have one form."""

_AGAIN = "anchor the receipt with keyturn chain anchor, wait until the block is final, and verify again"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorProof:
    """A header whose hash was recomputed, and trie nodes that are not checked yet."""

    header: Header
    index: int
    nodes: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """One event: address of 20 bytes, topics of 32 bytes."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


def anchor_log(anchor: Anchor, contract: bytes) -> Log:
    """The event of ``anchor`` by the registry at ``contract`` (20 bytes)."""
    numbers = anchor.from_seq.to_bytes(32, "big") + anchor.to_seq.to_bytes(32, "big")
    return Log(address=contract, topics=(EVENT_TOPIC, anchor.kms_id), data=numbers + anchor.root)


def parse_anchor_proof(header: Mapping[str, Any], fields: Fields) -> AnchorProof:
    """Read the rest of the part, whose ``header`` was read strictly before."""
    proof = AnchorProof(
        header=parse_header(header),
        index=fields.integer("index"),
        nodes=tuple(data(node) for node in fields.array("proof", most=MOST_NODES)),
    )
    fields.done()
    return proof


def proven_logs(proof: AnchorProof) -> list[Log]:
    """The events of the transaction, which must have succeeded. Raises ``RefusalError``."""
    value = prove_value(proof.nodes, root=proof.header.receipts_root, key=rlp.encode(proof.index))
    if not value:
        _refuse("the block has no such transaction")
    if value[0] in KNOWN_TYPES[1:]:
        value = value[1:]
    try:
        status, _, _, logs = rlp.decode(value)
        found = [Log(address=a, topics=tuple(topics), data=shown) for a, topics, shown in logs]
    except (RLPException, ValueError, TypeError) as error:
        _refuse("the receipt has another form", cause=error)
    if status != SUCCEEDED:
        _refuse("the transaction failed")
    return found


def check_anchor(checks: CheckList, proof: AnchorProof, anchor: Anchor, position: ChainPosition) -> None:
    """Make ``ANCHOR_CHECKS``: the receipt's registry kept ``anchor`` after the block that the receipt names.
    Raises ``CheckFailedError``.
    """
    block = proof.header
    checks.require(
        "anchor-block",
        block.number > position.block_number,
        expected=f"a block after {position.block_number}",
        found=f"block {block.number} {block.hash.hex()}",
        reason="a receipt cannot be on chain before it was written",
        advice=_AGAIN,
    )
    wanted = anchor_log(anchor, position.contract)
    with checks.step("anchored-on-chain", expected=_describe(anchor, position.contract)):
        if wanted not in proven_logs(proof):
            _refuse("the transaction did not anchor this batch in this registry")


def encode_receipt(receipt: Mapping[str, Any]) -> bytes:
    """The bytes in the trie of one receipt as ``eth_getBlockReceipts`` shows it."""
    kind = quantity(receipt.get("type", "0x0"))
    if kind not in KNOWN_TYPES:
        _refuse(f"the block has a transaction of type {kind}, whose receipt has an unknown form")
    logs = [
        [data(log["address"]), [data(topic) for topic in log["topics"]], data(log["data"])]
        for log in receipt["logs"]
    ]
    numbers = [quantity(receipt.get(name)) for name in ("status", "cumulativeGasUsed")]
    encoded: bytes = rlp.encode([*numbers, data(receipt.get("logsBloom")), logs])
    return encoded if kind == 0 else bytes([kind]) + encoded


def prove_receipt(receipts: Sequence[Mapping[str, Any]], index: int, *, root: bytes) -> list[str]:
    """Trie nodes of the receipt at ``index``; refused unless all of the block's receipts yield ``root``."""
    trie = HexaryTrie({})
    try:
        for place, receipt in enumerate(receipts):
            trie[rlp.encode(place)] = encode_receipt(receipt)
    except (KeyError, TypeError, AttributeError) as error:
        _refuse("the block's receipts have another form", cause=error)
    if trie.root_hash != root:
        _refuse("the block's receipts are not those of its header")
    nodes = trie.get_proof(rlp.encode(index))  # type: ignore[no-untyped-call]
    return [f"0x{rlp.encode(node).hex()}" for node in nodes]


def _describe(anchor: Anchor, contract: bytes) -> str:
    return f"receipts {anchor.from_seq} to {anchor.to_seq} under {anchor.root.hex()} in 0x{contract.hex()}"


def _refuse(reason: str, *, cause: Exception | None = None) -> NoReturn:
    raise RefusalError(RefusalCode.PROOF, reason, subject="anchor", advice=_AGAIN) from cause
