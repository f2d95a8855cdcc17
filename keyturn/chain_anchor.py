"""Put the receipts of a key service on chain: ask it for what follows the last anchor, and send that."""

from __future__ import annotations

import json
from typing import Any

import requests

from contracts import binding, layout, policy
from contracts.batches import parse_batches
from contracts.signers import Signer
from keyturn.chain_options import Session
from measurements.errors import KeyturnError
from measurements.json_text import json_text

TIMEOUT_SECONDS = 30
MAX_BYTES = 4 * 1024 * 1024


class KmsUnreachableError(KeyturnError):
    """A key service that does not answer."""

    code = "kms-unreachable"


def anchor_receipts(session: Session, signer: Signer, *, kms_url: str, kms_id: bytes) -> list[dict[str, Any]]:
    """Anchor all that is new; returns each batch with the block that holds it."""
    registry = session.deployment.registry
    words = binding.read_words(session.web3, registry, layout.kms_node_slots(kms_id), block="latest")
    last_seq = layout.decode_kms_node(words).last_seq
    document = _ask(f"{kms_url.rstrip('/')}/v1/anchors", {"after": str(last_seq)})
    sent = []
    for batch in parse_batches(document, kms_id=kms_id, last_seq=last_seq):
        receipt = binding.send(session.web3, signer, policy.anchor(registry, batch))
        sent.append(
            {
                "from_seq": batch.from_seq,
                "to_seq": batch.to_seq,
                "root": batch.root.hex(),
                "block": int(receipt["blockNumber"]),
            }
        )
    return sent


def _ask(url: str, parameters: dict[str, str]) -> Any:
    try:
        with requests.get(url, params=parameters, timeout=TIMEOUT_SECONDS, stream=True) as answer:
            answer.raise_for_status()
            text = answer.raw.read(MAX_BYTES + 1, decode_content=True)
        if len(text) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return json.loads(json_text(text))
    except (requests.RequestException, ValueError) as error:
        raise KmsUnreachableError(
            f"gave no batches: {error}", subject=url, advice="check the URL and that the KMS runs"
        ) from error
