"""The JSON form says the same as the CBOR, in one way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from attestation.container import EvidenceContainer, Log, LogFormat
from attestation.container_codec import ContainerError, decode_container, encode_container
from attestation.container_json import container_json, parse_container_json
from measurements.canonical import encode_canonical
from measurements.errors import KeyturnError
from tests.attestation.test_container_codec import CONTAINERS
from tests.support.containers import FULL, SMALL


@pytest.mark.parametrize("container", [FULL, SMALL])
def test_json_and_cbor_give_each_other(container: EvidenceContainer) -> None:
    text = container_json(container)
    found = parse_container_json(text)
    assert found == container
    assert container_json(decode_container(encode_container(found))) == text


@given(CONTAINERS)
def test_any_container_is_read_back(container: EvidenceContainer) -> None:
    assert parse_container_json(container_json(container)) == container


def test_people_find_hex_where_they_compare_digits() -> None:
    document = json.loads(container_json(FULL))
    assert document["tpm"]["pcrs"]["sha256"]["23"] == "01" * 32
    assert document["gpus"][0]["nonce"] == "00" * 32
    assert document["certificates"][0] == "dmNlaw=="
    assert document["collateral"]["dcap"][0]["tcb_info"].startswith('{"id"')


def _at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *steps, last = path.split("/")
        at: Any = document
        for step in steps:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[int(last) if isinstance(at, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_at("surplus", "a"), "unknown key 'surplus'"),
        (_at("report", "!"), "report is not base64"),
        (_at("report", "YQ"), "report is not base64"),
        (_at("report", "YR=="), "canonical form"),
        (_at("report", "YWJj\n"), "base64"),
        (_at("report", 7), "report is not 0 to"),
        (_at("report", None), "report is not 0 to"),
        (_at("certificates/0", "*"), r"certificates\[0\] is not base64"),
        (_at("certificates", {"a": "YQ=="}), "certificates is not a list"),
        (_at("tpm/pcrs", 1), "tpm.pcrs is not a map"),
        (_at("tpm/pcrs/sha256", []), "tpm.pcrs.sha256 is not an object"),
        (_at("tpm/pcrs/sha256/01", "00" * 32), "tpm.pcrs.sha256 has a register '01'"),
        (_at("tpm/pcrs/sha256/-1", "00" * 32), "tpm.pcrs.sha256 has a register"),
        (_at("tpm/pcrs/sha256/0", "AA" * 32), "tpm.pcrs.sha256.0 is not lower-case hex"),
        (_at("tpm/pcrs/sha256/0", 5), "tpm.pcrs.sha256.0 is not lower-case hex"),
        (_at("gpus/0/nonce", "0"), "nonce is not lower-case hex"),
        (_at("type", "keyturn-evidence/1"), "type is not"),
    ],
)
def test_a_wrong_field_is_named(change: Callable[[dict[str, Any]], None], reason: str) -> None:
    document = json.loads(container_json(FULL))
    change(document)
    with pytest.raises(ContainerError, match=reason):
        parse_container_json(encode_canonical(document))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff", b'{"a":1.5}', b"[" * 100, b'{"a":1,"a":1}']
)
def test_other_json_is_refused(data: bytes) -> None:
    with pytest.raises(KeyturnError):
        parse_container_json(data)


def test_another_form_of_the_same_json_is_refused() -> None:
    data = container_json(SMALL)
    for changed in (data + b"\n", b" " + data, json.dumps(json.loads(data), indent=1).encode()):
        with pytest.raises(KeyturnError, match="canonical"):
            parse_container_json(changed)


def test_the_limit_is_that_of_the_container() -> None:
    small = Log(format=LogFormat.TCG2, data=bytes(1 << 20))
    text = json.loads(container_json(replace(SMALL, logs=(small,) * 3)))
    text["logs"] = text["logs"] * 2
    with pytest.raises(ContainerError, match="more than"):
        parse_container_json(encode_canonical(text))
