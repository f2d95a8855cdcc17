"""TPM structures: real quotes of two clouds, and bytes that are none."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.tpm_signature import TpmSignatureError, public_key, verify_signature
from attestation.tpm_structures import (
    Attributes,
    EccParameters,
    HashAlgorithm,
    Public,
    RsaParameters,
    Scheme,
    TpmStructureError,
    parse_public,
    parse_quote,
    parse_signature,
)
from measurements.errors import FormatError
from tests.support.paper_tpm import BOTH_BANKS, Authority, PaperTpm, attest, sized
from tests.support.vectors import vector

TPM = PaperTpm(Authority("root"))
QUOTE = attest(TPM.qualified_name, b"\x01" * 32, b"\x02" * 32, selections=BOTH_BANKS)
RSA_PUBLIC = (
    struct.pack(">HHIH", 0x0001, 0x000B, 0x00050472, 0)
    + struct.pack(">HHHHI", 0x0010, 0x0016, 0x000B, 2048, 0)
    + sized((TPM.ek.public_key().public_numbers().n).to_bytes(256, "big"))
)
RSA_SIGNATURE = struct.pack(">HH", 0x0016, 0x000B) + sized(bytes(256))


class CloudQuote(NamedTuple):
    """One quote of a cloud's TPM, with its registers."""

    quote: bytes
    signature: bytes
    registers: dict[int, bytes]


def protobuf_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protobuf message: numbers and byte strings."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            assert tag & 7 == 2
            size = varint()
            yield tag >> 3, data[at : at + size]
            at += size


