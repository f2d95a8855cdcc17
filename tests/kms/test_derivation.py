"""Derivation against the published vectors, recomputed here by another route: HKDF from ``hmac`` and CBOR
written by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from eth_keys.datatypes import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from kms.derivation import DerivationError, KeyContext, KeyDomain, derive_key, key_info
from kms.root_key import ChainPin, RootKey, kms_id
from measurements.app_manifest import KeyKind, KeyScope

VECTORS = json.loads(
    (Path(__file__).resolve().parents[2] / "docs" / "key-derivation-vectors.json").read_text()
)
ORDERS = {
    "secp256k1": int(
        "ffffffff ffffffff ffffffff fffffffe baaedce6 af48a03b bfd25e8c d0364141".replace(" ", ""), 16
    ),
    "p256": 115792089210356248762697446949407573529996955224135760342422259061068512044369,
}
ROOT = bytes(range(64))
CONTEXT = KeyContext(
    domain=KeyDomain.APP,
    chain_id=31337,
    contract=b"\x11" * 20,
    app_id=b"\x22" * 20,
    scope=KeyScope.APP,
    scope_id=b"",
    path="web/tls",
    kind=KeyKind.RAW_256,
    epoch=0,
)


def head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << (8 * size):
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise AssertionError


def text(value: str) -> bytes:
    return head(3, len(value)) + value.encode()


def data(value: bytes) -> bytes:
    return head(2, len(value)) + value


def cbor_by_hand(c: dict[str, Any]) -> bytes:
    return (
        b"\xaa"
        + text("kind") + text(c["kind"])
        + text("path") + text(c["path"])
        + text("epoch") + head(0, c["epoch"])
        + text("scope") + text(c["scope"])
        + text("app_id") + data(bytes.fromhex(c["app_id"]))
        + text("domain") + text(c["domain"])
        + text("version") + head(0, 1)
        + text("chain_id") + head(0, c["chain_id"])
        + text("contract") + data(bytes.fromhex(c["contract"]))
        + text("scope_id") + data(bytes.fromhex(c["scope_id"]))
    )  # fmt: skip


def hkdf_by_hand(root: bytes, info: bytes, length: int) -> bytes:
    key = hmac.digest(b"keyturn-kdf/1", root, "sha512")
    first = hmac.digest(key, info + b"\x01", "sha512")
    assert length <= len(first)
    return first[:length]


def secret_by_hand(root: bytes, c: dict[str, Any]) -> bytes:
    info = cbor_by_hand(c)
    if c["kind"] in ORDERS:
        wide = int.from_bytes(hkdf_by_hand(root, info, 48), "big")
        return (wide % (ORDERS[c["kind"]] - 1) + 1).to_bytes(32, "big")
    return hkdf_by_hand(root, info, 32)


def context_of(c: dict[str, Any]) -> KeyContext:
    return KeyContext(
        domain=KeyDomain(c["domain"]),
        chain_id=c["chain_id"],
        contract=bytes.fromhex(c["contract"]),
        app_id=bytes.fromhex(c["app_id"]),
        scope=KeyScope(c["scope"]),
        scope_id=bytes.fromhex(c["scope_id"]),
        path=c["path"],
        kind=KeyKind(c["kind"]),
        epoch=c["epoch"],
    )


@pytest.mark.parametrize(
    "entry", VECTORS["keys"], ids=lambda e: f"{e['context']['scope']}-{e['context']['kind']}"
)
def test_published_vectors(entry: dict[str, Any]) -> None:
    root = bytes.fromhex(VECTORS["root"])
    c = entry["context"]
    assert cbor_by_hand(c).hex() == entry["info"]
    assert secret_by_hand(root, c).hex() == entry["secret"]
    key = derive_key(root, context_of(c))
    assert key_info(context_of(c)).hex() == entry["info"]
    assert key.secret.hex() == entry["secret"]
    assert (key.public.hex() if key.public else None) == entry["public"]


def test_vectors_cover_every_kind_scope_and_domain() -> None:
    contexts = [entry["context"] for entry in VECTORS["keys"]]
    assert {c["kind"] for c in contexts} == {kind.value for kind in KeyKind}
    assert {c["scope"] for c in contexts} == {scope.value for scope in KeyScope}
    assert {c["domain"] for c in contexts} == {domain.value for domain in KeyDomain}


@pytest.mark.parametrize("published", VECTORS["identities"], ids=lambda e: f"development-{e['development']}")
def test_published_identities(published: dict[str, Any]) -> None:
    pin = ChainPin(chain_id=published["chain_id"], contract=bytes.fromhex(published["contract"]))
    root = RootKey(root=bytes.fromhex(VECTORS["root"]), pin=pin, development=published["development"])
    identity = root.identity
    assert identity.ed25519.hex() == published["ed25519"]
    assert identity.secp256k1.hex() == published["secp256k1"]
    assert identity.address.hex() == published["address"]
    prefix = b"keyturn-kms-root/1\0"
    by_hand = hashlib.sha256(prefix + identity.ed25519 + identity.secp256k1).hexdigest()
    assert identity.kms_id.hex() == published["kms_id"] == by_hand


def test_public_halves_belong_to_the_secrets() -> None:
    own: str | None
    for entry in VECTORS["keys"]:
        secret, public = bytes.fromhex(entry["secret"]), entry["public"]
        match entry["context"]["kind"]:
            case "ed25519":
                own = (
                    ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()
                )
            case "x25519":
                own = x25519.X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()
            case "secp256k1":
                own = PrivateKey(secret).public_key.to_compressed_bytes().hex()
            case "p256":
                continue
            case _:
                own = None
        assert own == public


@pytest.mark.parametrize(
    "change",
    [
        {"domain": KeyDomain.KMS},
        {"domain": KeyDomain.APP_DEVELOPMENT},
        {"chain_id": 1},
        {"contract": b"\x12" * 20},
        {"app_id": b"\x23" * 20},
        {"scope": KeyScope.CODE, "scope_id": bytes(32)},
        {"scope": KeyScope.INSTANCE, "scope_id": bytes(16)},
        {"path": "web/tls2"},
        {"kind": KeyKind.AES_256},
        {"epoch": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_the_context_changes_the_key(change: dict[str, Any]) -> None:
    assert derive_key(ROOT, dataclasses.replace(CONTEXT, **change)).secret != derive_key(ROOT, CONTEXT).secret


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": 0},
        {"chain_id": 1 << 64},
        {"contract": bytes(20)},
        {"contract": b"\x11" * 19},
        {"app_id": b"\x11" * 21},
        {"scope": KeyScope.CODE},
        {"scope_id": b"\x01"},
        {"scope": KeyScope.INSTANCE, "scope_id": bytes(32)},
        {"path": ""},
        {"path": "/web"},
        {"path": "Web"},
        {"path": "a" * 129},
        {"path": "a\n"},
        {"epoch": -1},
        {"epoch": 1 << 64},
    ],
    ids=str,
)
def test_malformed_contexts_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DerivationError):
        dataclasses.replace(CONTEXT, **change)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_a_root_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(DerivationError):
        derive_key(bytes(size), CONTEXT)


@given(
    root=st.binary(min_size=64, max_size=64),
    kind=st.sampled_from(KeyKind),
    chain_id=st.integers(1, (1 << 64) - 1),
    epoch=st.integers(0, (1 << 64) - 1),
    path=st.from_regex(r"[a-z0-9][a-z0-9/_.-]{0,127}", fullmatch=True),
    instance=st.binary(min_size=16, max_size=16),
)
def test_both_routes_agree_on_any_context(
    root: bytes, kind: KeyKind, chain_id: int, epoch: int, path: str, instance: bytes
) -> None:
    context = dataclasses.replace(
        CONTEXT,
        kind=kind,
        chain_id=chain_id,
        epoch=epoch,
        path=path,
        scope=KeyScope.INSTANCE,
        scope_id=instance,
    )
    plain = {
        "domain": "keyturn-key",
        "chain_id": chain_id,
        "contract": context.contract.hex(),
        "app_id": context.app_id.hex(),
        "scope": "instance",
        "scope_id": instance.hex(),
        "path": path,
        "kind": kind.value,
        "epoch": epoch,
    }
    assert key_info(context) == cbor_by_hand(plain)
    assert derive_key(root, context).secret == secret_by_hand(root, plain)


def test_development_is_another_identity_with_other_keys() -> None:
    pin = ChainPin(chain_id=31337, contract=b"\x11" * 20)
    release = RootKey(root=ROOT, pin=pin, development=False)
    development = RootKey(root=ROOT, pin=pin, development=True)
    assert release.identity.kms_id != development.identity.kms_id
    assert release.challenge_mac_key != development.challenge_mac_key

    def storage(root: RootKey) -> bytes:
        return root.app_key(
            app_id=b"\x22" * 20, scope=KeyScope.APP, scope_id=b"", path="a", kind=KeyKind.RAW_256, epoch=0
        ).secret

    assert storage(release) != storage(development)


def test_the_identity_is_bound_to_chain_and_registry() -> None:
    pins = [ChainPin(chain_id=c, contract=a * 20) for c in (1, 2) for a in (b"\x01", b"\x02")]
    assert len({RootKey(root=ROOT, pin=pin, development=False).identity.kms_id for pin in pins}) == 4


def test_secrets_do_not_show_in_representations() -> None:
    root = RootKey(root=ROOT, pin=ChainPin(chain_id=1, contract=b"\x01" * 20), development=False)
    key = derive_key(ROOT, CONTEXT)
    assert ROOT.hex() not in repr(root)
    assert repr(ROOT) not in repr(root)
    assert repr(key.secret) not in repr(key)


def test_kms_id_binds_both_keys() -> None:
    assert kms_id(bytes(32), bytes(33)) != kms_id(bytes(32), bytes(32) + b"\x01")
    assert kms_id(bytes(32), bytes(33)) != kms_id(b"\x01" + bytes(31), bytes(33))
