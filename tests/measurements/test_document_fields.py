"""Documents of maps and bytes, read strictly."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

import pytest

from measurements.document_fields import DocumentFields
from measurements.errors import FormatError

KEYS = ("a", "b")


class Kind(StrEnum):
    ONE = "one"


def error(reason: str) -> FormatError:
    return FormatError(reason, subject="test", advice="none")


def fields(value: object, *, path: str = "outer") -> DocumentFields:
    return DocumentFields(value, KEYS, path=path, refuse=error)


def test_values_are_read() -> None:
    document = fields({"a": b"12", "b": [{"a": None, "b": "one"}]})
    assert document.octets("a", 2, 2) == b"12"
    (inner,) = document.objects("b", KEYS, 1, lambda item: item)
    assert inner.path == "outer.b[0]"
    assert inner.is_null("a")
    assert inner.optional_octets("a", 1, 2) is None
    assert inner.choice("b", Kind) is Kind.ONE
    assert inner.text("b", re.compile("o.e")) == "one"
    inner.constant("b", "one")


@pytest.mark.parametrize(
    ("value", "read", "reason"),
    [
        ({"a": b"", "b": 1}, lambda f: f.octets("a", 1, 2), "outer.a is not 1 to 2 bytes"),
        ({"a": "12", "b": 1}, lambda f: f.octets("a", 1, 2), "outer.a is not 1 to 2 bytes"),
        ({"a": [b"1", b"1"], "b": 1}, lambda f: f.octets_list("a", 2, 1, 1, unique=True), "outer.a holds"),
        (
            {"a": [b"1", 2], "b": 1},
            lambda f: f.octets_list("a", 2, 1, 1, unique=False),
            r"outer.a\[1\] is not",
        ),
        ({"a": [b"1"] * 3, "b": 1}, lambda f: f.octets_list("a", 2, 1, 1, unique=False), "up to 2 items"),
        ({"a": {}, "b": 1}, lambda f: f.fields("a", KEYS), "outer.a: key a is missing"),
        ({"a": [], "b": 1}, lambda f: f.fields("a", KEYS), "outer.a is not a map"),
        ({"a": [1], "b": 1}, lambda f: f.objects("a", KEYS, 1, str), r"outer.a\[0\] is not a map"),
        ({"a": "two", "b": 1}, lambda f: f.choice("a", Kind), "outer.a is not one of one"),
        ({"a": ["one"], "b": 1}, lambda f: f.choice("a", Kind), "outer.a is not one of one"),
        ({"a": 1, "b": 1}, lambda f: f.text("a", re.compile("x")), "outer.a is not a text"),
        ({"a": True, "b": 1}, lambda f: f.constant("a", "x"), "outer.a is not x"),
    ],
)
def test_a_wrong_value_is_named(value: object, read: Callable[[DocumentFields], object], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read(fields(value))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "outer is not a map"),
        ({"a": 1}, "outer: key b is missing"),
        ({"a": 1, "b": 2, "c": 3}, "outer: unknown key 'c'"),
        ({"a": 1, "b": 2, 3: 3}, "outer: unknown key '3'"),
    ],
)
def test_the_keys_are_exactly_those_that_are_known(value: object, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        fields(value)


def test_a_document_without_a_place_is_called_one() -> None:
    with pytest.raises(FormatError, match="document is not a map"):
        fields([], path="")
