"""CBOR that counts only in its one form."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.strict_cbor import (
    CborError,
    encode_deterministic_cbor,
    parse_cbor,
    parse_deterministic_cbor,
)

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
        (b"", "ends early"),
        (b"\x18", "ends early"),
        (b"\x01\x02", "followed by 1 bytes"),
        (b"\x18\x01", "written too long"),
        (b"\x19\x00\xff", "written too long"),
        (b"\x1a" + bytes(4), "written too long"),
        (b"\x1b" + bytes(8), "written too long"),
        (b"\xa2\x61a\x01\x61a\x02", "each key once"),
        (b"\xbf\x61a\x01\x61a\x02\xff", "each key once"),
        (b"\xbf\x61a\xff", "not CBOR"),
        (b"\xbf\x61a\x01", "has no end"),
        (b"\xbf\xff\xff", "another simple value"),
        (b"\x9f\x01\xff", "without a definite length"),
        (b"\x81\xbf\xff", "without a definite length"),
        (b"\x5f\x41a\x41b\xff", "without a definite length"),
        (b"\xfb" + bytes(8), "a float"),
        (b"\xf9\x7e\x00", "a float"),
        (b"\xc2\x49\x01" + bytes(8), "a tag"),
        (b"\xd8\x2a\x01", "a tag"),
        (b"\xf7", "another simple value"),
        (b"\xc0\x741970-01-01T00:00:00Z", "a tag"),
        (b"\x9b" + b"\xff" * 8, "ends early"),
        (b"\x5b\x7f" + b"\xff" * 7, "ends early"),
        (b"\x81" * 4096, "deeper than 16 levels"),
        (b"\x99\x0f\xff" + b"\x80" * 4092, "ends early"),
        (b"\xa1\x80\x01", "a key that is no"),
        (b"\x62\xff\xff", "not CBOR"),
        (bytes(4097), "has 4097 bytes, more than 4096"),
    ],
)
def test_anything_else_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CborError, match=reason):
        parse(data)


def test_the_number_of_items_is_bounded_before_they_are_built() -> None:
    data = b"\x9a\x00\x0f\xff\xfb" + b"\x80" * 0xFFFFB
    with pytest.raises(CborError, match="more than 8192 items"):
        parse_cbor(data, limit=1 << 20, subject="test")
    assert parse_cbor(b"\x82\x01\x02", limit=9, subject="test", items=3) == [1, 2]
    with pytest.raises(CborError, match="more than 2 items"):
        parse_cbor(b"\x82\x01\x02", limit=9, subject="test", items=2)


@given(PLAIN)
def test_the_deterministic_form_is_read_back(item: object) -> None:
    data = encode_deterministic_cbor(item)
    assert parse_deterministic_cbor(data, limit=1 << 16, subject="test") == item


@pytest.mark.parametrize(
    "data",
    [
        b"\xa2\x61b\x01\x61a\x02",
        b"\xa2\x62aa\x01\x61b\x02",
        b"\xbf\x61a\x01\xff",
        b"\xa2\x18\x18\x01\x01\x01",
    ],
)
def test_another_order_or_length_is_not_deterministic(data: bytes) -> None:
    assert parse(data)
    with pytest.raises(CborError, match="deterministic"):
        parse_deterministic_cbor(data, limit=4096, subject="test")


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
