"""Bundles: everything that ``keyturn verify --bundle`` reads, in one JSON file.

Layout (docs/formats.md, "Bundle"); a part that is absent is ``null``, and then fails its check::

    {"type": "keyturn-bundle/1",
     "receipt": envelope, "inclusion": {"from_seq", "to_seq", "root", "index", "path"},
     "batch": {"kms_id", "from_seq", "to_seq", "root", "signature"},
     "kms": {"ed25519": hex, "secp256k1": hex},
     "evidence": {...}, "reference": {...},
     "chain": {"header": {...}, "registry": proof, "image": proof, "app": proof},
     "anchoring": {"header": {...}, "index": int, "proof": [...]},
     "service": null | {"nonce", "key", "quote"}, "kms_node": null | {...}, "kms_reference": null | {...}}

``anchoring`` is that of ``kms.anchor_proof``, ``service`` of ``kms.service_proof``, ``kms_node`` of
``kms.node``; the last three say more than a release does, and may be absent.

``header`` has the members of ``eth_getBlockByNumber`` that its hash covers, and ``hash``; ``proof`` is
``{"accountProof": [...], "storageProof": [{"key", "proof"}]}`` of ``eth_getProof``. Reading a bundle checks
its outermost form only: a part that is malformed is a failed check, not an error. Errors are ``FormatError``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from eth_keys.datatypes import PublicKey
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from attestation.evidence import Evidence, parse_evidence
from attestation.verdict import CheckFailedError, CheckList, Verdict
from kms.anchor_proof import AnchorProof, parse_anchor_proof
from kms.anchors import SIGNATURE_SIZE, Anchor, SignedAnchor
from kms.chain_proof import MOST_NODES, AccountProof, Header, parse_header, parse_proof
from kms.receipt import Envelope, parse_envelope
from kms.strict_json import Fields, fail
from measurements.canonical import encode_canonical, parse_json
from measurements.errors import FormatError
from measurements.reference import Reference, parse_reference

TYPE = "keyturn-bundle/1"
LARGEST_BUNDLE = 16 << 20
HEADER_KEYS = (
    "hash",
    "parentHash",
    "sha3Uncles",
    "miner",
    "stateRoot",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "difficulty",
    "number",
    "gasLimit",
    "gasUsed",
    "timestamp",
    "extraData",
    "mixHash",
    "nonce",
    "baseFeePerGas",
)
LATER_HEADER_KEYS = (
    "withdrawalsRoot",
    "blobGasUsed",
    "excessBlobGas",
    "parentBeaconBlockRoot",
    "requestsHash",
)
"""Of forks that not every chain has."""

_MOST_SLOTS = 64
_WHOLE = "make the bundle with every part"
_ABSENT = {
    "anchoring": "anchor the receipt with keyturn chain anchor, wait until the block is final, verify again",
}
_Part = TypeVar("_Part")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The parts as JSON, not read yet; None is absent."""

    receipt: Any
    inclusion: Any
    batch: Any
    kms: Any
    evidence: Any
    reference: Any
    chain: Any
    anchoring: Any
    service: Any = None
    kms_node: Any = None
    kms_reference: Any = None

    def as_json(self) -> dict[str, Any]:
        """The document."""
        return {"type": TYPE, **{name: getattr(self, name) for name in (*PART_NAMES, *MORE_NAMES)}}


PART_NAMES = ("receipt", "inclusion", "batch", "kms", "evidence", "reference", "chain", "anchoring")
MORE_NAMES = ("service", "kms_node", "kms_reference")
"""Parts that may be absent; what they hold is read where it is checked."""

