"""The canonical form of policies: one form for each, and a digest that anything changes."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from hypothesis import given

from attestation.container import EvidencePlatform
from attestation.policy import Allowed, Measurements, MeasurementSet, Policy, PolicyError
from attestation.policy_document import (
    MAX_DOCUMENT,
    document_digest,
    encode_policy,
    parse_policy_document,
    policy_digest,
    policy_document,
)
from attestation.policy_kinds import Table
from attestation.policy_schema import POLICY, SECTIONS
from measurements.canonical import CanonicalError, encode_canonical
from tests.support.policies import permissive_policy
from tests.support.policy_strategies import policies

SMALL = permissive_policy(EvidencePlatform.NITRO)


@given(policies())
def test_a_policy_comes_back_as_it_was(policy: Policy) -> None:
    data = encode_policy(policy)
    assert parse_policy_document(data) == policy
    assert policy_digest(policy) == document_digest(data)


def test_the_digest_is_that_of_the_documented_bytes() -> None:
    document = (
        b'{"app_hashes":"any","environment":"dev","name":"permissive",'
        b'"nitro":{"max_age":3153600000,"measurements":"any","module_ids":"any"},'
        b'"platforms":["nitro"],"report_data":"any","type":"keyturn-policy/1"}'
    )
    assert encode_policy(SMALL) == document
    expected = hashlib.sha256(b"\0\0\0\x10keyturn-policy/1" + document).digest()
    assert policy_digest(SMALL) == expected


def test_the_order_of_values_means_nothing_and_that_of_tables_something() -> None:
    def machines(*names: str) -> Policy:
        sets = tuple(MeasurementSet(name=name, registers={"pcr0": bytes(48)}) for name in names)
        assert SMALL.nitro is not None
        return dataclasses.replace(
            SMALL, nitro=dataclasses.replace(SMALL.nitro, measurements=Measurements(sets=sets))
        )

    hashes = ["11" * 32, "22" * 32]
    orders = [Allowed(values=frozenset(one)) for one in (hashes, reversed(hashes))]
    assert len({policy_digest(dataclasses.replace(SMALL, app_hashes=one)) for one in orders}) == 1
    assert policy_digest(machines("a", "b")) != policy_digest(machines("b", "a"))


@pytest.mark.parametrize("field", [one.name for one in dataclasses.fields(Policy)])
def test_the_schema_has_the_fields_of_the_model(field: str) -> None:
    assert field in POLICY.keys
    assert set(POLICY.keys) == {one.name for one in dataclasses.fields(Policy)}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_the_fields_of_its_model(section: str) -> None:
    table = SECTIONS[section]
    assert isinstance(table, Table)
    assert isinstance(table.model, type)
    assert set(table.keys) == {one.name for one in dataclasses.fields(table.model)}
    assert not table.optional


def test_every_platform_has_a_section() -> None:
    assert set(SECTIONS) == {*EvidencePlatform, "gpu"}


def changed(**changes: Any) -> bytes:
    return encode_canonical({**policy_document(SMALL), **changes})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(type="keyturn-policy/2"), "is not of type"),
        (changed(report_data=["22", "11"]), "not sorted"),
        (changed(report_data=["11", "11"]), "names something twice"),
        (changed(roots=[]), "empty ones"),
        (changed(debug=True), "debug is never allowed"),
        (changed(enviroment="dev"), "not known"),
        (changed(platforms=["nitro", "snp"]), "no section [snp]"),
        (changed(platforms=[]), "platforms does not list nitro"),
        (changed(name=" x"), "not a name"),
        (changed(nitro=None), "None is not a table"),
        (b"[]", "is not of type"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy_document(data, subject="p.json")
    assert reason in caught.value.reason
    assert caught.value.subject.startswith("p.json")


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"type": "keyturn-policy/1"}', b'{"type":1.5}', encode_policy(SMALL) + b"\n"]
)
def test_other_bytes_than_the_canonical_ones_are_refused(data: bytes) -> None:
    with pytest.raises(CanonicalError):
        parse_policy_document(data)


def test_documents_of_any_size_are_refused_beyond_the_limit() -> None:
    with pytest.raises(PolicyError, match="larger than"):
        parse_policy_document(bytes(MAX_DOCUMENT + 1))
    hashes = frozenset(f"{number:064x}" for number in range(4096))
    with pytest.raises(PolicyError, match="more than"):
        encode_policy(dataclasses.replace(SMALL, app_hashes=Allowed(values=hashes)))
