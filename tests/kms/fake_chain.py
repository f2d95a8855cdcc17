"""A chain of one block, made with the ``trie`` library: contracts with storage, header, a node's answers."""

from __future__ import annotations

from typing import Any

import rlp
from eth_hash.auto import keccak
from trie.hexary import HexaryTrie

from contracts import layout
from contracts.layout import NEVER, Entry
from kms.anchor_proof import Log, anchor_log, encode_receipt, prove_receipt
from kms.anchors import Anchor
from kms.bundle import header_part
from kms.chain_proof import AccountProof, Header, parse_header, parse_proof
from kms.chain_view import ChainPins, PolicyQuery
from kms.root_key import ChainPin
from tests.kms.receipts import APP_ID, PIN, ROOT

NOW = 1_800_000_000
REGISTRY_CODE = b"\xc0" * 32
APP_CODE = b"\xc1" * 32
IMAGE_ID = b"\xa3" * 32
PINS = ChainPins(pin=PIN, registry_code_hash=REGISTRY_CODE, app_code_hash=APP_CODE)
QUERY = PolicyQuery(
    kms_id=ROOT.identity.kms_id,
    reference_digest=b"\xa4" * 32,
    platform_root=b"\xa5" * 32,
    platform_id=b"\xa6" * 32,
    app_id=APP_ID,
    app_hash=b"\xa2" * 32,
)
ANCHOR_INDEX = 2
ALLOWED = Entry(not_before=NOW - 1000, not_after=NEVER, revoked=False, exists=True)

Storage = dict[bytes, bytes]


def pack(*fields: tuple[int, int]) -> bytes:
    """A storage word of (value, size in bytes), from the low-order end."""
    word, shift = 0, 0
    for value, size in fields:
        word |= value << shift
        shift += 8 * size
    return word.to_bytes(32, "big")


def entry_word(entry: Entry) -> bytes:
    return pack((entry.not_before, 8), (entry.not_after, 8), (entry.revoked, 1), (entry.exists, 1))


def registry_storage(query: PolicyQuery, signer: bytes) -> Storage:
    """A registry that allows everything of ``query``."""
    allowed = entry_word(ALLOWED)
    node = layout.kms_node_slots(query.kms_id)
    reference = layout.reference_slots(query.reference_digest)
    return {
        layout.registry_state_slots()[0]: pack((3, 8), (0, 1)),
        layout.image_slots(IMAGE_ID)[0]: allowed,
        reference[0]: allowed,
        reference[1]: IMAGE_ID,
        layout.platform_root_slots(query.platform_root)[0]: allowed,
        node[0]: allowed,
        node[1]: pack((int.from_bytes(signer, "big"), 20), (0, 8)),
        layout.app_slots(query.app_id)[0]: allowed,
    }


def app_state_word(
    *, paused: bool = False, epoch: int = 1, expiry: int = NEVER, any_device: bool = False
) -> bytes:
    return pack((2, 8), (paused, 1), (epoch, 8), (expiry, 8), (0, 1), (any_device, 1), (0, 4))


def app_storage(query: PolicyQuery) -> Storage:
    """An app that allows everything of ``query``."""
    allowed = entry_word(ALLOWED)
    return {
        layout.app_state_slots()[0]: app_state_word(),
        layout.app_hash_slots(query.app_hash)[0]: allowed,
        layout.app_image_slots(IMAGE_ID)[0]: allowed,
        layout.device_slots(query.platform_id)[0]: allowed,
        layout.app_registry_slots()[0]: PIN.contract.rjust(32, b"\0"),
    }


