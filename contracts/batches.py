"""Batches of receipts as a key service publishes them (``GET /v1/anchors``), ready for the contract.

JSON, all keys required and no others, a list in order::

    {"batches": [{"kms_id": hex (32), "from_seq": int, "to_seq": int, "root": hex (32),
                  "signature": hex (65)}]}

The contract checks signatures; here only the form is checked, and that the batches are of one key service and
follow each other without a gap, so that nothing is paid for that cannot be anchored.
"""

from __future__ import annotations

from typing import Any

from contracts.policy import Anchor
from measurements.errors import FormatError

SIGNATURE_BYTES = 65
MAX_SEQ = 2**64 - 1
_KEYS = {"kms_id", "from_seq", "to_seq", "root", "signature"}


class BatchError(FormatError):
    """Batches that a key service should not have published."""

    code = "batch"


def parse_batches(document: Any, *, kms_id: bytes, last_seq: int) -> list[Anchor]:
    """The batches of ``kms_id`` that follow ``last_seq``; raises ``BatchError``."""
    if not isinstance(document, dict) or set(document) != {"batches"}:
        raise _error("are not a document with batches")
    if not isinstance(document["batches"], list):
        raise _error("are no list")
    anchors = [_anchor(item) for item in document["batches"]]
    for anchor in anchors:
        if anchor.kms_id != kms_id:
            raise _error(f"are of KMS {anchor.kms_id.hex()}, not {kms_id.hex()}")
        if anchor.from_seq != last_seq + 1 or anchor.to_seq < anchor.from_seq:
            raise _error(f"have {anchor.from_seq} to {anchor.to_seq} after {last_seq}")
        last_seq = anchor.to_seq
    return anchors


def _anchor(item: Any) -> Anchor:
    if not isinstance(item, dict) or set(item) != _KEYS:
        raise _error(f"hold one without exactly {', '.join(sorted(_KEYS))}")
    return Anchor(
        kms_id=_hex(item["kms_id"], 32),
        from_seq=_seq(item["from_seq"]),
        to_seq=_seq(item["to_seq"]),
        root=_hex(item["root"], 32),
        signature=_hex(item["signature"], SIGNATURE_BYTES),
    )


def _seq(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_SEQ:
        raise _error(f"have a sequence number {value!r}")
    return value


def _hex(value: Any, size: int) -> bytes:
    try:
        data = bytes.fromhex(value)
    except (TypeError, ValueError):
        data = b""
    if len(data) != size or data.hex() != value or not any(data):
        raise _error(f"hold a value that is not {size} bytes in hex, or zero")
    return data


def _error(reason: str) -> BatchError:
    return BatchError(reason, subject="batches", advice="ask the KMS again for what follows the last anchor")
