"""What the KMS answers, as JSON documents: identity, public halves of keys, receipts with proofs, batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kms.derivation import is_key_path
from kms.journal import Journal
from kms.merkle import inclusion_proof
from kms.messages import encode_base64
from kms.public_half import PUBLIC_KEY_PAYLOAD_TYPE, PublicKeyOf, public_half_payload
from kms.receipt import sign_envelope
from kms.release import Issued
from kms.root_key import Identity, RootKey
from kms.strict_json import Fields, fail, member
from measurements.app_manifest import KeyKind, KeyScope
from measurements.errors import KeyturnError

_QUERY = ("app_id", "path", "kind", "epoch")


class NotFoundError(KeyturnError):
    """Something that does not exist here."""

    code = "not-found"


def identity_json(identity: Identity) -> dict[str, Any]:
    """``GET /v1/public-key``."""
    return {
        "kms_id": identity.kms_id.hex(),
        "ed25519": identity.ed25519.hex(),
        "secp256k1": identity.secp256k1.hex(),
        "address": f"0x{identity.address.hex()}",
        "chain_id": identity.pin.chain_id,
        "contract": f"0x{identity.pin.contract.hex()}",
        "development": identity.development,
    }


def public_half(root: RootKey, query: Mapping[str, str]) -> dict[str, Any]:
    """``GET /v1/public-key?app_id=&path=&kind=&epoch=``: the public half of an app key, signed."""
    fields = Fields(dict(query), subject="query")
    app_id, path = fields.address("app_id"), fields.text("path")
    kind = member(KeyKind, fields.text("kind"), subject="query")
    epoch = fields.text("epoch", longest=15)
    fields.done()
    if not is_key_path(path) or not epoch.isascii() or not epoch.isdigit() or not any(app_id):
        fail("query", f"it is not of the form {', '.join(_QUERY)}")
    key = root.app_key(
        app_id=app_id, scope=KeyScope.APP, scope_id=b"", path=path, kind=kind, epoch=int(epoch)
    )
    if key.public is None:
        fail("query", f"kind {kind.value} has no public half")
    named = PublicKeyOf(
        kms_id=root.identity.kms_id,
        chain_id=root.pin.chain_id,
        contract=root.pin.contract,
        app_id=app_id,
        path=path,
        kind=kind,
        epoch=int(epoch),
    )
    envelope = sign_envelope(
        public_half_payload(named, development=root.development, public=key.public),
        payload_type=PUBLIC_KEY_PAYLOAD_TYPE,
        key_id=root.identity.kms_id,
        key=root.receipt_key,
    )
    return envelope.as_json()


def issued_json(issued: Issued) -> dict[str, Any]:
    """200 of ``POST /v1/keys``."""
    return {"sealed": encode_base64(issued.sealed), "receipt": issued.recorded.envelope.as_json()}


def receipt_json(journal: Journal, receipt_hash: str) -> dict[str, Any]:
    """``GET /v1/receipts/{receipt hash}``, with its inclusion proof once it is in a batch."""
    wanted = Fields({"hash": receipt_hash}, subject="receipt hash").hexadecimal("hash", size=32)
    recorded = journal.by_hash(wanted)
    if recorded is None:
        raise NotFoundError(
            "there is no such receipt", subject="receipt", advice="ask the KMS that signed it, by H(payload)"
        )
    return {"receipt": recorded.envelope.as_json(), "inclusion": _inclusion(journal, recorded.receipt.seq)}


def anchors_json(journal: Journal, after: str) -> dict[str, Any]:
    """``GET /v1/anchors?after=seq``: closes a batch of what is new, and lists those above ``after``."""
    if not (after.isascii() and after.isdigit() and len(after) <= 15):
        fail("query", "'after' is not a sequence number")
    journal.close_batches()
    return {"batches": [batch.as_json() for batch in journal.batches(after=int(after))]}


def error_json(error: KeyturnError) -> dict[str, Any]:
    """An error as every call shows it."""
    return {"error": {"code": error.code, "reason": error.reason, "advice": error.advice}}


def _inclusion(journal: Journal, seq: int) -> dict[str, Any] | None:
    batch = journal.batch_of(seq)
    if batch is None:
        return None
    anchor = batch.anchor
    index = seq - anchor.from_seq
    path = inclusion_proof(journal.payloads(anchor.from_seq, anchor.to_seq), index)
    return {
        "from_seq": anchor.from_seq,
        "to_seq": anchor.to_seq,
        "root": anchor.root.hex(),
        "index": index,
        "path": [sibling.hex() for sibling in path],
    }
