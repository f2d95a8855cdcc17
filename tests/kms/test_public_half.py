"""Public halves of app keys, as whoever seals something to an app checks them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kms.answers import public_half
from kms.public_half import PUBLIC_KEY_PAYLOAD_TYPE, PublicHalfError, PublicKeyOf, read_public_half
from kms.receipt import Envelope, ReceiptError, parse_envelope, sign_envelope
from kms.root_key import RootKey
from kms.strict_json import canonical_json, read_object
from measurements.app_manifest import KeyKind, KeyScope
from measurements.errors import KeyturnError
from tests.kms.receipts import APP_ID, DEVELOPMENT_ROOT, PIN, ROOT

WANTED = PublicKeyOf(
    kms_id=ROOT.identity.kms_id,
    chain_id=PIN.chain_id,
    contract=PIN.contract,
    app_id=APP_ID,
    path="keyturn/envelope",
    kind=KeyKind.X25519,
    epoch=3,
)


def ask(root: RootKey = ROOT, *, changes: dict[str, str] | None = None) -> Envelope:
    query = {"app_id": f"0x{APP_ID.hex()}", "path": WANTED.path, "kind": "x25519", "epoch": "3"}
    return parse_envelope(public_half(root, query | (changes or {})))


def read(envelope: Envelope, wanted: PublicKeyOf = WANTED) -> bytes:
    return read_public_half(envelope, wanted, ed25519=ROOT.identity.ed25519, development=False)


@pytest.mark.parametrize("kind", [KeyKind.X25519, KeyKind.ED25519, KeyKind.SECP256K1, KeyKind.P256])
def test_it_is_the_half_of_the_key_that_a_guest_gets(kind: KeyKind) -> None:
    key = ROOT.app_key(app_id=APP_ID, scope=KeyScope.APP, scope_id=b"", path=WANTED.path, kind=kind, epoch=3)
    wanted = dataclasses.replace(WANTED, kind=kind)
    assert read(ask(changes={"kind": kind.value}), wanted) == key.public


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"app_id": "0x" + "11" * 20}, "app_id"),
        ({"path": "keyturn/other"}, "path"),
        ({"kind": "ed25519"}, "kind"),
        ({"epoch": "2"}, "epoch"),
    ],
)
def test_of_another_key(change: dict[str, str], field: str) -> None:
    with pytest.raises(PublicHalfError, match=f"another {field}"):
        read(ask(changes=change))


def test_of_another_kms() -> None:
    other = RootKey(root=bytes(64), pin=PIN, development=False)
    with pytest.raises(ReceiptError, match="signed by KMS"):
        read(ask(other))


def test_of_a_development_kms() -> None:
    wanted = dataclasses.replace(WANTED, kms_id=DEVELOPMENT_ROOT.identity.kms_id)
    ed25519 = DEVELOPMENT_ROOT.identity.ed25519
    with pytest.raises(PublicHalfError, match="another development"):
        read_public_half(ask(DEVELOPMENT_ROOT), wanted, ed25519=ed25519, development=False)
    assert read_public_half(ask(DEVELOPMENT_ROOT), wanted, ed25519=ed25519, development=True)


@pytest.mark.parametrize(
    "change",
    [{"public": None}, {"public": "00"}, {"chain_id": 1}, {"scope": "instance"}, {"more": 1}],
    ids=str,
)
def test_another_document_with_a_good_signature(change: dict[str, Any]) -> None:
    document = {**read_object(ask().payload, subject="payload").document, **change}
    envelope = sign_envelope(
        canonical_json(document),
        payload_type=PUBLIC_KEY_PAYLOAD_TYPE,
        key_id=ROOT.identity.kms_id,
        key=ROOT.receipt_key,
    )
    with pytest.raises(KeyturnError):
        read(envelope)


def test_attack_a_flipped_byte_anywhere() -> None:
    envelope = ask()
    for index in range(len(envelope.payload)):
        payload = bytearray(envelope.payload)
        payload[index] ^= 1
        with pytest.raises(ReceiptError, match="signature"):
            read(dataclasses.replace(envelope, payload=bytes(payload)))
