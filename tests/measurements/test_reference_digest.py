"""Reference values without events, and their digest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785

from measurements.errors import FormatError
from measurements.reference import parse_reference, reference_document, reference_values
from measurements.reference_digest import (
    ReferenceValues,
    decode_reference_values,
    parse_reference_values,
    reference_digest,
    reference_values_document,
)
from tests.support.boot_model import ModelImage, ModelMachine, predict

VALUES = ReferenceValues(
    shape={"memory": "2GiB", "cpus": 1, "smm": False, "disk": [{"slot": 3}]},
    banks={
        "sha256": {pcr: bytes([pcr]) * 32 for pcr in range(15)},
        "sha384": {pcr: bytes([pcr]) * 48 for pcr in range(15)},
    },
)


def document() -> dict[str, Any]:
    return copy.deepcopy(dict(reference_values_document(VALUES)))


def test_the_digest_is_over_the_canonical_document() -> None:
    encoded = rfc8785.dumps(document())
    assert reference_digest(VALUES) == hashlib.sha256(b"keyturn-reference/1\0" + encoded).digest()
    assert decode_reference_values(encoded) == VALUES


def test_a_prediction_gives_the_values_without_its_events() -> None:
    prediction = predict(ModelMachine(), ModelImage())
    predicted = reference_document(prediction, shape={"memory": "2GiB"})
    values = reference_values(parse_reference(json.dumps(predicted).encode()))
    del predicted["events"], predicted["inputs"]
    assert reference_values_document(values) == predicted
    assert parse_reference_values(predicted) == values


def test_every_register_and_the_shape_change_the_digest() -> None:
    digests = {reference_digest(VALUES), reference_digest(VALUES._replace(shape={"memory": "4GiB"}))}
    for bank, values in VALUES.banks.items():
        for pcr in values:
            changed = {**VALUES.banks, bank: {**values, pcr: b"\xff" * len(values[pcr])}}
            digests.add(reference_digest(VALUES._replace(banks=changed)))
    assert len(digests) == 2 + 2 * 15


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(events=[]),
        lambda d: d.update(platform="tdx"),
        lambda d: d.pop("shape"),
        lambda d: d.update(shape={}),
        lambda d: d.update(shape=[]),
        lambda d: d["banks"].pop("sha384"),
        lambda d: d["banks"].update(sha1={}),
        lambda d: d["banks"]["sha256"].pop("9"),
        lambda d: d["banks"]["sha256"].update({"15": "00" * 32}),
        lambda d: d["banks"]["sha256"].update({"3": "00" * 48}),
        lambda d: d["banks"]["sha256"].update({"3": "AA" * 32}),
        lambda d: d["banks"]["sha256"].update({"3": 0}),
    ],
)
def test_documents_of_another_form_are_refused(change: Callable[[dict[str, Any]], object]) -> None:
    changed = document()
    change(changed)
    with pytest.raises(FormatError):
        parse_reference_values(changed)


def test_a_reference_that_is_not_canonical_is_refused() -> None:
    with pytest.raises(FormatError):
        decode_reference_values(rfc8785.dumps(document()) + b"\n")
