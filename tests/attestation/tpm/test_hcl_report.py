"""HCL reports: each field of the layout, real reports, and arbitrary bytes."""

from __future__ import annotations

import hashlib
import json
import struct
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.tpm.ak_public import AkPublicError, standard_ak_public
from attestation.tpm.hcl_report import HclReportType, parse_hcl_report
from attestation.tpm_signature import public_key
from attestation.tpm_structures import parse_public
from attestation.x509_chain import build_chain, load_pem_certificates
from measurements.errors import FormatError
from measurements.sev.report import parse_report
from tests.support.vectors import vector

SNP, TDX = "attestation/snp/azure-hcl-report.bin", "attestation/tpm/azure-tdx-hcl-report.bin"
KEY: dict[str, Any] = {
    "kid": "HCLAkPub",
    "key_ops": ["sign"],
    "kty": "RSA",
    "e": "AQAB",
    "n": "w" * 342,
}


def hcl(claims: object = None, *, kind: int = 2, text: bytes | None = None, **fields: int) -> bytes:
    """A report; ``fields`` replace numbers of its headers."""
    data = text if text is not None else json.dumps(claims or {"keys": [KEY]}).encode()
    end = 32 + 1184 + 20 + len(data)
    values = {"version": 2, "size": end, "request": 2, "status": 0, "reserved": 0, "data_version": 1}
    values |= {"total": 20 + len(data), "kind": kind, "hash": 1, "length": len(data)} | fields
    names = ("version", "size", "request", "status", "reserved")
    header = b"HCLA" + b"".join(struct.pack("<I", values[name]) for name in names) + bytes(8)
    names = ("total", "data_version", "kind", "hash", "length")
    request = b"".join(struct.pack("<I", values[name]) for name in names)
    return header + bytes(1184) + request + data + bytes(16)


def keys(**changes: Any) -> dict[str, Any]:
    return {"keys": [{name: value for name, value in (KEY | changes).items() if value is not None}]}


@pytest.mark.parametrize(
    ("name", "kind", "version", "machine"),
    [
        (SNP, HclReportType.SNP, 1, "911B0EF8-9DBA-48B0-B275-4E4DF2D39252"),
        (TDX, HclReportType.TDX, 2, "6332533D-5649-4D02-8AA7-8F64B7C3EE21"),
    ],
)
def test_real_reports(name: str, kind: HclReportType, version: int, machine: str) -> None:
    report = parse_hcl_report(vector(name).read_bytes())
    assert (report.kind, report.version, report.exponent) == (kind, version, 65537)
    assert report.configuration["vmUniqueId"] == machine
    assert report.configuration["secure-boot"] == "true"
    assert report.report_data[:32] == hashlib.sha256(report.runtime_data).digest()
    key = public_key(parse_public(report.ak_public))
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    if kind is HclReportType.SNP:
        assert parse_report(report.tee_report).report_data == report.report_data
    else:
        assert report.tee_report[128:192] == report.report_data


def test_a_generated_report_is_read() -> None:
    report = parse_hcl_report(hcl())
    assert report.modulus.hex().startswith("c30c30")
    assert report.configuration == {}
    assert parse_hcl_report(hcl(kind=4)).tee_report == bytes(1024)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"HCLA", "4 bytes"),
        (hcl() + bytes(16 << 10), "bytes"),
        (b"HCLB" + hcl()[4:], "does not start"),
        (hcl(version=0), "does not start"),
        (hcl(version=3), "does not start"),
        (hcl(request=1), "request type"),
        (hcl(status=1), "request type"),
        (hcl(reserved=1), "request type"),
        (hcl(data_version=2), "request data"),
        (hcl(kind=1), "request data"),
        (hcl(kind=3), "request data"),
        (hcl(hash=2), "request data"),
        (hcl(size=1), "sizes"),
        (hcl(total=20), "sizes"),
        (hcl(length=1 << 31), "sizes"),
        (hcl() + b"\1", "not zero"),
        (hcl(kind=4)[: 32 + 1183] + b"\1" + hcl(kind=4)[32 + 1184 :], "TDREPORT"),
        (hcl(text=b"{"), "JSON"),
        (hcl(text=b"\xff{}"), "JSON"),
        (hcl(text=b'{"keys":[],"keys":[]}'), ""),
        (hcl(text=b"[" * 2000), ""),
        (hcl([1]), "no object"),
        (hcl({"keys": {}}), "without keys"),
        (hcl({"keys": []}), "0 keys"),
        (hcl({"keys": [KEY, KEY]}), "2 keys"),
        (hcl(keys(kid="HCLEkPub")), "0 keys"),
        (hcl(keys(kty="EC")), "not RSA"),
        (hcl(keys(key_ops=["sign", "encrypt"])), "not RSA"),
        (hcl(keys(key_ops=None)), "not RSA"),
        (hcl(keys(n="")), "without a modulus"),
        (hcl(keys(n="AAAA")), "without a modulus"),
        (hcl(keys(n=None)), "no text"),
        (hcl(keys(n="w" * 1025)), "no text"),
        (hcl(keys(n="w=")), "base64url"),
        (hcl(keys(n="w+w/")), "encoding"),
        (hcl(keys(n="wx")), "encoding"),
        (hcl(keys(e="")), "without a modulus"),
        (hcl(keys(e=65537)), "no text"),
    ],
)
def test_everything_else_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_hcl_report(data)
    assert reason in caught.value.reason


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=8))
def test_changed_reports_give_only_format_errors(at: int, value: bytes) -> None:
    data = bytearray(hcl())
    at %= len(data)
    data[at : at + len(value)] = value
    with suppress(FormatError):
        assert parse_hcl_report(bytes(data)).runtime_data in data


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_bare_keys_get_the_standard_public_area(curve: ec.EllipticCurve) -> None:
    numbers = ec.generate_private_key(curve).public_key().public_numbers()
    public = parse_public(standard_ak_public(numbers))
    assert public_key(public).public_numbers() == numbers
    assert public.attributes == 0x50472


@pytest.mark.parametrize(
    "numbers",
    [
        ec.generate_private_key(ec.SECP521R1()).public_key().public_numbers(),
        rsa.RSAPublicNumbers(3, 1 << 2047 | 1),
        rsa.RSAPublicNumbers(65537, 1 << 1023 | 1),
    ],
)
def test_keys_that_no_attestation_key_has(numbers: ec.EllipticCurvePublicNumbers) -> None:
    with pytest.raises(AkPublicError):
        standard_ak_public(numbers)


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        # As go-tpm-tools (server/ca-certs/gcp_ek_ak_ca_root.crt) has it.
        ("tpm/gcp-root-ca.pem", "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2"),
        # As flashbots/attested-tls has it.
        (
            "attested-tls/azure-virtual-tpm-root-2023.pem",
            "e6c596b17f8ffefba5c300f714cfb1260c6028704ecf7becc4ab5018efb00e95",
        ),
    ],
)
def test_roots_of_clouds_can_be_pinned_in_a_policy(name: str, fingerprint: str) -> None:
    (root,) = load_pem_certificates(vector(f"attestation/{name}").read_bytes())
    chain = build_chain(root, (), roots=frozenset({bytes.fromhex(fingerprint)}), what="the root")
    assert chain.fingerprint.hex() == fingerprint