PART_CHECKS = tuple(f"part-{name}" for name in PART_NAMES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inclusion:
    """Where a receipt lies in a batch; hashes of 32 bytes."""

    from_seq: int
    to_seq: int
    root: bytes
    index: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class KmsKeys:
    """Public keys of a KMS (32 bytes; 33 bytes, compressed), and the address (20 bytes) of the second."""

    ed25519: bytes
    secp256k1: bytes
    address: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainPart:
    """A header whose hash was recomputed, and proofs that are not checked yet."""

    header: Header
    registry: AccountProof
    image: AccountProof
    app: AccountProof


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts that could be read; what they say is not verified. ``verdict`` has a check for each."""

    verdict: Verdict
    receipt: Envelope | None
    inclusion: Inclusion | None
    batch: SignedAnchor | None
    kms: KmsKeys | None
    evidence: Evidence | None
    reference: Reference | None
    chain: ChainPart | None
    anchoring: AnchorProof | None


def parse_bundle(data: bytes) -> Bundle:
    """The bundle in the bytes of a file."""
    if len(data) > LARGEST_BUNDLE:
        fail("bundle", f"it is larger than {LARGEST_BUNDLE} bytes")
    fields = Fields(parse_json(data, subject="bundle"), subject="bundle")
    fields.exactly("type", TYPE)
    bundle = Bundle(**{name: fields.raw(name) for name in (*PART_NAMES, *MORE_NAMES)})
    fields.done()
    return bundle


def encode_bundle(bundle: Bundle) -> bytes:
    """The bytes of a file; raises ``FormatError`` for parts that are no JSON."""
    return encode_canonical(bundle.as_json(), subject="bundle")


def read_parts(bundle: Bundle) -> Parts:
    """Read every part that is there and well formed."""
    made: list[Verdict] = []

    def read(name: str, parse: Callable[[Any], _Part]) -> _Part | None:
        part, verdict = _read_part(name, getattr(bundle, name), parse)
        made.append(verdict)
        return part

    receipt = read("receipt", parse_envelope)
    inclusion = read("inclusion", parse_inclusion)
    batch = read("batch", parse_batch)
    kms = read("kms", parse_kms_keys)
    evidence = read("evidence", parse_evidence)
    reference = read("reference", parse_reference_part)
    chain = read("chain", parse_chain)
    anchoring = read("anchoring", parse_anchoring)
    return Parts(
        verdict=Verdict(checks=tuple(check for verdict in made for check in verdict.checks)),
        receipt=receipt,
        inclusion=inclusion,
        batch=batch,
        kms=kms,
        evidence=evidence,
        reference=reference,
        chain=chain,
        anchoring=anchoring,
    )


def _read_part(name: str, document: Any, parse: Callable[[Any], _Part]) -> tuple[_Part | None, Verdict]:
    checks, part = CheckList(), None
    try:
        with checks.step(f"part-{name}", expected=f"the {name}, well formed"):
            if document is None:
                raise FormatError(f"there is no {name}", subject="bundle", advice=_ABSENT.get(name, _WHOLE))
            part = parse(document)
    except CheckFailedError:
        return None, checks.verdict()
    return part, checks.verdict()


def parse_inclusion(document: Any) -> Inclusion:
    """The inclusion proof as ``GET /v1/receipts`` shows it."""
    fields = Fields(document, subject="inclusion")
    inclusion = Inclusion(
        from_seq=fields.integer("from_seq", least=1),
        to_seq=fields.integer("to_seq", least=1),
        root=fields.hexadecimal("root", size=32),
        index=fields.integer("index"),
        path=tuple(_hash(node, "inclusion") for node in fields.array("path", most=MOST_NODES)),
    )
    fields.done()
    return inclusion


def parse_batch(document: Any) -> SignedAnchor:
    """A signed batch as ``GET /v1/anchors`` shows it."""
    fields = Fields(document, subject="batch")
    anchor = Anchor(
        kms_id=fields.hexadecimal("kms_id", size=32),
        from_seq=fields.integer("from_seq", least=1),
        to_seq=fields.integer("to_seq", least=1),
        root=fields.hexadecimal("root", size=32),
    )
    signature = fields.hexadecimal("signature", size=SIGNATURE_SIZE)
    fields.done()
    return SignedAnchor(anchor=anchor, signature=signature)


def parse_kms_keys(document: Any) -> KmsKeys:
    """The public keys of a KMS."""
    fields = Fields(document, subject="kms")
    ed25519, point = (
        fields.hexadecimal("ed25519", size=32),
        fields.hexadecimal("secp256k1", size=33),
    )
    fields.done()
    try:
        address = PublicKey.from_compressed_bytes(point).to_canonical_address()
    except (ValidationError, BadSignature, ValueError) as error:
        fail("kms", "'secp256k1' is no compressed point", cause=error)
    return KmsKeys(ed25519=ed25519, secp256k1=point, address=address)


def parse_chain(document: Any) -> ChainPart:
    """Header and proofs at one block."""
    fields = Fields(document, subject="chain")
    chain = ChainPart(
        header=parse_header(_header_fields(fields.raw("header"), "chain")),
        registry=_parse_proof(fields.raw("registry"), "registry"),
        image=_parse_proof(fields.raw("image"), "image"),
        app=_parse_proof(fields.raw("app"), "app"),
    )
    fields.done()
    return chain


def parse_anchoring(document: Any) -> AnchorProof:
    """Header and receipt of the transaction that anchored the batch."""
    fields = Fields(document, subject="anchoring")
    return parse_anchor_proof(_header_fields(fields.raw("header"), "anchoring"), fields)


def header_part(block: Mapping[str, Any]) -> dict[str, Any]:
    """The header in an answer to ``eth_getBlockByNumber``, as a bundle holds it."""
    later = [key for key in LATER_HEADER_KEYS if block.get(key) is not None]
    return {key: block.get(key) for key in (*HEADER_KEYS, *later)}


def proof_part(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The trie nodes in an answer to ``eth_getProof``, as a bundle holds them."""
    parse_proof(answer)
    return {
        "accountProof": answer["accountProof"],
        "storageProof": [{"key": entry["key"], "proof": entry["proof"]} for entry in answer["storageProof"]],
    }


def _header_fields(document: Any, subject: str) -> Mapping[str, Any]:
    fields = Fields(document, subject=f"{subject}, header")
    for key in HEADER_KEYS:
        fields.raw(key)
    for key in LATER_HEADER_KEYS:
        if key in fields.document:
            fields.raw(key)
    fields.done()
    return fields.document


def _parse_proof(document: Any, name: str) -> AccountProof:
    fields = Fields(document, subject=f"chain, {name}")
    fields.array("accountProof", most=MOST_NODES)
    slots = fields.array("storageProof", most=_MOST_SLOTS)
    fields.done()
    for slot in slots:
        entry = Fields(slot, subject=f"chain, {name}, slot")
        entry.text("key")
        entry.array("proof", most=MOST_NODES)
        entry.done()
    proof = parse_proof(fields.document)
    if len(proof.storage) != len(slots):
        fail(f"chain, {name}", "a slot occurs twice")
    return proof


def parse_reference_part(document: Any) -> Reference:
    """Reference values with their events."""
    return parse_reference(encode_canonical(document, subject="reference"))


def _hash(value: object, subject: str) -> bytes:
    return Fields({"hash": value}, subject=subject).hexadecimal("hash", size=32)
