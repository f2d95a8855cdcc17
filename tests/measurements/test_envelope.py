"""The bytes of envelopes: round trips, limits, and that nothing is read that has another form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.canonical import encode_canonical, parse_canonical
from measurements.envelope import (
    MAX_ENVELOPE,
    MAX_SECRETS,
    Envelope,
    EnvelopeFormatError,
    Target,
    encode_envelope,
    encode_secrets,
    hpke_info,
    parse_envelope,
    parse_secrets,
    signed_bytes,
)
from measurements.errors import FormatError

TARGET = Target(
    owner_key=b"\x01" * 32,
    app_id=b"\x11" * 20,
    kms_id=b"\x33" * 32,
    chain_id=31337,
    contract=b"\x22" * 20,
    epoch=3,
)
ENVELOPE = Envelope(TARGET, 7, b"\x05" * 60, b"\x06" * 64)
DATA = encode_envelope(ENVELOPE)
ids = st.binary(min_size=32, max_size=32).filter(any)
addresses = st.binary(min_size=20, max_size=20).filter(any)
numbers = st.integers(0, (1 << 53) - 1)


@given(
    st.builds(
        Envelope,
        st.builds(Target, ids, addresses, ids, numbers.filter(bool), addresses, numbers),
        numbers.filter(bool),
        st.binary(min_size=49, max_size=200),
        st.binary(min_size=64, max_size=64),
    )
)
def test_round_trip(envelope: Envelope) -> None:
    assert parse_envelope(encode_envelope(envelope)) == envelope


def test_what_is_bound_and_signed() -> None:
    head = (
        b'{"app_id":"0x1111111111111111111111111111111111111111","chain_id":31337,'
        b'"contract":"0x2222222222222222222222222222222222222222","counter":7,"epoch":3,'
        b'"kms_id":"' + b"33" * 32 + b'","owner_key":"' + b"01" * 32 + b'",'
    )
    kind = b'"type":"keyturn-envelope/1"}'
    assert hpke_info(TARGET, 7) == b"keyturn-envelope/1\0" + head + kind
    assert signed_bytes(TARGET, 7, b"\0\0\0") == (
        b"keyturn-envelope-signature/1\0" + head + b'"sealed":"AAAA",' + kind
    )


@pytest.mark.parametrize("key", ["type", *Target._fields, "counter", "sealed", "signature"])
def test_every_key_is_needed(key: str) -> None:
    document: Any = parse_canonical(DATA)
    del document[key]
    with pytest.raises(EnvelopeFormatError, match="is missing"):
        parse_envelope(encode_canonical(document))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "keyturn-envelope/2"),
        ("owner_key", "00" * 32),
        ("owner_key", "01" * 31),
        ("app_id", "0x" + "00" * 20),
        ("kms_id", "00" * 32),
        ("chain_id", 0),
        ("contract", "11" * 20),
        ("epoch", -1),
        ("counter", 0),
        ("counter", "7"),
        ("sealed", ""),
        ("sealed", None),
        ("sealed", "AAA="),
        ("sealed", "AAAB" * 20 + "AAA"),
        ("signature", "06" * 63),
        ("more", 1),
    ],
)
def test_refused(key: str, value: Any) -> None:
    document: Any = parse_canonical(DATA)
    document[key] = value
    with pytest.raises(EnvelopeFormatError, match=key):
        parse_envelope(encode_canonical(document))


@given(st.integers(0, len(DATA) - 1))
def test_attack_truncated(length: int) -> None:
    with pytest.raises(FormatError):
        parse_envelope(DATA[:length])


def test_attack_oversize() -> None:
    with pytest.raises(EnvelopeFormatError, match="more than"):
        parse_envelope(DATA + b" " * MAX_ENVELOPE)


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), st.text(max_size=20)))
def test_secrets_round_trip(env: dict[str, str]) -> None:
    try:
        data = encode_secrets(env)
    except FormatError:
        assert any("\0" in value for value in env.values())
        return
    assert parse_secrets(data) == env


@pytest.mark.parametrize(
    "document",
    [{}, {"env": []}, {"env": {"A=B": "x"}}, {"env": {"A": 1}}, {"env": {"A": "\0"}}, {"env": {}, "x": 1}],
)
def test_secrets_refused(document: Any) -> None:
    with pytest.raises(EnvelopeFormatError):
        parse_secrets(encode_canonical(document))


def test_secrets_have_a_limit() -> None:
    spent = len(encode_canonical({"env": {"A": "", "B": ""}}))
    most = {"A": "x" * 40_000, "B": "x" * (MAX_SECRETS - spent - 40_000)}
    assert len(encode_secrets(most)) == MAX_SECRETS
    with pytest.raises(EnvelopeFormatError, match="more than"):
        encode_secrets({**most, "B": most["B"] + "x"})
