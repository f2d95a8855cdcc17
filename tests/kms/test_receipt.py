"""Receipts: one encoding, and no byte of an envelope that can change."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from kms.receipt import (
    RECEIPT_PAYLOAD_TYPE,
    Decision,
    Envelope,
    Outcome,
    Reason,
    Receipt,
    ReceiptError,
    ReceiptKey,
    parse_envelope,
    parse_receipt,
    pre_authentication_encoding,
    receipt_hash,
    receipt_payload,
    sign_envelope,
    verify_receipt,
)
from kms.strict_json import FieldError
from measurements.app_manifest import KeyKind, KeyScope
from measurements.errors import KeyturnError
from tests.kms.receipts import CHAIN, ISSUE, REFUSE, ROOT, SUBJECT, receipt

IDENTITY = ROOT.identity
CONFIRM = Outcome(decision=Decision.CONFIRM, confirms=b"\xdd" * 32)
OUTCOMES = [ISSUE, REFUSE, CONFIRM]


def signed(value: Receipt, key: Ed25519PrivateKey = ROOT.receipt_key) -> Envelope:
    return sign_envelope(
        receipt_payload(value), payload_type=RECEIPT_PAYLOAD_TYPE, key_id=IDENTITY.kms_id, key=key
    )


def verify(envelope: Envelope) -> Receipt:
    return verify_receipt(envelope, kms_id=IDENTITY.kms_id, ed25519=IDENTITY.ed25519)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.decision.value)
def test_a_receipt_survives_its_envelope(outcome: Outcome) -> None:
    value = receipt(outcome=outcome)
    sent = json.loads(json.dumps(signed(value).as_json()))
    assert verify(parse_envelope(sent)) == value


def test_the_payload_has_exactly_the_documented_keys() -> None:
    assert set(json.loads(receipt_payload(receipt()))) == {
        *("type", "kms_id", "seq", "prev_hash", "time", "development", "decision", "reason", "nonce", "role"),
        *("app_id", "instance_id", "app_hash", "image_id", "reference_digest", "platform", "platform_root"),
        *("platform_id", "keys", "report_data", "evidence_hash", "format_permitted", "confirms", "chain"),
        "verifier",
    }


def test_the_signature_covers_the_encoding_of_dsse() -> None:
    # The example of the DSSE specification (protocol.md).
    assert pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(data=st.data())
def test_a_flipped_bit_of_the_envelope_is_refused(data: st.DataObject) -> None:
    envelope = signed(receipt())
    name = data.draw(st.sampled_from(["payload", "key_id", "signature"]))
    changed = bytearray(getattr(envelope, name))
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    changes: dict[str, Any] = {name: bytes(changed)}
    with pytest.raises(KeyturnError):
        verify(dataclasses.replace(envelope, **changes))


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(ReceiptError):
        verify(dataclasses.replace(signed(receipt()), payload_type="application/json"))


def test_a_receipt_signed_by_another_key_is_refused() -> None:
    with pytest.raises(ReceiptError):
        verify(signed(receipt(), Ed25519PrivateKey.from_private_bytes(bytes(32))))


def test_a_receipt_that_names_another_kms_is_refused() -> None:
    with pytest.raises(ReceiptError):
        verify(signed(dataclasses.replace(receipt(), kms_id=bytes(32))))


@pytest.mark.parametrize("count", [0, 2])
def test_an_envelope_has_exactly_one_signature(count: int) -> None:
    document = signed(receipt()).as_json()
    document["signatures"] = document["signatures"] * count
    with pytest.raises(FieldError):
        parse_envelope(document)


def test_another_encoding_of_the_same_receipt_is_refused() -> None:
    payload = receipt_payload(receipt())
    with pytest.raises(FieldError, match="canonical"):
        parse_receipt(json.dumps(json.loads(payload), indent=1).encode())


@pytest.mark.parametrize("key", sorted(json.loads(receipt_payload(receipt()))))
def test_a_missing_key_is_refused(key: str) -> None:
    document = json.loads(receipt_payload(receipt()))
    del document[key]
    with pytest.raises(FieldError, match="missing"):
        parse_receipt(json.dumps(document).encode())


def test_an_unknown_key_is_refused() -> None:
    document = {**json.loads(receipt_payload(receipt())), "more": 1}
    with pytest.raises(FieldError, match="unknown"):
        parse_receipt(json.dumps(document).encode())


def test_a_duplicate_key_is_refused() -> None:
    payload = receipt_payload(receipt())
    with pytest.raises(FieldError, match="twice"):
        parse_receipt(payload[:-1] + b',"seq":1}')


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seq", 0),
        ("seq", True),
        ("seq", 1.0),
        ("time", -1),
        ("kms_id", "AA" * 32),
        ("nonce", "00"),
        ("role", 1),
    ],
)
def test_a_member_of_another_type_is_refused(key: str, value: Any) -> None:
    document = {**json.loads(receipt_payload(receipt())), key: value}
    with pytest.raises(FieldError):
        parse_receipt(json.dumps(document).encode())


@pytest.mark.parametrize(
    "members",
    [
        {"decision": Decision.REFUSE},
        {"decision": Decision.ISSUE, "reason": Reason(code="a", text="b"), "chain": CHAIN},
        {"decision": Decision.ISSUE},
        {"decision": Decision.CONFIRM},
        {"decision": Decision.REFUSE, "reason": Reason(code="a", text="b"), "format_permitted": True},
        {"decision": Decision.ISSUE, "chain": CHAIN, "confirms": bytes(32)},
    ],
    ids=str,
)
def test_an_outcome_that_contradicts_itself_cannot_be_made(members: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        Outcome(**members)


@given(
    seq=st.integers(1, (1 << 53) - 1),
    paths=st.lists(st.from_regex(r"[a-z0-9][a-z0-9/_.-]{0,60}", fullmatch=True), max_size=5),
    nonce=st.binary(min_size=32, max_size=32),
    text=st.text(max_size=200),
)
def test_every_receipt_reads_back_as_itself(seq: int, paths: list[str], nonce: bytes, text: str) -> None:
    keys = tuple(
        ReceiptKey(path=path, kind=KeyKind.RAW_256, scope=KeyScope.CODE, epoch=0, public=None)
        for path in paths
    )
    text = text.encode("utf-8", "replace").decode()
    value = receipt(
        seq=seq,
        subject=dataclasses.replace(SUBJECT, nonce=nonce, app_hash=None),
        outcome=dataclasses.replace(REFUSE, keys=keys, reason=Reason(code="x", text=text)),
    )
    payload = receipt_payload(value)
    assert parse_receipt(payload) == value
    assert len(receipt_hash(payload)) == 32


def test_base64_has_one_form() -> None:
    document = signed(receipt()).as_json()
    document["payload"] = base64.b64encode(b"a").decode()[:-2] + "=="
    assert document["payload"] == "YQ=="
    document["payload"] = "YR=="
    with pytest.raises(FieldError, match="canonical"):
        parse_envelope(document)