def number(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value


def octets(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def google_quotes(data: bytes) -> tuple[bytes, list[CloudQuote]]:
    """AK and quotes of go-tpm-tools' ``Attestation`` (field 1: AK; 2: quote {1: quote, 2: signature, 3: PCRs
    {2: {1: number, 2: value}}}).
    """
    key, quotes = b"", []
    for field, value in protobuf_fields(data):
        if field == 1:
            key = octets(value)
        if field != 2:
            continue
        parts = dict(protobuf_fields(octets(value)))
        registers = {}
        for inner, entry in protobuf_fields(octets(parts[3])):
            if inner == 2:
                pair = dict(protobuf_fields(octets(entry)))
                registers[number(pair.get(1, 0))] = octets(pair[2])
        quotes.append(CloudQuote(octets(parts[1]), octets(parts[2]), registers))
    return key, quotes


@pytest.mark.parametrize(
    ("name", "extra"), [("gce-cos-85-no-nonce", b""), ("gce-cos-85-nonce9009", b"\x90\x09")]
)
def test_quotes_of_google_cloud_are_read_and_verified(name: str, extra: bytes) -> None:
    data = vector(f"tpm-quote-pairs/go-tpm-tools/{name}.pb").read_bytes()
    key, quotes = google_quotes(data)
    public = parse_public(key)
    banks = set()
    for made in quotes:
        verify_signature(public, parse_signature(made.signature), made.quote)
        quote = parse_quote(made.quote)
        assert quote.extra_data == extra
        (selection,) = quote.selections
        banks.add(selection.algorithm)
        assert selection.pcrs == tuple(sorted(made.registers))
        values = b"".join(value for _, value in sorted(made.registers.items()))
        assert public.scheme_hash is not None
        assert public.scheme_hash.digest(values) == quote.digest
        for position in range(len(made.quote)):
            changed = bytearray(made.quote)
            changed[position] ^= 1
            with pytest.raises(TpmSignatureError):
                verify_signature(public, parse_signature(made.signature), bytes(changed))
    assert banks == {HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384}


def test_a_quote_signed_with_sha1_is_read_and_refused() -> None:
    vm = json.loads(vector("tpm-quote-pairs/go-attestation/windows_gcp_shielded_vm.json").read_bytes())
    public = parse_public(base64.b64decode(vm["AK"]["Public"]))
    quote = parse_quote(base64.b64decode(vm["Quote"]["Quote"]))
    assert Attributes.RESTRICTED | Attributes.SIGN | Attributes.FIXED_TPM in public.attributes
    (selection,) = quote.selections
    assert (selection.algorithm, selection.pcrs) == (HashAlgorithm.SHA1, tuple(range(24)))
    registers = {pcr["Index"]: base64.b64decode(pcr["Digest"]) for pcr in vm["Log"]["PCRs"]}
    values = b"".join(value for _, value in sorted(registers.items()))
    assert quote.digest == hashlib.new("sha1", values).digest()  # noqa: S324
    signature = parse_signature(base64.b64decode(vm["Quote"]["Signature"]))
    with pytest.raises(TpmSignatureError, match="sha1"):
        verify_signature(public, signature, base64.b64decode(vm["Quote"]["Quote"]))
    with pytest.raises(TpmStructureError, match="no quote"):
        parse_quote(base64.b64decode(vm["AK"]["CreateAttestation"]))


def test_the_name_of_a_key_is_the_one_that_its_creation_certifies() -> None:
    vm = json.loads(vector("tpm-quote-pairs/go-attestation/windows_gcp_shielded_vm.json").read_bytes())
    name = parse_public(base64.b64decode(vm["AK"]["Public"])).name
    assert name in base64.b64decode(vm["AK"]["CreateAttestation"])


def test_a_quote_of_trustee_is_read() -> None:
    evidence = json.loads(vector("attestation/tpm/trustee-tpm_evidence.json").read_bytes())["tpm_quote"]
    quote = parse_quote(base64.b64decode(evidence["message"]))
    assert parse_signature(base64.b64decode(evidence["signature"])).scheme is Scheme.RSASSA
    (selection,) = quote.selections
    assert selection.algorithm is HashAlgorithm.SHA256


def test_a_quote_is_read_field_by_field() -> None:
    quote = parse_quote(QUOTE)
    assert (quote.qualified_signer, quote.extra_data, quote.digest) == (
        TPM.qualified_name,
        b"\x01" * 32,
        b"\x02" * 32,
    )
    assert (quote.clock, quote.reset_count, quote.restart_count, quote.firmware_version) == (1000, 1, 0, 7)
    assert [(s.algorithm.bank, s.pcrs) for s in quote.selections] == [
        ("sha256", tuple(range(15))),
        ("sha384", tuple(range(15))),
    ]


def test_keys_are_read() -> None:
    ecc = parse_public(TPM.ak_public)
    assert isinstance(ecc.parameters, EccParameters)
    assert public_key(ecc) == TPM.ak.public_key()
    assert ecc.name == TPM.ak_name
    rsa = parse_public(RSA_PUBLIC)
    assert isinstance(rsa.parameters, RsaParameters)
    assert (rsa.scheme, rsa.parameters.exponent) == (Scheme.RSAPSS, 65537)
    assert public_key(rsa) == TPM.ek.public_key()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    "data",
    [
        patched(RSA_PUBLIC, 0, b"\x00\x08"),
        patched(RSA_PUBLIC, 2, b"\x00\x12"),
        patched(RSA_PUBLIC, 4, b"\x80"),
        patched(RSA_PUBLIC, 8, b"\xff\xff"),
        patched(RSA_PUBLIC, 12, b"\x99\x99"),
        patched(RSA_PUBLIC, 16, b"\x10\x00"),
        patched(RSA_PUBLIC, 24, b"\x00"),
        patched(TPM.ak_public, 16, b"\x00\x20"),
        patched(TPM.ak_public, 18, b"\x00\x20"),
        patched(TPM.ak_public, 20, b"\x00\x21"),
        RSA_PUBLIC + b"\0",
        bytes(5000),
    ],
)
def test_public_areas_of_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(TpmStructureError):
        parse_public(data)


@pytest.mark.parametrize("data", [RSA_PUBLIC, TPM.ak_public])
def test_public_areas_cut_short_are_refused(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(TpmStructureError):
            parse_public(data[:size])


@pytest.mark.parametrize(
    "data",
    [
        patched(QUOTE, 0, b"\x00"),
        patched(QUOTE, 5, b"\x17"),
        patched(QUOTE, 6 + 36 + 34 + 16, b"\x02"),
        attest(b"", b"", b"", selections=[(0x000B, b"\x01")] * 5),
        attest(b"", b"", b"", selections=[(0x0099, b"\x01")]),
        attest(b"", b"", b"", selections=[(0x000B, b"\x01" * 5)]),
        QUOTE + b"\0",
        *(QUOTE[:size] for size in range(len(QUOTE))),
    ],
)
def test_attestations_that_are_no_quote_are_refused(data: bytes) -> None:
    with pytest.raises(TpmStructureError):
        parse_quote(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack(">HH", 0x0010, 0x000B),
        struct.pack(">HH", 0x0015, 0x000B) + sized(b"x"),
        struct.pack(">HH", 0x0099, 0x000B) + sized(b"x"),
        RSA_SIGNATURE[:-1],
        RSA_SIGNATURE + b"\0",
        TPM.sign(b"x") + b"\0",
    ],
)
def test_signatures_of_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(TpmStructureError):
        parse_signature(data)


def test_a_signature_of_another_scheme_or_key_is_refused() -> None:
    ecc, rsa = parse_public(TPM.ak_public), parse_public(RSA_PUBLIC)
    signed = parse_signature(TPM.sign(b"message"))
    verify_signature(ecc, signed, b"message")
    attempts: list[tuple[Public, bytes]] = [
        (ecc, RSA_SIGNATURE),
        (rsa, TPM.sign(b"message")),
        (rsa, RSA_SIGNATURE),
        (parse_public(PaperTpm(Authority("other")).ak_public), TPM.sign(b"message")),
    ]
    for public, signature in attempts:
        with pytest.raises(TpmSignatureError):
            verify_signature(public, parse_signature(signature), b"message")


def test_keys_that_are_none_are_refused() -> None:
    off_curve = patched(TPM.ak_public, len(TPM.ak_public) - 1, bytes([TPM.ak_public[-1] ^ 1]))
    small = struct.pack(">HHIH", 1, 0x0B, 0x50472, 0) + struct.pack(">HHHHI", 0x10, 0x14, 0x0B, 1024, 0)
    short = small + sized(b"\xff" * 128)
    even_exponent = patched(RSA_PUBLIC, 18, b"\x00\x00\x00\x04")
    for data in (off_curve, short, even_exponent):
        with pytest.raises(TpmSignatureError):
            public_key(parse_public(data))


@given(st.binary(max_size=200), st.sampled_from([b"", QUOTE[:40], RSA_PUBLIC[:20], RSA_SIGNATURE[:4]]))
def test_arbitrary_bytes_raise_format_errors_only(data: bytes, head: bytes) -> None:
    for parse in (parse_public, parse_quote, parse_signature):
        try:
            parse(head + data)
        except FormatError:
            continue