class FakeChain:
    """``kms.rpc.Node`` over one block; change ``registry``, ``app`` and the rest between calls."""

    def __init__(
        self, query: PolicyQuery = QUERY, pin: ChainPin = PIN, signer: bytes = ROOT.identity.address
    ) -> None:
        self.query, self.pin = query, pin
        self.registry = registry_storage(query, signer)
        self.app = app_storage(query)
        self.registry_code, self.app_code = REGISTRY_CODE, APP_CODE
        self.number, self.time = 100, NOW - 30
        self.id = pin.chain_id
        self.receipts: list[dict[str, Any]] = []

    def chain_id(self) -> int:
        return self.id

    def finalized(self) -> Header:
        return parse_header(self.block())

    def proof(self, address: bytes, slots: list[bytes], *, block: int) -> AccountProof:
        assert block == self.number
        return parse_proof(self.proof_answer(address, slots))

    def anchor(self, anchor: Anchor) -> None:
        """Keep a batch in the next block, between transactions of others."""
        log = anchor_log(anchor, self.pin.contract)
        others = [
            transaction(kind=kind, logs=[Log(address=b"\x66" * 20, topics=(), data=b"")]) for kind in (0, 2)
        ]
        self.receipts = [*others, transaction(kind=2, logs=[log]), transaction(kind=3, logs=[])]

    def anchoring(self) -> dict[str, Any]:
        """The part of a bundle for the batch that was anchored last."""
        block = self.block(self.number + 1)
        root = bytes.fromhex(block["receiptsRoot"][2:])
        return {
            "header": header_part(block),
            "index": ANCHOR_INDEX,
            "proof": prove_receipt(self.receipts, ANCHOR_INDEX, root=root),
        }

    def logs(self) -> list[dict[str, Any]]:
        """``eth_getLogs`` for the registry, after the one block of state."""
        return [
            {**log, "blockNumber": hex(self.number + 1), "transactionIndex": hex(index)}
            for index, receipt in enumerate(self.receipts)
            for log in receipt["logs"]
            if log["address"] == f"0x{self.pin.contract.hex()}"
        ]

    def block(self, number: int | None = None) -> dict[str, Any]:
        """``eth_getBlockByNumber``: the block of the state, or the next one, which has the anchor."""
        later = number is not None and number != self.number
        receipts = HexaryTrie({})
        for place, receipt in enumerate(self.receipts if later else []):
            receipts[rlp.encode(place)] = encode_receipt(receipt)
        items = {
            "parentHash": bytes(32),
            "sha3Uncles": bytes(32),
            "miner": bytes(20),
            "stateRoot": self._state()[0].root_hash,
            "transactionsRoot": bytes(32),
            "receiptsRoot": receipts.root_hash,
            "logsBloom": bytes(256),
            "difficulty": 0,
            "number": self.number + later,
            "gasLimit": 30_000_000,
            "gasUsed": 0,
            "timestamp": self.time + 12 * later,
            "extraData": b"keyturn",
            "mixHash": bytes(32),
            "nonce": bytes(8),
            "baseFeePerGas": 7,
            "withdrawalsRoot": bytes(32),
            "blobGasUsed": 0,
            "excessBlobGas": 0,
            "parentBeaconBlockRoot": bytes(32),
            "requestsHash": bytes(32),
        }
        shown = {
            key: hex(item) if isinstance(item, int) else f"0x{item.hex()}" for key, item in items.items()
        }
        return {**shown, "hash": f"0x{keccak(rlp.encode(list(items.values()))).hex()}", "transactions": []}

    def proof_answer(self, address: bytes, slots: list[bytes]) -> dict[str, Any]:
        """``eth_getProof``."""
        state, storages = self._state()
        storage = storages.get(address, HexaryTrie({}))
        return {
            "address": f"0x{address.hex()}",
            "accountProof": _nodes(state, keccak(address)),
            "storageProof": [
                {"key": f"0x{slot.hex()}", "value": "0x0", "proof": _nodes(storage, keccak(slot))}
                for slot in slots
            ],
        }

    def _state(self) -> tuple[Any, dict[bytes, Any]]:
        state = HexaryTrie({})
        storages = {}
        for address, words, code in (
            (self.pin.contract, self.registry, self.registry_code),
            (self.query.app_id, self.app, self.app_code),
        ):
            storage = HexaryTrie({})
            for slot, word in words.items():
                if any(word):
                    storage[keccak(slot)] = rlp.encode(word.lstrip(b"\0"))
            state[keccak(address)] = rlp.encode([b"\x01", b"", storage.root_hash, code])
            storages[address] = storage
        for filler in range(20):
            state[keccak(bytes([filler]))] = rlp.encode([b"", b"\x01", bytes(32), bytes(32)])
        return state, storages


def transaction(*, kind: int, logs: list[Log], status: int = 1) -> dict[str, Any]:
    """A receipt as ``eth_getBlockReceipts`` shows it."""
    return {
        "type": hex(kind),
        "status": hex(status),
        "cumulativeGasUsed": hex(21000 * (kind + 1)),
        "logsBloom": f"0x{bytes(256).hex()}",
        "logs": [
            {
                "address": f"0x{log.address.hex()}",
                "topics": [f"0x{topic.hex()}" for topic in log.topics],
                "data": f"0x{log.data.hex()}",
            }
            for log in logs
        ],
    }


def _nodes(trie: Any, key: bytes) -> list[str]:
    return [f"0x{rlp.encode(node).hex()}" for node in trie.get_proof(key)]
