"""CBOR that counts only in its one form."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.strict_cbor import CborError, parse_cbor

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def parse(data: bytes) -> object:
    return parse_cbor(data, limit=4096, subject="test")


@given(PLAIN)
def test_plain_items_are_read_back(item: object) -> None:
    data = cbor2.dumps(item)
    if len(data) <= 4096:
        assert parse(data) == item


def test_the_outermost_map_may_have_an_indefinite_length() -> None:
    assert parse(b"\xbf\x61a\x01\xff") == {"a": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not CBOR"),
        (b"\x18", "not CBOR"),
        (b"\x01\x02", "nothing after it"),
        (b"\x18\x01", "nothing after it"),
        (b"\xa2\x61a\x01\x61a\x02", "each key once"),
        (b"\xbf\x61a\x01\x61a\x02\xff", "each key once"),
        (b"\x9f\x01\xff", "each key once"),
        (b"\x81\xbf\xff", "each key once"),
        (b"\x5f\x41a\x41b\xff", "each key once"),
        (b"\xfb" + bytes(8), "a float"),
        (b"\xf9\x7e\x00", "a float"),
        (b"\xc2\x49\x01" + bytes(8), "more than 64 bits"),
        (b"\xd8\x2a\x01", "a CBORTag"),
        (b"\xf7", "holds a"),
        (b"\xc0\x741970-01-01T00:00:00Z", "holds a datetime"),
        (b"\x9b" + b"\xff" * 8, "not CBOR"),
        (b"\x5b\x7f" + b"\xff" * 7, "not CBOR"),
        (b"\x81" * 4096, "not CBOR"),
        (b"\xd8\x1e\x82\x01\x00", "not CBOR"),
        (bytes(4097), "has 4097 bytes, more than 4096"),
    ],
)
def test_anything_else_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CborError, match=reason):
        parse(data)


@settings(max_examples=300)
@given(st.sampled_from([*range(6), *range(20, 40), 100, 256, 258, 260, 261, 1004, 43000, 55799]), PLAIN)
def test_no_tag_is_taken(tag: int, item: object) -> None:
    with pytest.raises(CborError):
        parse(cbor2.dumps(cbor2.CBORTag(tag, item)))


@settings(max_examples=300)
@given(st.binary(max_size=64))
def test_garbage_gives_only_refusals(data: bytes) -> None:
    with suppress(CborError):
        parse(data)
