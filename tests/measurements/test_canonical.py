"""Canonical JSON: equal to RFC 8785, and nothing else is read."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.canonical import MAX_INTEGER, CanonicalError, encode_canonical, parse_canonical, parse_json

KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(max_size=20)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS)
@settings(deadline=None)
def test_equal_to_the_reference_implementation(document: Any) -> None:
    assert encode_canonical(document) == rfc8785.dumps(document)


@given(DOCUMENTS)
@settings(deadline=None)
def test_parses_what_it_encodes(document: Any) -> None:
    assert parse_canonical(encode_canonical(document)) == document


def test_vector_of_rfc_8785_strings() -> None:
    """RFC 8785 3.2.2: the text of its example."""
    text = '€$\u000f\nA\'B"\\\\"/'
    assert encode_canonical({"string": text}) == b'{"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b"Infinity",
        b"9007199254740992",
        b'"\\u0041"',
        b'"\\u000F"',
        b'"\\ud800"',
        b'"\xff"',
        b'\xef\xbb\xbf"a"',
        b'{"\xc3\xa9":1}',
        b"[" * 40 + b"]" * 40,
        b"[" * 100000,
        b"9" * 10000,
        b"",
    ],
)
def test_not_canonical_is_refused(data: bytes) -> None:
    with pytest.raises(CanonicalError):
        parse_canonical(data)


@pytest.mark.parametrize(
    "document", [1.0, {"a": float("nan")}, {1: "a"}, {"é": 1}, MAX_INTEGER + 1, "\ud800", b"", {"a": {1}}]
)
def test_without_canonical_form_is_refused(document: Any) -> None:
    with pytest.raises(CanonicalError):
        encode_canonical(document)


def test_plain_json_may_have_blanks_but_no_duplicates() -> None:
    assert parse_json(b' {"b": [1, 2], "a": null} ') == {"a": None, "b": [1, 2]}
    with pytest.raises(CanonicalError):
        parse_json(b'{"a": 1, "a": 2}')
    with pytest.raises(CanonicalError):
        parse_json(b'{"a": 1.5}')
