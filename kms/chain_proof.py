"""Proofs of the state of an Ethereum block: header, account, storage.

A header is ``keccak256(rlp([parent hash, ..., requests hash]))`` (execution-specs, London to Prague); an
account is found under ``keccak256(address)`` in the trie of the header's state root, as
``rlp([nonce, balance, storage root, code hash])``, a storage word under ``keccak256(slot)`` in the trie of
the storage root, as ``rlp(integer)`` (EIP-1186). Every byte is checked: each node of a proof is the child
that the node before it names by hash. Anything else is a ``RefusalError``.

A header's hash says that the header is whole, not that the chain's validators finalized it: which block is
finalized is the node's word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import rlp
from eth_hash.auto import keccak
from rlp.exceptions import RLPException
from trie.exceptions import BadTrieProof, InvalidNode, ValidationError
from trie.hexary import HexaryTrie

from kms.refusal import RefusalCode, RefusalError

WORD_SIZE = 32
EMPTY_TRIE = keccak(b"\x80")
MOST_NODES = 64
"""Deepest possible path: one node for each half byte of a key."""

_BAD_NODES = (
    *(BadTrieProof, InvalidNode, ValidationError, RLPException),
    *(LookupError, ValueError, TypeError, AssertionError),
)
"""What ``trie`` raises for nodes that are none, some of it by accident."""

_QUANTITY = re.compile(r"0x(?:0|[1-9a-f][0-9a-f]*)")
_DATA = re.compile(r"0x(?:[0-9a-f]{2})*")

_HEADER_FIELDS = (
    ("parentHash", False),
    ("sha3Uncles", False),
    ("miner", False),
    ("stateRoot", False),
    ("transactionsRoot", False),
    ("receiptsRoot", False),
    ("logsBloom", False),
    ("difficulty", True),
    ("number", True),
    ("gasLimit", True),
    ("gasUsed", True),
    ("timestamp", True),
    ("extraData", False),
    ("mixHash", False),
    ("nonce", False),
    ("baseFeePerGas", True),
)
"""Name in JSON-RPC, and whether it is an integer."""

_LATER_FIELDS = (
    ("withdrawalsRoot", False),
    ("blobGasUsed", True),
    ("excessBlobGas", True),
    ("parentBeaconBlockRoot", False),
    ("requestsHash", False),
)
"""Fields of later forks, each there only with all before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What is used of a block's header; hash and roots are 32 bytes, time is seconds since 1970."""

    number: int
    hash: bytes
    time: int
    state_root: bytes
    receipts_root: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountProof:
    """Answer to ``eth_getProof``, not yet checked: trie nodes, and per slot (32 bytes) its trie nodes."""

    account: tuple[bytes, ...]
    storage: Mapping[bytes, tuple[bytes, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A contract, proven: 32 bytes each."""

    storage_root: bytes
    code_hash: bytes


def parse_header(block: Mapping[str, Any]) -> Header:
    """The header in an answer to ``eth_getBlockByNumber``, whose hash is recomputed."""
    present = [field for field in _LATER_FIELDS if block.get(field[0]) is not None]
    if tuple(present) != _LATER_FIELDS[: len(present)]:
        _refuse(RefusalCode.HEADER, "the header lacks a field that a later one needs")
    items = [
        _integer_bytes(quantity(block.get(name))) if integer else data(block.get(name))
        for name, integer in (*_HEADER_FIELDS, *present)
    ]
    digest = keccak(rlp.encode(items))
    if digest != data(block.get("hash"), size=WORD_SIZE):
        _refuse(RefusalCode.HEADER, "the block's hash is not that of its header")
    return Header(
        number=quantity(block["number"]),
        hash=digest,
        time=quantity(block["timestamp"]),
        state_root=data(block["stateRoot"], size=WORD_SIZE),
        receipts_root=data(block["receiptsRoot"], size=WORD_SIZE),
    )


def parse_proof(answer: Mapping[str, Any]) -> AccountProof:
    """The trie nodes in an answer to ``eth_getProof``; everything else in it is ignored, for it follows."""
    entries = answer.get("storageProof")
    if not isinstance(entries, list):
        _refuse(RefusalCode.PROOF, "there is no storage proof")
    storage = {}
    for entry in entries:
        if not isinstance(entry, dict):
            _refuse(RefusalCode.PROOF, "a storage proof is not an object")
        storage[quantity_or_data(entry.get("key")).to_bytes(WORD_SIZE, "big")] = _nodes(entry.get("proof"))
    return AccountProof(account=_nodes(answer.get("accountProof")), storage=storage)


def prove_account(proof: AccountProof, *, state_root: bytes, address: bytes) -> Account:
    """The account at ``address`` (20 bytes), which must exist."""
    value = prove_value(proof.account, root=state_root, key=keccak(address))
    if not value:
        _refuse(RefusalCode.PROOF, f"there is no account 0x{address.hex()} in this block")
    fields = _decode(value)
    if not isinstance(fields, list) or len(fields) != 4 or any(len(field) != 32 for field in fields[2:]):
        _refuse(RefusalCode.PROOF, "the account has not four fields")
    return Account(storage_root=bytes(fields[2]), code_hash=bytes(fields[3]))


def prove_word(proof: AccountProof, *, account: Account, slot: bytes) -> bytes:
    """The word (32 bytes) at ``slot`` (32 bytes); zeros where the proof shows that nothing is stored."""
    nodes = proof.storage.get(slot)
    if nodes is None:
        _refuse(RefusalCode.PROOF, f"slot {slot.hex()} was not proven")
    value = prove_value(nodes, root=account.storage_root, key=keccak(slot))
    word = _decode(value) if value else b""
    if not isinstance(word, bytes) or len(word) > WORD_SIZE or word[:1] == b"\0":
        _refuse(RefusalCode.PROOF, f"slot {slot.hex()} does not hold an integer")
    return word.rjust(WORD_SIZE, b"\0")


def quantity(value: object) -> int:
    """An integer in the encoding of JSON-RPC."""
    if not isinstance(value, str) or len(value) > 66 or not _QUANTITY.fullmatch(value):
        _refuse(RefusalCode.HEADER, "a quantity is not in the encoding of JSON-RPC")
    return int(value, 16)


def data(value: object, *, size: int | None = None) -> bytes:
    """Bytes in the encoding of JSON-RPC, of ``size`` bytes if given."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        _refuse(RefusalCode.HEADER, "data is not in the encoding of JSON-RPC")
    raw = bytes.fromhex(value[2:])
    if size is not None and len(raw) != size:
        _refuse(RefusalCode.HEADER, f"data has {len(raw)} bytes, not {size}")
    return raw


def quantity_or_data(value: object) -> int:
    """A slot as nodes echo it: some shorten it to a quantity."""
    if not isinstance(value, str) or not re.fullmatch(r"0x[0-9a-f]{1,64}", value):
        _refuse(RefusalCode.PROOF, "a slot is not in the encoding of JSON-RPC")
    return int(value, 16)


def _nodes(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MOST_NODES:
        _refuse(RefusalCode.PROOF, "the proof is not a list of trie nodes")
    return tuple(data(node) for node in value)


def prove_value(nodes: Sequence[bytes], *, root: bytes, key: bytes) -> bytes:
    """Value under ``key`` in the trie of ``root``, or nothing where the proof shows its absence."""
    if root == EMPTY_TRIE and tuple(nodes) in ((), (b"\x80",)):
        return b""
    decoded = [_decode(node) for node in nodes]
    if not nodes or keccak(nodes[0]) != root:
        _refuse(RefusalCode.PROOF, "the proof does not begin at the root")
    if any(keccak(child) not in parent for parent, child in pairwise(nodes)):
        _refuse(RefusalCode.PROOF, "the proof's nodes do not follow each other")
    try:
        return bytes(HexaryTrie.get_from_proof(root, key, decoded))  # type: ignore[no-untyped-call]
    except _BAD_NODES as error:
        _refuse(RefusalCode.PROOF, "the proof does not reach the key", cause=error)


def _decode(raw: bytes) -> Any:
    try:
        return rlp.decode(raw)
    except RLPException as error:
        _refuse(RefusalCode.PROOF, "the proof is not RLP", cause=error)


def _integer_bytes(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _refuse(code: RefusalCode, reason: str, *, cause: Exception | None = None) -> NoReturn:
    raise RefusalError(
        code, reason, subject="chain", advice="give the KMS an honest node of the chain that it is pinned to"
    ) from cause
