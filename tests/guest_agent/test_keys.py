"""Keys in the agent: exactly those asked for, the app's own only, signatures that verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from attestation.report_data import KeyRequest
from guest_agent.keys import (
    ENVELOPE_KEY,
    SIGN_PREFIX,
    STORAGE_KEY,
    HeldKey,
    KeyFormatError,
    KeyStore,
    NoKeyError,
    public_half,
)
from guest_agent.sealed_keys import KeyOwner, RootError, derive_sealed_key, encode_cbor, open_root
from measurements.app_manifest import KeyKind, KeyScope
from tests.guest_agent.fakes import MemoryBackend

VECTORS = json.loads(
    Path(__file__).parents[2].joinpath("docs/key-derivation-vectors.json").read_text(encoding="ascii")
)
OWNER = KeyOwner(1, b"\x01" * 20, b"\x02" * 20, b"\x03" * 32, b"\x04" * 16)
ROOT = bytes(range(64))


def held(path: str, kind: KeyKind, scope: KeyScope = KeyScope.APP) -> HeldKey:
    return derive_sealed_key(ROOT, OWNER, KeyRequest(path, kind.value, scope.value))


def store(*keys: HeldKey) -> KeyStore:
    return KeyStore(keys, wanted=[KeyRequest(key.path, key.kind.value, key.scope.value) for key in keys])


class TestStore:
    def test_by_path_and_kind(self) -> None:
        key, other = held("a", KeyKind.AES_256), held("a", KeyKind.RAW_256)
        assert store(key, other).app_key("a", KeyKind.AES_256) is key
        with pytest.raises(NoKeyError, match="no key of kind p256"):
            store(key, other).app_key("a", KeyKind.P256)

    def test_the_agent_s_own_keys_stay_inside(self) -> None:
        storage = held(STORAGE_KEY.path, KeyKind.RAW_256, KeyScope.INSTANCE)
        assert store(storage).storage_secret() == storage.secret
        with pytest.raises(NoKeyError):
            store(storage).app_key(STORAGE_KEY.path, KeyKind.RAW_256)

    def test_the_key_of_envelopes_stays_inside(self) -> None:
        envelope = held(ENVELOPE_KEY.path, KeyKind.X25519)
        assert store(envelope).envelope_key() is envelope
        with pytest.raises(NoKeyError):
            store(envelope).app_key(ENVELOPE_KEY.path, KeyKind.X25519)
        with pytest.raises(NoKeyError, match="no owner"):
            store().envelope_key()

    def test_there_is_no_disk(self) -> None:
        with pytest.raises(NoKeyError, match="no encrypted disk"):
            store().storage_secret()

    @pytest.mark.parametrize("change", [slice(1), slice(1, None), slice(None, None, -1)])
    def test_other_keys_than_asked_for(self, change: slice) -> None:
        keys = [held("a", KeyKind.RAW_256), held("b", KeyKind.RAW_256)]
        wanted = [KeyRequest("a", "raw-256", "app"), KeyRequest("b", "raw-256", "app")]
        assert KeyStore(keys, wanted=wanted).app_key("b", KeyKind.RAW_256) is keys[1]
        with pytest.raises(KeyFormatError, match="asked for"):
            KeyStore(keys[change], wanted=wanted)

    def test_the_same_key_twice(self) -> None:
        key = held("a", KeyKind.RAW_256)
        with pytest.raises(KeyFormatError, match="twice"):
            store(key, key)

    @pytest.mark.parametrize("kind", KeyKind)
    def test_a_key_that_is_not_whole(self, kind: KeyKind) -> None:
        key = held("a", kind)
        for bad in (
            key._replace(secret=bytes(32)),
            key._replace(secret=key.secret[:-1]),
            key._replace(public=b"\x02" * 32 if key.public is None else None),
            key._replace(public=bytes(32)),
        ):
            with pytest.raises(KeyFormatError):
                store(bad)

    def test_secrets_are_never_shown(self) -> None:
        key = held("a", KeyKind.RAW_256)
        shown = f"{key!r} {store(key)!r} {key} {open_root(MemoryBackend())!r}"
        assert key.secret.hex() not in shown
        assert repr(key.secret) not in shown


class TestSign:
    def test_ed25519(self) -> None:
        signed = store(held("a", KeyKind.ED25519)).sign("a", b"data")
        key = ed25519.Ed25519PublicKey.from_public_bytes(signed.public)
        key.verify(signed.signature, SIGN_PREFIX + b"data")
        with pytest.raises(InvalidSignature):
            key.verify(signed.signature, b"data")

    @pytest.mark.parametrize(
        ("kind", "curve"), [(KeyKind.SECP256K1, ec.SECP256K1()), (KeyKind.P256, ec.SECP256R1())]
    )
    def test_ecdsa(self, kind: KeyKind, curve: ec.EllipticCurve) -> None:
        signed = store(held("a", kind)).sign("a", b"data")
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve, signed.public)
        key.verify(signed.signature, SIGN_PREFIX + b"data", ec.ECDSA(SHA256()))
        with pytest.raises(InvalidSignature):
            key.verify(signed.signature, SIGN_PREFIX + b"Data", ec.ECDSA(SHA256()))

    @pytest.mark.parametrize("kind", [KeyKind.RAW_256, KeyKind.AES_256, KeyKind.X25519])
    def test_kinds_that_do_not_sign(self, kind: KeyKind) -> None:
        with pytest.raises(NoKeyError, match="no signing key"):
            store(held("a", kind)).sign("a", b"data")

    def test_two_signing_keys_at_one_path_are_ambiguous(self) -> None:
        with pytest.raises(NoKeyError, match="more than one"):
            store(held("a", KeyKind.ED25519), held("a", KeyKind.P256)).sign("a", b"data")

    def test_the_agent_s_own_keys_sign_nothing(self) -> None:
        with pytest.raises(NoKeyError):
            store(held("keyturn/x", KeyKind.ED25519)).sign("keyturn/x", b"data")


class TestSealedRoot:
    def test_made_once_and_read_again(self) -> None:
        backend = MemoryBackend()
        first, second = open_root(backend), open_root(backend)
        assert (first.made, second.made) == (True, False)
        assert first.secret == second.secret
        assert len(first.secret) == 64

    @pytest.mark.parametrize("secret", [bytes(64), b"\x01" * 63, b""])
    def test_no_root(self, secret: bytes) -> None:
        backend = MemoryBackend()
        backend.secret = secret
        with pytest.raises(RootError):
            open_root(backend)


def vectors() -> list[dict[str, Any]]:
    return [vector for vector in VECTORS["keys"] if vector["context"]["epoch"] == 0]


class TestDerivation:
    @pytest.mark.parametrize("vector", vectors())
    def test_published_vectors(self, vector: dict[str, Any]) -> None:
        context = vector["context"]
        scope_id = bytes.fromhex(context["scope_id"])
        owner = KeyOwner(
            chain_id=context["chain_id"],
            contract=bytes.fromhex(context["contract"]),
            app_id=bytes.fromhex(context["app_id"]),
            app_hash=scope_id if context["scope"] == "code" else b"\xee" * 32,
            instance_id=scope_id if context["scope"] == "instance" else b"\xee" * 16,
        )
        request = KeyRequest(context["path"], context["kind"], context["scope"])
        key = derive_sealed_key(bytes.fromhex(VECTORS["root"]), owner, request, domain=context["domain"])
        assert key.secret.hex() == vector["secret"]
        assert (None if key.public is None else key.public.hex()) == vector["public"]

    def test_the_domain_is_its_own(self) -> None:
        known = {vector["context"]["domain"] for vector in VECTORS["keys"]}
        own = held("a", KeyKind.RAW_256)
        for domain in known:
            request = KeyRequest("a", "raw-256", "app")
            assert derive_sealed_key(ROOT, OWNER, request, domain=domain).secret != own.secret

    def test_every_field_matters(self) -> None:
        owners = [
            OWNER,
            OWNER._replace(chain_id=2),
            OWNER._replace(contract=b"\x09" * 20),
            OWNER._replace(app_id=b"\x09" * 20),
            OWNER._replace(app_hash=b"\x09" * 32),
            OWNER._replace(instance_id=b"\x09" * 16),
        ]
        for scope, distinct in ((KeyScope.APP, 4), (KeyScope.CODE, 5), (KeyScope.INSTANCE, 5)):
            request = KeyRequest("a", "raw-256", scope.value)
            assert len({derive_sealed_key(ROOT, owner, request).secret for owner in owners}) == distinct

    @given(
        st.dictionaries(
            st.text(max_size=40),
            st.one_of(st.text(), st.binary(), st.integers(0, (1 << 64) - 1)),
            max_size=30,
        )
    )
    def test_cbor_is_that_of_a_library(self, members: dict[str, str | bytes | int]) -> None:
        assert cbor2.loads(encode_cbor(members)) == members
        assert encode_cbor(members) == cbor2.dumps(members, canonical=True)

    def test_a_secret_that_is_no_scalar(self) -> None:
        with pytest.raises(KeyFormatError, match="no p256 key"):
            public_half(KeyKind.P256, b"\xff" * 32)
