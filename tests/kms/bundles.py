"""A whole bundle: a key release by a KMS on a fake chain, and everything that verifies it."""

from __future__ import annotations

import json
from typing import Any

from contracts import layout
from kms.bundle import Bundle, header_part, proof_part
from kms.chain_view import app_slots, registry_slots
from kms.merkle import inclusion_proof
from kms.policy_tree import receipt_query
from kms.receipt import parse_receipt
from kms.verification import VerifierAnchors
from tests.kms.fake_chain import IMAGE_ID, PINS
from tests.kms.guests import AUTHORITY, BOOTED, Guest, World
from tests.kms.receipts import APP_ID
from tests.support.reference_documents import reference_document


def make_bundle(world: World, guest: Guest) -> Bundle:
    """The bundle of one release, with two other receipts in its batch."""
    asked = guest.key_request()
    recorded = guest.ask(asked).recorded
    for _ in range(2):
        world.guest(dev=guest.dev).ask()
    world.kms.journal.close_batches()
    batch = world.kms.journal.batch_of(recorded.receipt.seq)
    assert batch is not None
    anchor, index = batch.anchor, recorded.receipt.seq - batch.anchor.from_seq
    path = inclusion_proof(world.kms.journal.payloads(anchor.from_seq, anchor.to_seq), index)
    world.chain.anchor(anchor)
    query, chain = receipt_query(parse_receipt(recorded.envelope.payload)), world.chain
    identity = world.root.identity
    return Bundle(
        receipt=recorded.envelope.as_json(),
        inclusion={
            "from_seq": anchor.from_seq,
            "to_seq": anchor.to_seq,
            "root": anchor.root.hex(),
            "index": index,
            "path": [node.hex() for node in path],
        },
        batch=batch.as_json(),
        kms={"ed25519": identity.ed25519.hex(), "secp256k1": identity.secp256k1.hex()},
        evidence=json.loads(json.dumps(asked["evidence"])),
        reference=reference_document(BOOTED[0], dev=guest.dev),
        chain={
            "header": header_part(chain.block()),
            "registry": proof_part(chain.proof_answer(chain.pin.contract, registry_slots(query))),
            "image": proof_part(chain.proof_answer(chain.pin.contract, list(layout.image_slots(IMAGE_ID)))),
            "app": proof_part(chain.proof_answer(APP_ID, app_slots(query, IMAGE_ID))),
        },
        anchoring=chain.anchoring(),
    )


def anchors_of(world: World, **changes: Any) -> VerifierAnchors:
    """What a user of this world trusts."""
    trusted: dict[str, Any] = {
        "roots": (AUTHORITY.certificate,),
        "intermediates": (),
        "pins": PINS,
        "kms_id": world.root.identity.kms_id,
        "app_id": APP_ID,
        **changes,
    }
    return VerifierAnchors(**trusted)
