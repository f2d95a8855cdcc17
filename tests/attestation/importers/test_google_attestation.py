"""Attestations of go-tpm-tools, and Protocol Buffers that are not right."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.importers import EvidenceImportError, import_evidence
from attestation.importers.protobuf_reader import MAX_FIELDS, Message
from measurements.errors import KeyturnError
from tests.support.vectors import vector

AK = b"\x00\x01\x00\x0b" + bytes(40)
SHA1, SHA256, SHA384 = 0x0004, 0x000B, 0x000C


def varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def quote(bank: int, size: int, *, registers: tuple[int, ...] = (0, 7)) -> bytes:
    entries = b"".join(field(2, field(1, number) + field(2, bytes(size))) for number in registers)
    return field(
        2, field(1, b"quote of %d" % bank) + field(2, b"signature") + field(3, field(1, bank) + entries)
    )


def attestation(*fields: bytes) -> bytes:
    return field(1, AK) + b"".join(fields)


def test_the_strongest_bank_is_taken() -> None:
    found = import_evidence(attestation(quote(SHA1, 20), quote(SHA256, 32), quote(SHA384, 48)))
    assert found.tpm is not None
    assert {bank: sorted(registers) for bank, registers in found.tpm.pcrs.items()} == {"sha384": [0, 7]}
    assert found.tpm.quote == b"quote of 12"


def test_certificates_come_along() -> None:
    data = attestation(quote(SHA256, 32), field(6, b"ak"), field(7, b"one"), field(7, b"two"), field(4, b""))
    found = import_evidence(data)
    assert found.tpm is not None
    assert (found.tpm.ak_certificate, found.certificates) == (b"ak", (b"one", b"two"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([], "no quote of a bank other than SHA-1"),
        ([quote(SHA1, 20)], "no quote of a bank other than SHA-1"),
        ([quote(SHA256, 32)] * 2, "two quotes of one bank"),
        ([quote(0x12, 32)], "hash algorithm 0x0012"),
        ([quote(SHA256, 32, registers=(1, 1))], "PCR 1 twice"),
        ([quote(SHA256, 32), field(8, b"report")], "import the report itself"),
        ([quote(SHA256, 32), field(9, b"quote")], "import the report itself"),
        ([quote(SHA256, 32), field(10, b"")], "unknown field 10"),
        ([quote(SHA256, 32), field(3, b"log"), field(3, b"log")], "field 3 twice"),
        ([quote(SHA256, 32), field(3, 7)], "a number as field 3"),
        ([field(2, field(3, field(1, b"")))], "no single number as field 1"),
        ([b"\x19" + bytes(8)], "wire type 1"),
        ([b"\x1a\x7f"], "ends before the 127 bytes"),
        ([b"\x1a" + b"\xff" * 10], "no number of up to 10 bytes"),
        ([b"\x1a"], "no number of up to"),
        ([field(4, b"")] * MAX_FIELDS, "more than 4096 fields"),
    ],
)
def test_what_is_not_right_is_refused(fields: list[bytes], reason: str) -> None:
    with pytest.raises(EvidenceImportError, match=reason):
        import_evidence(attestation(*fields))


def test_registers_of_another_size_are_refused() -> None:
    with pytest.raises(KeyturnError, match=r"tpm.pcrs.sha256.0 is not 32 bytes"):
        import_evidence(attestation(quote(SHA256, 20)))


def test_every_truncation_of_real_evidence_is_refused() -> None:
    """The last field is the instance's name, so every cut but the one before it is inside of a field."""
    data = vector("tpm-quote-pairs/go-tpm-tools/gce-cos-85-no-nonce.pb").read_bytes()
    whole = import_evidence(data)
    for size in range(0, len(data), 97):
        try:
            found = import_evidence(data[:size])
        except KeyturnError:
            continue
        assert found.tpm != whole.tpm or found.logs != whole.logs


@given(st.binary(max_size=60))
def test_any_bytes_give_fields_or_a_refusal(data: bytes) -> None:
    with suppress(EvidenceImportError):
        Message(data, what="test")
