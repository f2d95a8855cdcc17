"""Envelopes of an app's owner: what opens, and every way in which one does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from guest_agent.keys import HeldKey
from guest_agent.owner_envelope import (
    Accepted,
    EnvelopeError,
    Seen,
    accept_envelope,
    check_counter,
    container_env,
    encode_seen,
    open_envelope,
    parse_seen,
    target_of,
)
from measurements.app_manifest import AppManifest, KeyKind, KeyScope, parse_manifest
from measurements.envelope import EnvelopeFormatError, parse_envelope
from measurements.errors import FormatError, KeyturnError
from tests.support.app_documents import config, container_document, manifest_bytes
from tests.support.envelopes import APP_SECRET, ENV, OWNER, OWNER_KEY, TARGET, public_of, sealed

VECTOR = json.loads(Path(__file__).parents[2].joinpath("docs/envelope-vector.json").read_text("ascii"))
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x0e" * 32)
CONTAINER = container_document(allowed_env=["DATABASE_PASSWORD", "TOKEN", "GREETING"])
ENVELOPE = sealed()


def manifest(**changes: Any) -> AppManifest:
    return parse_manifest(
        manifest_bytes(**{"owner_key": OWNER_KEY.hex(), "containers": [CONTAINER], **changes})
    )


def held(epoch: int = 3, secret: bytes = APP_SECRET) -> HeldKey:
    return HeldKey("keyturn/envelope", KeyKind.X25519, KeyScope.APP, epoch, secret, public_of(secret))


def accept(
    envelope: bytes | None = ENVELOPE,
    *,
    key: HeldKey | None = None,
    record: bytes | None = None,
    host: dict[str, str] | None = None,
    app: AppManifest | None = None,
) -> Accepted:
    return accept_envelope(
        config(envelope=envelope, env=host or {}), app or manifest(), key=key or held(), record=record
    )


def refused(reason: str, *arguments: Any, **changes: Any) -> None:
    with pytest.raises(EnvelopeError, match=reason):
        accept(*arguments, **changes)


class TestAccepted:
    def test_the_golden_envelope(self) -> None:
        assert bytes.fromhex(VECTOR["owner_private"]) == OWNER.private_bytes_raw()
        opened = open_envelope(
            parse_envelope(VECTOR["envelope"].encode("ascii")), TARGET, bytes.fromhex(VECTOR["app_private"])
        )
        assert opened.env == VECTOR["env"] == ENV
        assert opened.seen.counter == 7

    def test_the_owner_s_values_join_the_host_s(self) -> None:
        accepted = accept(host={"GREETING": "hello"})
        assert accepted.env == {**ENV, "GREETING": "hello"}
        assert parse_seen(accepted.record).counter == 7

    def test_the_same_envelope_at_every_boot(self) -> None:
        first = accept()
        assert accept(record=first.record) == first

    def test_a_newer_envelope_raises_the_counter(self) -> None:
        newer = accept(sealed(counter=8), record=accept().record)
        assert parse_seen(newer.record).counter == 8

    def test_secrets_are_never_shown(self) -> None:
        shown = repr(accept()) + repr(open_envelope(parse_envelope(ENVELOPE), TARGET, APP_SECRET))
        assert not any(value in shown for value in ENV.values())

    @given(
        st.dictionaries(st.sampled_from(["DATABASE_PASSWORD", "TOKEN"]), st.text('ab \u2713=\n"')),
        st.integers(1, 1 << 40),
    )
    @settings(deadline=None)
    def test_what_is_sealed_comes_out(self, env: dict[str, str], counter: int) -> None:
        accepted = accept(sealed(env, counter=counter))
        assert (accepted.env, accepted.counter) == (env, counter)


class TestAttacks:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("app_id", b"\x12" * 20),
            ("kms_id", b"\x12" * 32),
            ("chain_id", 1),
            ("contract", b"\x12" * 20),
            ("epoch", 2),
        ],
    )
    def test_envelope_of_another_app_kms_chain_registry_or_epoch(self, field: str, value: Any) -> None:
        refused(f"another {field}", sealed(target=TARGET._replace(**{field: value})))

    def test_envelope_of_another_owner(self) -> None:
        refused("another owner_key", sealed(owner=OTHER))

    def test_another_owner_s_signature_under_the_owner_s_name(self) -> None:
        mine, other = json.loads(ENVELOPE), json.loads(sealed(owner=OTHER))
        refused("signature", dump({**mine, "signature": other["signature"]}))

    def test_sealed_to_another_epoch_s_key(self) -> None:
        refused("does not open", sealed(secret=b"\x0d" * 32))

    def test_after_the_epoch_is_raised_no_earlier_envelope_opens(self) -> None:
        refused("another epoch", key=held(epoch=4, secret=b"\x0d" * 32))

    def test_the_ciphertext_of_another_envelope(self) -> None:
        mine, other = json.loads(ENVELOPE), json.loads(sealed({"TOKEN": "x"}, counter=8))
        refused("signature", dump({**mine, "sealed": other["sealed"]}))

    def test_the_owner_signs_a_ciphertext_that_was_sealed_for_another_head(self) -> None:
        """HPKE's info holds the head, so a ciphertext cannot be moved even with the owner's help."""
        from measurements.envelope import encode_envelope, signed_bytes

        other = parse_envelope(sealed(counter=8))
        signature = OWNER.sign(signed_bytes(TARGET, 9, other.sealed))
        refused("does not open", encode_envelope(other._replace(counter=9, signature=signature)))

    def test_envelope_of_an_older_counter(self) -> None:
        newest = accept(sealed(counter=8)).record
        refused("seen 8: somebody replays", record=newest)

    def test_another_envelope_with_the_same_counter(self) -> None:
        refused("another envelope with counter 7", sealed({"TOKEN": "x"}), record=accept().record)

    def test_host_env_overrides_a_secret(self) -> None:
        refused("the host sets TOKEN", host={"TOKEN": "mine"})

    def test_a_name_that_no_container_allows(self) -> None:
        refused("LD_PRELOAD, which no container takes", sealed({"LD_PRELOAD": "/data/x.so"}))

    def test_a_name_that_the_manifest_itself_sets(self) -> None:
        app = manifest(containers=[{**CONTAINER, "env": {"TOKEN": ""}}])
        refused("TOKEN, which no container takes", app=app)

    def test_no_envelope(self) -> None:
        refused("there is none", None)

    def test_an_app_without_owner(self) -> None:
        refused("no owner", app=parse_manifest(manifest_bytes()))

    def test_oversize(self) -> None:
        with pytest.raises(FormatError):
            accept(ENVELOPE + b" " * (128 << 10))

    @given(st.integers(0, len(ENVELOPE) - 1))
    @settings(deadline=None)
    def test_truncated(self, length: int) -> None:
        with pytest.raises(FormatError):
            accept(ENVELOPE[:length])

    def test_a_flipped_bit_anywhere(self) -> None:
        for index in range(len(ENVELOPE)):
            changed = bytearray(ENVELOPE)
            changed[index] ^= 1
            with pytest.raises(KeyturnError):
                accept(bytes(changed))


class TestRecord:
    @given(st.integers(1, (1 << 53) - 1), st.binary(min_size=32, max_size=32))
    def test_round_trip(self, counter: int, digest: bytes) -> None:
        assert parse_seen(encode_seen(Seen(counter, digest))) == Seen(counter, digest)

    @pytest.mark.parametrize("data", [b"", b"{}", b'{"counter":0}', encode_seen(Seen(1, bytes(32)))[:-1]])
    def test_a_damaged_record_is_no_record_of_nothing(self, data: bytes) -> None:
        with pytest.raises(FormatError):
            accept(record=data)

    @given(st.integers(1, 9), st.integers(1, 9))
    def test_only_what_is_not_older(self, counter: int, before: int) -> None:
        seen = Seen(counter, bytes(32))
        if counter >= before:
            check_counter(seen, Seen(before, bytes(32)))
        else:
            with pytest.raises(EnvelopeError, match="replays"):
                check_counter(seen, Seen(before, bytes(32)))


def test_every_container_that_takes_a_name_counts() -> None:
    first = {**CONTAINER, "env": {"TOKEN": ""}}
    second = {**CONTAINER, "name": "worker", "ports": []}
    containers = manifest(containers=[first, second]).containers
    assert container_env({"TOKEN": "x"}, {"A": "1"}, containers) == {"TOKEN": "x", "A": "1"}


def test_the_target_is_what_the_manifest_says() -> None:
    assert target_of(manifest(), epoch=3) == TARGET


def dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def test_errors_of_form_have_their_code() -> None:
    with pytest.raises(EnvelopeFormatError) as caught:
        accept(dump({**json.loads(ENVELOPE), "counter": 0}))
    assert caught.value.code == "envelope-format"
