"""Inputs that try to be something else, too much, or nearly right."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from typing import Any

import pytest

from attestation.container_codec import ContainerError, encode_container
from attestation.container_json import container_json
from attestation.importers import EvidenceImportError, SideFile, import_evidence
from measurements.errors import KeyturnError
from tests.support.containers import FULL
from tests.support.evidence_vectors import EVIDENCE, Imported
from tests.support.foreign_evidence import quote, snp_json
from tests.support.hostile import hostile_inputs
from tests.support.limits import BUSY_SECONDS
from tests.support.vectors import vector

ONE_OF_EACH = tuple({case.origin: case for case in EVIDENCE}.values())


def refused(data: bytes) -> bool:
    try:
        import_evidence(data)
    except KeyturnError:
        return True
    return False


def cuts(data: bytes, most: int = 400) -> range:
    """Lengths below the whole, every one of the shorter inputs."""
    return range(0, len(data), max(1, len(data) // most))


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.origin)
def test_every_truncation_is_refused(case: Imported) -> None:
    """What may be cut are the zeros that fill a buffer, and the line feed after JSON."""
    data = vector(case.name).read_bytes()
    for size in cuts(data.rstrip(b"\0\n")):
        assert refused(data[:size]), size


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.origin)
def test_bytes_at_the_end_are_refused(case: Imported) -> None:
    data = vector(case.name).read_bytes()
    for tail in (b"\x01", b"{}", b"\0\x01", data):
        assert refused(data + tail), tail[:4]


@pytest.mark.parametrize("make", [encode_container, container_json, lambda _: snp_json(bytes(1184))])
def test_every_truncation_of_own_forms_is_refused(make: Any) -> None:
    data = make(FULL)
    for size in cuts(data):
        assert refused(data[:size])


def test_hostile_inputs_are_refused_cheaply() -> None:
    """The limits of the project are 100 ms and 64 MB; more time is for busy machines."""
    for what, data in hostile_inputs([quote(), b'{"quote":"00","event_log":"[]"}']):
        started = time.process_time()
        answer = refused(data)
        spent = time.process_time() - started
        assert answer or what == "seed 0 and zeros", what
        tracemalloc.start()
        refused(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert spent < BUSY_SECONDS, f"{what}: {spent:.3f} s"
        assert peak < 64 << 20, f"{what}: {peak >> 20} MB"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "no known format"),
        ({"quote": "AA=="}, "no DCAP quote"),
        ({"quote": "AB=="}, "canonical form"),
        ({"quote": "é"}, "not base64"),
        ({"quote": None}, "not a text"),
        ({"quote": "0", "event_log": "[]"}, "is not hex"),
        ({"quote": quote().hex(), "event_log": 1}, "event_log: is not a text"),
        ({"quote": quote().hex(), "event_log": "["}, "not a JSON document"),
        ({"quote": quote().hex(), "event_log": "[]", "other": 1}, "key 'other' is unknown"),
        ({"quote": quote().hex(), "event_log": "", "vm_config": "\ud800"}, "lone surrogate"),
        ({"attestation": "zz"}, "is not hex"),
        ({"attestation": "00", "other": 1}, "key 'other' is unknown"),
        ({"attestation": "0009"}, "no known format|platform 9"),
        ({"ak_public": "", "tpm_quote": {}}, "key message is missing"),
        ({"tpm_quote": {}, "hcl_report": "", "td_quote": "", "version": 2}, "has version 2"),
        ({"tpm_quote": {}, "hcl_report": "", "vcek": "", "version": True}, "has version True"),
        ({"message": "", "signature": "", "pcrs": []}, "24 registers"),
        ({"message": "", "signature": "00" * 513, "pcrs": []}, "513 bytes"),
        ({"message": "", "signature": "", "pcrs": ["00" * 32] * 24}, "cut short"),
        ({"quote": "00", "attestation": "00"}, "no known format"),
        ({"quote": "AA==", "event_log": "", "td_quote": "", "report_data": ""}, "several formats"),
        ({"type": "keyturn-evidence/1"}, "canonical"),
        ({"type": "keyturn-evidence/9"}, "no known format"),
    ],
)
def test_json_that_is_not_right_is_refused(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(KeyturnError, match=reason):
        import_evidence(json.dumps(document).encode())


def test_a_key_twice_is_refused() -> None:
    with pytest.raises(EvidenceImportError, match="same key twice"):
        import_evidence(b'{"quote":"","quote":""}')


def test_a_hint_chooses_but_does_not_force() -> None:
    document = {"quote": quote().hex(), "event_log": "", "td_quote": "", "report_data": ""}
    with pytest.raises(EvidenceImportError, match="key 'td_quote' is unknown"):
        import_evidence(json.dumps(document).encode(), hint="dstack-quote")
    with pytest.raises(EvidenceImportError, match="no known format"):
        import_evidence(quote(), hint="snp-report")
    assert import_evidence(quote(), hint="dcap-quote").report == quote()


def test_text_that_is_hex_and_base64_counts_once() -> None:
    """Hex digits are base64 as well; only one of both readings is evidence."""
    written = quote(b"signatur").hex().encode()
    assert len(written) % 4 == 0
    assert import_evidence(written).report == quote(b"signatur")
    assert refused(base64.b64encode(written))


def test_a_quote_that_says_more_than_it_has() -> None:
    longer = bytearray(quote())
    longer[632:636] = (1 << 31).to_bytes(4, "little")
    with pytest.raises(EvidenceImportError, match="says that it has"):
        import_evidence(bytes(longer) + bytes(100))
    fifth = b"\x05\0\x02\0\x81\0\0\0" + bytes(40) + b"\x02\0" + (1 << 31).to_bytes(4, "little") + bytes(900)
    with pytest.raises(EvidenceImportError, match="says that it has"):
        import_evidence(fifth)


def test_a_large_quote_is_refused() -> None:
    with pytest.raises(EvidenceImportError, match="more than 65536"):
        import_evidence(quote(bytes(1 << 17)))


def test_a_container_beyond_its_limits_is_refused() -> None:
    log = b"1" * (1 << 20)
    with pytest.raises(ContainerError, match="data is not 1 to"):
        import_evidence(quote(), files={SideFile.CCEL_LOG: log + b"1"})
    with pytest.raises(EvidenceImportError, match="more than"):
        import_evidence(bytes(7 << 20))


@pytest.mark.parametrize("kind", [SideFile.CCEL_LOG, SideFile.TCG2_LOG, SideFile.DSTACK_LOG])
def test_an_empty_log_is_refused(kind: SideFile) -> None:
    with pytest.raises(EvidenceImportError, match="is empty"):
        import_evidence(quote(), files={kind: b""})
