"""Fetches what ``kms.chain_view`` checks: the finalized head, then three proofs at that block."""

from __future__ import annotations

from contracts import layout
from kms.chain_proof import Header
from kms.chain_view import (
    ChainPins,
    ChainView,
    PolicyQuery,
    app_slots,
    build_view,
    check_head,
    named_image,
    registry_slots,
)
from kms.journal import Block, Journal
from kms.refusal import RefusalCode, RefusalError
from kms.rpc import Node


def read_head(node: Node, *, pins: ChainPins, journal: Journal, now: int) -> Header:
    """The finalized block, checked and remembered. Raises ``RefusalError`` or ``NodeError``."""
    try:
        return _read_head(node, pins=pins, journal=journal, now=now)
    except RefusalError as refusal:
        if refusal.code != RefusalCode.OLDER_HEAD:
            raise
        # Another request may have seen a block that was finalized while this one asked: ask again, once.
        return _read_head(node, pins=pins, journal=journal, now=now)


def _read_head(node: Node, *, pins: ChainPins, journal: Journal, now: int) -> Header:
    chain_id, head = node.chain_id(), node.finalized()
    with journal.exclusive():
        check_head(head, pins=pins, chain_id=chain_id, now=now, highest=journal.highest_block())
        journal.saw_block(Block(number=head.number, hash=head.hash, time=head.time))
    return head


def read_view(node: Node, head: Header, *, pins: ChainPins, query: PolicyQuery) -> ChainView:
    """The policy for ``query`` at ``head``. Raises ``RefusalError`` or ``NodeError``."""
    contract = pins.pin.contract
    registry = node.proof(contract, registry_slots(query), block=head.number)
    image_id = named_image(registry, head=head, pins=pins, query=query)
    image = node.proof(contract, list(layout.image_slots(image_id)), block=head.number)
    app = node.proof(query.app_id, app_slots(query, image_id), block=head.number)
    return build_view(head=head, pins=pins, query=query, registry=registry, image=image, app=app)
