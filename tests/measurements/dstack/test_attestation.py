"""dstack's versioned attestations of all platforms, in both versions."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.dstack.attestation import DstackPlatform, parse_scale_attestation
from measurements.dstack.attestation_msgpack import parse_attestation
from measurements.dstack.errors import DstackFormatError
from measurements.dstack.evidence import TdxEvidence, parse_container
from measurements.dstack.msgpack_reader import MAX_ITEMS, MsgpackReader
from measurements.errors import KeyturnError
from tests.support.foreign_evidence import dstack_document, dstack_msgpack, msgpack, quote
from tests.support.vectors import vector

KINDS = {
    "tdx": DstackPlatform.TDX,
    "gcp-tdx": DstackPlatform.GCP_TDX,
    "nitro-enclave": DstackPlatform.NITRO_ENCLAVE,
    "sev-snp": DstackPlatform.SNP,
    "aws-nitro-tpm": DstackPlatform.NITRO_TPM,
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=4), inner, max_size=17),
    max_leaves=20,
)


def read(data: bytes) -> object:
    return MsgpackReader(data, subject="test").document()


@given(VALUES)
def test_messagepack_is_read_back(value: Any) -> None:
    assert read(msgpack(value)) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends before"),
        (b"\x01\x02", "1 bytes after"),
        (b"\xca\0\0\0\0", "a float or an extension"),
        (b"\xd4\0\0", "a float or an extension"),
        (b"\xc1", "a float or an extension"),
        (b"\xdd\xff\xff\xff\xff", "ends before the 4294967295 items"),
        (b"\xdf\xff\xff\xff\xff", "ends before"),
        (b"\xc6\xff\xff\xff\xff", "ends before"),
        (b"\x82\xa1a\x01\xa1a\x02", "stands twice"),
        (b"\x81\x01\x01", "no text"),
        (b"\xa1\xff", "no UTF-8"),
        (b"\x91" * 20 + b"\x01", "nests deeper"),
        (b"\xdd" + (200_000).to_bytes(4, "big") + bytes(200_000), f"more than {MAX_ITEMS} items"),
    ],
)
def test_broken_messagepack_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        read(data)


@pytest.mark.parametrize("kind", KINDS)
def test_version_1_of_every_platform_is_read(kind: str) -> None:
    found = parse_attestation(dstack_msgpack(kind))
    assert found.platform is KINDS[kind]
    assert [event.name for event in found.runtime] == ["app-id"]
    assert len(found.log) == (1 if "tdx" in kind else 0)
    assert (found.tpm is not None) is (kind == "gcp-tdx")
    assert found.config == b'{"cpu_count":2}'
    assert len(found.report_data) == 64


def test_version_1_may_have_byte_strings_for_lists() -> None:
    assert parse_attestation(dstack_msgpack(quote=quote())) == parse_attestation(dstack_msgpack())


def test_version_1_of_a_trust_domain_can_be_judged() -> None:
    document = dstack_document()
    document["stack"]["data"]["config"] = '{"os_image_hash":"%s","cpu_count":1,"memory_size":2147483648}' % (
        "00" * 32
    )
    assert isinstance(parse_container(msgpack(document)), TdxEvidence)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("version",), 2, "version 2"),
        (("surplus",), 2, "'surplus' is unknown"),
        (("platform", "kind"), "sgx", "platform 'sgx'"),
        (("platform", "data", "quote"), "text", "neither bytes nor a list"),
        (("platform", "data", "quote"), [256], "neither bytes nor a list"),
        (("platform", "data", "event_log"), {}, "no list of up to"),
        (("platform", "data", "event_log"), [], "other runtime events"),
        (("platform", "data", "event_log", 0, "imr"), 2, "runtime events alone are in RTMR3"),
        (("platform", "data", "event_log", 0, "event"), "other", "other runtime events"),
        (("platform", "data", "event_log", 0, "preimage"), b"", "a preimage that is not"),
        (("stack", "kind"), "other", "neither dstack nor dstack-pod"),
        (("stack", "data", "report_data"), [0] * 63, "63 bytes of report data"),
        (("stack", "data", "runtime_events"), [], "other runtime events"),
    ],
)
def test_version_1_that_is_not_right_is_refused(path: tuple[Any, ...], value: Any, reason: str) -> None:
    document: Any = dstack_document()
    at = document
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(DstackFormatError, match=reason):
        parse_attestation(msgpack(document))


def test_a_report_of_another_size_is_refused() -> None:
    with pytest.raises(DstackFormatError, match="1183 bytes"):
        parse_attestation(dstack_msgpack("sev-snp", report=bytes(1183)))


def test_a_register_twice_is_refused() -> None:
    document = dstack_document("gcp-tdx")
    quoted = document["platform"]["data"]["tpm_quote"]
    quoted["pcr_values"] *= 2
    with pytest.raises(DstackFormatError, match="PCR 0 of bank sha256 twice"):
        parse_attestation(msgpack(document))


def compact(number: int) -> bytes:
    """A SCALE length of up to two bytes."""
    return bytes([number << 2]) if number < 64 else (number << 2 | 1).to_bytes(2, "little")


def scaled(data: bytes) -> bytes:
    return compact(len(data)) + data


def tail() -> bytes:
    return compact(1) + scaled(b"app-id") + scaled(bytes(20)) + bytes(64) + scaled(b"{}")


def test_version_0_of_a_machine_at_google_has_a_tpm_quote() -> None:
    event = (3).to_bytes(4, "little") + (0x08000001).to_bytes(4, "little") + scaled(b"")
    event += scaled(b"app-id") + scaled(bytes(20))
    register = (7).to_bytes(4, "little") + scaled(b"sha256") + scaled(bytes(32))
    tpm = scaled(b"message") + scaled(b"signature") + compact(1) + register + scaled(b"certificate") + b"\x01"
    tpm += compact(1) + (7).to_bytes(4, "little") + scaled(bytes(32))
    data = b"\0\x01" + scaled(quote()) + compact(1) + event + tpm + tail()
    found = parse_scale_attestation(data)
    assert found.tpm is not None
    assert (found.tpm.message, found.tpm.ak_certificate) == (b"message", b"certificate")
    assert found.tpm.pcrs == {"sha256": {7: bytes(32)}}
    for size in range(len(data)):
        with pytest.raises(DstackFormatError):
            parse_scale_attestation(data[:size])


def test_version_0_of_nitro_is_a_document() -> None:
    found = parse_attestation(vector("attestation/nitro/dstack-nsm-app.bin").read_bytes())
    assert found.platform is DstackPlatform.NITRO_ENCLAVE
    assert found.report.startswith(b"\x84\x44\xa1\x01")
    assert parse_attestation(b"\0\x04" + scaled(b"document") + tail()).platform is DstackPlatform.NITRO_TPM


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 1 << 12), st.integers(1, 255))
def test_a_changed_byte_gives_only_refusals(kind: str, at: int, change: int) -> None:
    data = bytearray(dstack_msgpack(kind))
    data[at % len(data)] ^= change
    with suppress(KeyturnError):
        parse_attestation(bytes(data))
