"""Nesting is bounded before anything parses."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.json_text import MAX_LEVELS, json_text, nesting
from tests.support.vectors import REPOSITORY

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def levels(document: object) -> int:
    if isinstance(document, dict):
        return 1 + max(map(levels, document.values()), default=0)
    if isinstance(document, list):
        return 1 + max(map(levels, document), default=0)
    return 0


@given(DOCUMENTS, st.booleans())
def test_the_levels_are_those_of_the_document(document: object, ascii_only: bool) -> None:
    data = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert nesting(data) == levels(document)


def test_closing_brackets_in_a_text_hide_no_nesting() -> None:
    hidden = b'["' + b"]" * 1000 + b'",' + b"[" * 1000
    with pytest.raises(ValueError, match="nests deeper"):
        json_text(hidden)


@pytest.mark.parametrize("text", [rb'"\""', rb'"\\"', rb'"a\\\"]]]"'])
def test_an_escaped_quote_ends_no_text(text: bytes) -> None:
    assert nesting(b"[" + text + b", [[]]]") == 3


def test_opening_brackets_in_a_text_do_not_count() -> None:
    data = json.dumps({"a": "[" * 1000}).encode()
    assert json.loads(json_text(data)) == {"a": "[" * 1000}


def test_the_limit_is_exact() -> None:
    allowed = b"[" * MAX_LEVELS + b"]" * MAX_LEVELS
    assert json_text(allowed) == allowed.decode()
    with pytest.raises(ValueError, match="nests deeper"):
        json_text(b"[" + allowed + b"]")


@pytest.mark.parametrize(("data", "marks"), [(b"[0,0]", 2), (b'{"a":[]}', 4), (b'"[,"', 4), (b"7", 0)])
def test_marks_are_bounded(data: bytes, marks: int) -> None:
    assert json_text(data, marks=marks) == data.decode()
    if marks:
        with pytest.raises(ValueError, match="brackets, commas"):
            json_text(data, marks=marks - 1)


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    for data in (b'"\xff"', '["\u2200"]'.encode("utf-16")):
        with pytest.raises(ValueError, match="utf-8"):
            json_text(data)


READERS = (
    "measurements.canonical.parse_json(deep)",
    "measurements.reference.parse_reference(deep)",
    "image_builder.oci_image.parse_document(deep, subject='x')",
    "image_builder.manifest.parse_manifest(deep)",
    "kms.strict_json.read_object(deep, subject='x')",
    "attestation.evidence.parse_evidence(deep)",
    "contracts.deployment.read_deployment(file)",
)


@pytest.mark.parametrize("reader", READERS)
def test_attack_nesting_that_ends_the_process_where_the_recursion_limit_is_raised(reader: str) -> None:
    module = reader.partition("(")[0].rpartition(".")[0]
    program = f"""
import sys, tempfile, pathlib
import eth_account, {module}
from measurements.errors import KeyturnError
assert sys.getrecursionlimit() >= 100000, "the library has stopped doing it: this test tests nothing"
deep = b"[" * 99000
file = pathlib.Path(tempfile.mkdtemp(), "deep.json")
file.write_bytes(deep)
try:
    {reader}
except KeyturnError as error:
    print("refused", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("refused"), (done.returncode, done.stderr[-500:])


@given(st.text(alphabet='[]{}"\\a,\n', max_size=20))
def test_nesting_is_that_of_reading_token_by_token(text: str) -> None:
    depth = deepest = 0
    for token in re.findall(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', text, re.DOTALL):
        depth += (token in "[{") - (token in "]}")
        deepest = max(deepest, depth)
    assert nesting(text.encode()) == deepest
