"""The evidence container: one encoding, and nothing else is read."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from attestation.evidence import (
    MAX_EVIDENCE,
    MAX_PAYLOAD,
    MAX_RUNTIME_EVENTS,
    MAX_SIZES,
    Evidence,
    decode_evidence,
    encode_evidence,
    evidence_document,
    parse_evidence,
)
from measurements.errors import FormatError
from measurements.reference_digest import ReferenceValues
from measurements.runtime_events import RuntimeEvent

BANKS = {
    "sha256": {pcr: bytes([pcr]) * 32 for pcr in range(15)},
    "sha384": {pcr: bytes([pcr]) * 48 for pcr in range(15)},
}
EVIDENCE = Evidence(
    quote=b"quote",
    signature=b"signature",
    ak_public=b"key",
    ek_certificate=b"certificate",
    pcrs=BANKS,
    event_log=b"log",
    runtime_events=(RuntimeEvent("keyturn-boot", b"1"), RuntimeEvent("boot-complete", b"")),
    app_manifest=b"{}",
    reference=ReferenceValues(shape={"memory": "2GiB"}, banks=BANKS),
)


def document() -> dict[str, Any]:
    return copy.deepcopy(dict(evidence_document(EVIDENCE)))


def test_evidence_is_canonical_json_and_read_back() -> None:
    data = encode_evidence(EVIDENCE)
    assert data == rfc8785.dumps(document())
    assert decode_evidence(data) == EVIDENCE
    assert parse_evidence(json.loads(data)) == EVIDENCE


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(type="keyturn-evidence/2"),
        lambda d: d.update(platform="tdx"),
        lambda d: d.update(extra=1),
        lambda d: d.pop("signature"),
        lambda d: d.update(quote=""),
        lambda d: d.update(quote="cXVvdGV="),
        lambda d: d.update(quote="cXVvdGU"),
        lambda d: d.update(quote="cXVv\ndGU="),
        lambda d: d.update(quote="cXVvdGü="),
        lambda d: d.update(quote=None),
        lambda d: d.update(quote=base64.b64encode(bytes(MAX_SIZES["quote"] + 1)).decode()),
        lambda d: d["pcrs"].pop("sha384"),
        lambda d: d["pcrs"]["sha256"].pop("14"),
        lambda d: d["pcrs"]["sha256"].update({"15": "00" * 32}),
        lambda d: d["pcrs"]["sha256"].update({"0": "AB" * 32}),
        lambda d: d["runtime_events"].append({"name": "x"}),
        lambda d: d["runtime_events"].append({"name": "X", "payload": ""}),
        lambda d: d["runtime_events"].append({"name": "x", "payload": "0"}),
        lambda d: d["runtime_events"].append({"name": "x", "payload": "00" * (MAX_PAYLOAD + 1)}),
        lambda d: d["runtime_events"].extend([{"name": "x", "payload": ""}] * MAX_RUNTIME_EVENTS),
        lambda d: d.update(runtime_events={}),
        lambda d: d["reference"].update(events=[]),
    ],
)
def test_documents_of_another_form_are_refused(change: Callable[[dict[str, Any]], object]) -> None:
    changed = document()
    change(changed)
    with pytest.raises(FormatError):
        parse_evidence(changed)


def test_a_duplicate_key_is_refused() -> None:
    data = encode_evidence(EVIDENCE)
    with pytest.raises(FormatError, match="twice"):
        decode_evidence(data.replace(b'"platform":"tpm",', b'"platform":"tpm","platform":"tpm",', 1))


def test_oversized_evidence_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(FormatError, match="larger"):
        decode_evidence(b" " * (MAX_EVIDENCE + 1))


@given(st.data())
def test_a_flipped_byte_is_refused_or_means_something_else(data: st.DataObject) -> None:
    encoded = bytearray(encode_evidence(EVIDENCE))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(FormatError):
        assert decode_evidence(bytes(encoded)) != EVIDENCE


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_format_errors_only(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_evidence(data)
