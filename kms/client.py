"""Asks a KMS for what it shows to everybody, and checks it: identity, receipts with inclusion proofs."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from attestation.evidence import MAX_EVIDENCE
from kms.http_get import GetError, get
from kms.merkle import proof_holds
from kms.node import node_document
from kms.public_half import PublicKeyOf, read_public_half
from kms.receipt import LARGEST_PAYLOAD, parse_envelope, parse_receipt, receipt_hash, verify_receipt
from kms.root_key import kms_id as hash_of_keys
from kms.strict_json import Fields, read_object
from measurements.errors import KeyturnError, RefusedError

CALL_SECONDS = 60
LARGEST_ANSWER = 4 * LARGEST_PAYLOAD
LARGEST_BATCHES = 4 << 20
LARGEST_IDENTITY = MAX_EVIDENCE + LARGEST_ANSWER


class KmsAnswerError(KeyturnError):
    """The KMS does not answer, or with an error."""

    code = "kms-answer"


class KmsMismatchError(RefusedError):
    """What the KMS shows does not hold."""

    code = "kms-mismatch"


def fetch_identity(url: str) -> dict[str, Any]:
    """``GET /v1/public-key``, whose KMS id must be that of its keys."""
    fields = _get(url, "/v1/public-key")
    ed25519 = fields.hexadecimal("ed25519", size=32)
    secp256k1 = fields.hexadecimal("secp256k1", size=33)
    found = fields.hexadecimal("kms_id", size=32)
    fields.address("address")
    fields.integer("chain_id", least=1)
    fields.address("contract")
    fields.boolean("development")
    fields.done()
    if found != hash_of_keys(ed25519, secp256k1):
        raise _mismatch("its id is not that of its keys")
    return dict(fields.document)


def fetch_node(url: str, *, nonce: bytes) -> dict[str, Any]:
    """The KMS's keys and fresh evidence over ``nonce`` (32 bytes) as a document of ``kms.node``, whose
    evidence is not verified yet.
    """
    keys = fetch_identity(url)
    if keys["development"]:
        raise _mismatch("it is a development KMS, whose keys are in no guest")
    fields = _get(url, f"/v1/identity?nonce={nonce.hex()}", largest=LARGEST_IDENTITY)
    evidence, echoed = fields.raw("evidence"), fields.hexadecimal("nonce", size=32)
    identifier = fields.text("kms_id")
    fields.done()
    if (echoed, identifier) != (nonce, keys["kms_id"]):
        raise _mismatch("its evidence is of another nonce or another KMS")
    return node_document(keys, evidence=evidence, nonce=nonce)


def fetch_public_half(url: str, key: PublicKeyOf, *, allow_development: bool) -> bytes:
    """The public half of an app key, signed by the KMS that ``key`` names; a KMS for development has to be
    allowed.
    """
    identity = fetch_identity(url)
    if identity["kms_id"] != key.kms_id.hex():
        raise _mismatch(f"it is KMS {identity['kms_id']}, not {key.kms_id.hex()}")
    if identity["development"] and not allow_development:
        raise _mismatch("it is a development KMS, whose keys are in no guest")
    query = urlencode(
        {"app_id": f"0x{key.app_id.hex()}", "path": key.path, "kind": key.kind.value, "epoch": key.epoch}
    )
    answer = _get(url, f"/v1/public-key?{query}")
    return read_public_half(
        parse_envelope(dict(answer.document)),
        key,
        ed25519=bytes.fromhex(identity["ed25519"]),
        development=identity["development"],
    )


def fetch_release_parts(url: str, *, envelope: Any) -> dict[str, Any]:
    """Keys, inclusion proof and batch of the receipt in ``envelope`` (JSON) as parts of a bundle, none of it
    verified; asking closes the batch. Raises ``FormatError`` for an envelope that is none.
    """
    payload = parse_envelope(envelope).payload
    seq, identity = parse_receipt(payload).seq, fetch_identity(url)
    batches = _get(url, f"/v1/anchors?after={seq - 1}", largest=LARGEST_BATCHES).array(
        "batches", most=1 << 20
    )
    inclusion = _get(url, f"/v1/receipts/{receipt_hash(payload).hex()}").raw("inclusion")
    return {
        "kms": {name: identity[name] for name in ("ed25519", "secp256k1")},
        "inclusion": inclusion,
        "batch": next(iter(batches), None),
    }


def fetch_receipt(url: str, *, receipt_hash: str, kms_id: str) -> dict[str, Any]:
    """A receipt of the pinned KMS, verified, and its inclusion proof, which must hold.

    ``{"receipt": payload, "envelope": envelope, "inclusion": null | proof}``.
    """
    wanted = Fields({"hash": receipt_hash, "kms_id": kms_id}, subject="argument")
    digest, pinned = wanted.hexadecimal("hash", size=32), wanted.hexadecimal("kms_id", size=32)
    identity = fetch_identity(url)
    if identity["kms_id"] != pinned.hex():
        raise _mismatch(f"it is KMS {identity['kms_id']}, not {pinned.hex()}")
    fields = _get(url, f"/v1/receipts/{digest.hex()}")
    envelope = parse_envelope(fields.raw("receipt"))
    inclusion = fields.optional("inclusion", fields.fields)
    fields.done()
    receipt = verify_receipt(envelope, kms_id=pinned, ed25519=bytes.fromhex(identity["ed25519"]))
    _check_hash(envelope.payload, digest)
    if inclusion is not None:
        _check_inclusion(inclusion, envelope.payload, seq=receipt.seq)
    return {
        "receipt": dict(read_object(envelope.payload, subject="receipt").document),
        "envelope": envelope.as_json(),
        "inclusion": None if inclusion is None else dict(inclusion.document),
    }


def _check_hash(payload: bytes, digest: bytes) -> None:
    if receipt_hash(payload) != digest:
        raise _mismatch("it answers with another receipt")


def _check_inclusion(inclusion: Fields, payload: bytes, *, seq: int) -> None:
    first, last = inclusion.integer("from_seq", least=1), inclusion.integer("to_seq", least=1)
    index, root = inclusion.integer("index"), inclusion.hexadecimal("root", size=32)
    path = [
        Fields({"hash": part}, subject="inclusion proof").hexadecimal("hash", size=32)
        for part in inclusion.array("path", most=64)
    ]
    inclusion.done()
    placed = first + index == seq <= last
    if not placed or not proof_holds(leaf=payload, index=index, size=last - first + 1, path=path, root=root):
        raise _mismatch("the inclusion proof does not hold")


def _get(url: str, path: str, *, largest: int = LARGEST_ANSWER) -> Fields:
    try:
        status, body = get(url, path, seconds=CALL_SECONDS, largest=largest)
    except GetError as error:
        raise _no_answer(f"{path} failed: {error}") from error
    if status != 200:
        raise _no_answer(f"{path} was answered with status {status}")
    return read_object(body, subject=f"answer to {path}")


def _no_answer(reason: str) -> KmsAnswerError:
    return KmsAnswerError(reason, subject="KMS", advice="check the URL and that the KMS runs")


def _mismatch(reason: str) -> KmsMismatchError:
    return KmsMismatchError(
        reason, subject="KMS", advice="do not use this KMS; ask the one that the app pins"
    )
