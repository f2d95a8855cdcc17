"""Attestation documents of real enclaves: their fields, their registers, and documents of debug enclaves."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from contextlib import suppress

import cbor2
import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.nitro.document import (
    DebugEnclaveError,
    NitroDocument,
    NitroRegisterError,
    parse_document,
    require_registers,
)
from measurements.nitro.pcrs import instance_register
from measurements.nitro.predict import predict_nitro
from measurements.platforms import Platform, PlatformPrediction
from tests.support.eif_files import eif_file
from tests.support.vectors import vector

DSTACK = ("dstack-nsm.bin", "dstack-nsm-app.bin", "dstack-nsm-debug.bin")
EVERVAULT = ("evervault-valid.bin", "evervault-debug.bin", "evervault-valid-ga.b64")
DEBUG = {"dstack-nsm-debug.bin", "evervault-debug.bin", "evervault-valid-ga.b64"}
START_OF_MESSAGE = bytes.fromhex("8444a1013822")


def document_bytes(name: str) -> bytes:
    """The document in a vector: alone, as base64, or inside dstack's SCALE container, whose first four bytes
    and everything behind the message are not the document's.
    """
    data = vector(f"attestation/nitro/{name}").read_bytes()
    if name.endswith(".b64"):
        return base64.b64decode(data, validate=True)
    if name.startswith("dstack"):
        size = int.from_bytes(data[2:4], "little") >> 2
        assert data[:2] == b"\x00\x02"
        return data[4 : 4 + size]
    return data


@pytest.mark.parametrize("name", [*DSTACK, *EVERVAULT])
def test_documents_name_their_instance_twice(name: str) -> None:
    """PCR 4 is the digest of the instance id that the module id starts with: two fields, one fact."""
    document = parse_document(document_bytes(name))
    assert document.pcrs[4] == hashlib.sha384(bytes(48) + document.instance.encode()).digest()
    assert document.pcrs[4] == instance_register(document.instance)
    assert document.module.startswith(f"{document.instance}-enc")
    assert sorted(document.pcrs) == list(range(16))


@pytest.mark.parametrize("name", [*DSTACK, *EVERVAULT])
def test_debug_documents_are_recognised(name: str) -> None:
    document = parse_document(document_bytes(name))
    assert document.debug is (name in DEBUG)
    assert any(document.pcrs[0]) is (name not in DEBUG)


@pytest.mark.parametrize("name", [*DSTACK, *EVERVAULT])
def test_documents_are_signed_by_their_certificate(name: str) -> None:
    document = parse_document(document_bytes(name))
    key = x509.load_der_x509_certificate(document.certificate).public_key()
    assert document.message.is_signed_by(key)


# Times from the manifest of the vectors (attestation, section 2).
@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("dstack-nsm.bin", 1766668537),
        ("dstack-nsm-app.bin", 1766678659),
        ("evervault-valid.bin", 1665651482),
        ("evervault-valid-ga.b64", 1695049410),
    ],
)
def test_times_are_those_of_the_manifest(name: str, second: int) -> None:
    assert parse_document(document_bytes(name)).timestamp // 1000 == second


def prediction_for(document: NitroDocument, **changes: bytes) -> PlatformPrediction:
    values = {str(number): document.pcrs[number] for number in (0, 1, 2, 4, 8)}
    values |= {name.removeprefix("pcr"): value for name, value in changes.items()}
    return PlatformPrediction(
        platform=Platform.NITRO,
        shape={},
        registers={name: {"sha384": value} for name, value in values.items()},
        events=(),
    )


def test_a_document_with_the_predicted_registers_is_taken() -> None:
    document = parse_document(document_bytes("dstack-nsm.bin"))
    require_registers(document, prediction_for(document))


@pytest.mark.parametrize("register", ["pcr0", "pcr1", "pcr2", "pcr4", "pcr8"])
def test_each_register_decides(register: str) -> None:
    document = parse_document(document_bytes("dstack-nsm.bin"))
    with pytest.raises(NitroRegisterError, match=register.replace("pcr", "PCR ")):
        require_registers(document, prediction_for(document, **{register: b"\1" * 48}))


@pytest.mark.parametrize("name", sorted(DEBUG))
def test_a_debug_enclave_equals_no_prediction(name: str) -> None:
    document = parse_document(document_bytes(name))
    for prediction in (prediction_for(document), predict_nitro(eif_file())):
        with pytest.raises(DebugEnclaveError, match="debug mode"):
            require_registers(document, prediction)


def changed(change: Callable[[dict[str, object]], object]) -> bytes:
    """The usual document with changed fields; nothing checks its signature."""
    protected, unprotected, payload, signature = cbor2.loads(document_bytes("evervault-valid.bin"))
    fields = cbor2.loads(payload)
    change(fields)
    return cbor2.dumps([protected, unprotected, cbor2.dumps(fields), signature])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: fields.pop("nonce"), "other fields"),
        (lambda fields: fields.update(extra=1), "other fields"),
        (lambda fields: fields.update(digest="SHA256"), "digest is 'SHA256'"),
        (lambda fields: fields.update(module_id="i-1"), "module_id 'i-1'"),
        (lambda fields: fields.update(module_id=7), "module_id 7"),
        (lambda fields: fields.update(timestamp=0), "timestamp 0"),
        (lambda fields: fields.update(timestamp=True), "timestamp True"),
        (lambda fields: fields.update(pcrs={}), "pcrs is not a map"),
        (lambda fields: fields["pcrs"].pop(2), "pcrs is not a map"),
        (lambda fields: fields["pcrs"].update({32: bytes(48)}), "a register 32"),
        (lambda fields: fields["pcrs"].update({3: bytes(32)}), "PCR 3 is not 48 to 48 bytes"),
        (lambda fields: fields.update(certificate=b""), "certificate is not"),
        (lambda fields: fields.update(cabundle=[]), "cabundle is not"),
        (lambda fields: fields.update(cabundle=[b"a"] * 17), "cabundle is not"),
        (lambda fields: fields.update(nonce="text"), "nonce is not"),
        (lambda fields: fields.update(user_data=bytes(1025)), "user_data is not"),
    ],
)
def test_other_fields_are_refused(change: Callable[[dict[str, object]], object], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_document(changed(change))


def test_the_payload_may_not_say_a_register_twice() -> None:
    """The decoder would take the second value, another reader the first."""
    protected, unprotected, payload, signature = cbor2.loads(document_bytes("dstack-nsm.bin"))
    assert payload[0] == 0xBF
    doubled = payload[:-1] + cbor2.dumps("digest") + cbor2.dumps("SHA384") + b"\xff"
    with pytest.raises(FormatError, match="each key once"):
        parse_document(cbor2.dumps([protected, unprotected, doubled, signature]))


@pytest.mark.parametrize("cut", [0, 1, 100, 4000])
def test_truncated_documents_are_refused(cut: int) -> None:
    with pytest.raises(FormatError):
        parse_document(document_bytes("dstack-nsm.bin")[:cut])


def test_bytes_after_the_document_are_refused() -> None:
    with pytest.raises(FormatError, match="nothing after it"):
        parse_document(document_bytes("dstack-nsm.bin") + b"\0")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8))
def test_changed_documents_give_only_format_errors(at: int, value: bytes) -> None:
    data = bytearray(document_bytes("evervault-valid.bin"))
    at %= len(data)
    data[at : at + len(value)] = value
    with suppress(FormatError):
        parse_document(bytes(data))
